#include "bench/load_client.h"

#include <sys/resource.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <chrono>
#include <memory>
#include <thread>
#include <utility>

#include "base/clock.h"
#include "base/strings.h"
#include "bench/load_connection.h"

namespace slipstream {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

constexpr size_t kSessionsPerThread = 64;  // fewer leave a thread idle
constexpr int64_t kReservedFiles = 64;     // of what is no connection of the load
constexpr auto kPoll = std::chrono::milliseconds(100);
constexpr auto kPrepareLimit = std::chrono::seconds(12);

double thread_cpu_us() {
  rusage usage{};
  ::getrusage(RUSAGE_THREAD, &usage);
  const auto us = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) * 1e6 + static_cast<double>(time.tv_usec);
  };
  return us(usage.ru_utime) + us(usage.ru_stime);
}

// Raises the limit of open files as far as the system lets us; how many there may be then.
int64_t raise_file_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return INT64_MAX;
  if (limit.rlim_cur < limit.rlim_max) {
    const rlimit raised{limit.rlim_max, limit.rlim_max};
    if (::setrlimit(RLIMIT_NOFILE, &raised) == 0) limit = raised;
  }
  return limit.rlim_cur == RLIM_INFINITY ? INT64_MAX : static_cast<int64_t>(limit.rlim_cur);
}

Status check_file_limit(int64_t num_connections) {
  const int64_t limit = raise_file_limit();
  if (num_connections <= limit - kReservedFiles) return {};
  return failed(str("the load needs ", num_connections, " connections, and this process may open ",
                    limit, " files; raise `ulimit -n` or give a lower --max-concurrency"));
}

// One thread: a loop and its places.
class LoadThread {
 public:
  LoadThread(LoadShared& shared, size_t num_places) : shared_(shared), tick_(loop_.io) {
    for (size_t i = 0; i < num_places; ++i) {
      places_.push_back(std::make_unique<LoadConnection>(shared_, loop_));
    }
  }

  void start() {
    thread_ = std::thread([this] {
      arm_tick();
      loop_.io.run();
      cpu_us_ = thread_cpu_us();
    });
  }
  void join() { thread_.join(); }

  void prepare() {
    for (const auto& place : places_) place->prepare();
  }
  void post_go() {
    asio::post(loop_.io, [this] { go_from(0); });
  }
  void post_abort() {
    asio::post(loop_.io, [this] {
      for (const auto& place : places_) place->abort();
      tick_.cancel();
    });
  }

  LoadLoop& loop() { return loop_; }
  double cpu_us() const { return cpu_us_; }  // once joined
  bool is_done() const { return is_done_; }

 private:
  // One by one, with the loop turning between: answers to the first requests are read while the
  // last are sent.
  void go_from(size_t place_idx) {
    if (place_idx == places_.size()) return;
    places_[place_idx]->go();
    asio::post(loop_.io, [this, place_idx] { go_from(place_idx + 1); });
  }
  void arm_tick() {
    tick_.expires_after(kPoll);
    tick_.async_wait([this](const error_code& ec) {
      if (ec) return;
      const int64_t now_ns = steady_now_ns();
      for (const auto& place : places_) place->check_timeout(now_ns);
      if (loop_.num_running > 0) {
        arm_tick();
      } else {
        is_done_ = true;
      }
    });
  }

  LoadShared& shared_;
  LoadLoop loop_;
  asio::steady_timer tick_;
  std::vector<std::unique_ptr<LoadConnection>> places_;
  std::atomic<bool> is_done_{false};
  double cpu_us_ = 0.0;
  std::thread thread_;
};

class Load {
 public:
  Load(const HttpTarget& target, const std::vector<LoadSession>& sessions,
       const LoadOptions& options, const LoadHooks& hooks)
      : shared_(target, options, sessions), hooks_(hooks) {}

  Result<LoadResult> run();

 private:
  Status set_up();
  Status hold_idle();
  Status start_threads();
  void wait_prepared();
  void watch();
  void abort();
  LoadState state() const;
  LoadResult take_result();

  LoadShared shared_;
  const LoadHooks& hooks_;
  asio::io_context idle_io_{1};
  std::vector<tcp::socket> idle_;
  std::vector<std::unique_ptr<LoadThread>> threads_;
  bool interrupted_ = false;
};

Status Load::set_up() {
  error_code ec;
  const asio::ip::address address = asio::ip::make_address(shared_.target.address, ec);
  if (ec) return failed(str("no address of ", shared_.target.host, " is known"));
  shared_.endpoint = {address, static_cast<uint16_t>(shared_.target.port)};
  shared_.head = str("POST ", shared_.target.path_of(shared_.options.endpoint),
                     " HTTP/1.1\r\nhost: ", shared_.target.authority(),
                     "\r\ncontent-type: application/json\r\nconnection: close\r\n");
  if (!shared_.target.api_key.empty()) {
    shared_.head += "authorization: Bearer " + shared_.target.api_key + "\r\n";
  }
  shared_.head += "content-length: ";
  size_t num_streams = 0;
  for (const LoadSession& session : shared_.sessions) {
    shared_.first_stream.push_back(num_streams);
    num_streams += static_cast<size_t>(session.num_turns);
  }
  shared_.streams.resize(num_streams);
  return {};
}

Status Load::hold_idle() {
  for (int64_t i = 0; i < shared_.options.num_idle_connections; ++i) {
    tcp::socket socket(idle_io_);
    error_code ec;
    socket.connect(shared_.endpoint, ec);
    if (ec) return failed(str("idle connection ", i, ": ", ec.message()));
    idle_.push_back(std::move(socket));
  }
  return {};
}

Status Load::start_threads() {
  const LoadOptions& options = shared_.options;
  const size_t num_sessions = shared_.sessions.size();
  const size_t num_places =
      options.max_concurrency > 0
          ? std::min(num_sessions, static_cast<size_t>(options.max_concurrency))
          : num_sessions;
  // A load that arrives over time holds fewer connections than it has places.
  const auto at_once = static_cast<size_t>(
      std::count_if(shared_.sessions.begin(), shared_.sessions.end(),
                    [](const LoadSession& session) { return session.send_at_ns <= 0; }));
  SLIPSTREAM_RETURN_IF_ERROR(check_file_limit(static_cast<int64_t>(std::min(num_places, at_once)) +
                                              options.num_idle_connections));
  size_t num_threads = options.num_threads > 0
                           ? static_cast<size_t>(options.num_threads)
                           : std::min<size_t>(std::max(1u, std::thread::hardware_concurrency()),
                                              num_places / kSessionsPerThread + 1);
  num_threads = std::clamp<size_t>(num_threads, 1, std::max<size_t>(1, num_places));
  for (size_t i = 0; i < num_threads; ++i) {
    const size_t share = num_places / num_threads + (i < num_places % num_threads ? 1 : 0);
    threads_.push_back(std::make_unique<LoadThread>(shared_, share));
    threads_.back()->prepare();
  }
  for (const auto& thread : threads_) thread->start();
  return {};
}

void Load::wait_prepared() {
  const auto give_up = std::chrono::steady_clock::now() + kPrepareLimit;
  while (shared_.num_preparing > 0 && std::chrono::steady_clock::now() < give_up) {
    if (hooks_.should_stop && hooks_.should_stop()) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

void Load::abort() {
  shared_.stop = true;
  for (const auto& thread : threads_) thread->post_abort();
}

LoadState Load::state() const {
  LoadState state;
  state.num_sent = shared_.num_sent;
  state.num_done = shared_.num_done;
  state.num_failed = shared_.num_failed;
  for (const auto& thread : threads_) state.num_chunks += thread->loop().num_chunks;
  return state;
}

void Load::watch() {
  const auto all_done = [this] {
    return std::all_of(threads_.begin(), threads_.end(),
                       [](const auto& thread) { return thread->is_done(); });
  };
  while (!all_done()) {
    std::this_thread::sleep_for(kPoll / 2);
    if (hooks_.on_progress) hooks_.on_progress(state());
    interrupted_ = hooks_.should_stop && hooks_.should_stop();
    if (interrupted_ || shared_.server_lost) return abort();
  }
}

LoadResult Load::take_result() {
  LoadResult result;
  for (const auto& thread : threads_) {
    thread->join();
    result.client_cpu_us += thread->cpu_us();
    result.lag.merge(thread->loop().lag);
    result.num_chunks += thread->loop().num_chunks;
  }
  result.num_threads = static_cast<int>(threads_.size());
  for (StreamTimes& stream : shared_.streams) {
    if (stream.ended_ns != 0) continue;
    stream.error_kind = "not_sent";
    stream.error = "an earlier turn failed, or the run ended first";
  }
  result.streams = std::move(shared_.streams);
  result.interrupted = interrupted_;
  result.server_lost = shared_.server_lost;
  return result;
}

Result<LoadResult> Load::run() {
  SLIPSTREAM_RETURN_IF_ERROR(set_up());
  SLIPSTREAM_RETURN_IF_ERROR(hold_idle());
  SLIPSTREAM_RETURN_IF_ERROR(start_threads());
  wait_prepared();
  shared_.start_ns = steady_now_ns();
  for (const auto& thread : threads_) thread->post_go();
  watch();
  return take_result();
}

}  // namespace

Result<LoadResult> run_load(const HttpTarget& target, const std::vector<LoadSession>& sessions,
                            const LoadOptions& options, const LoadHooks& hooks) {
  return Load(target, sessions, options, hooks).run();
}

}  // namespace slipstream
