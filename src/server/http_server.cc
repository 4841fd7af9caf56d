#include "server/http_server.h"

#include <sys/resource.h>
#include <csignal>

#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <list>
#include <map>
#include <new>
#include <random>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/log.h"
#include "base/strings.h"
#include "server/http_connection.h"

namespace slipstream {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

constexpr int kBacklog = 4096;
constexpr int kMaxAcceptsPerWake = 64;
constexpr auto kTick = std::chrono::milliseconds(100);
constexpr int64_t kNsPerMs = 1'000'000;
constexpr int64_t kReservedFiles = 64;  // model, ledger, logs: descriptors that are no connection

// What after_ms() was given, by deadline.
class TimerQueue {
 public:
  uint64_t add(int64_t deadline_ns, std::function<void()> work) {
    const uint64_t id = ++last_id_;
    by_deadline_.emplace(std::pair(deadline_ns, id), std::move(work));
    deadlines_.emplace(id, deadline_ns);
    return id;
  }
  void cancel(uint64_t id) {
    const auto found = deadlines_.find(id);
    if (found == deadlines_.end()) return;
    by_deadline_.erase({found->second, id});
    deadlines_.erase(found);
  }
  void run_due(int64_t now_ns) {
    while (!by_deadline_.empty() && by_deadline_.begin()->first.first <= now_ns) {
      const auto first = by_deadline_.begin();
      const std::function<void()> work = std::move(first->second);
      deadlines_.erase(first->first.second);
      by_deadline_.erase(first);
      work();
    }
  }

 private:
  uint64_t last_id_ = 0;
  std::map<std::pair<int64_t, uint64_t>, std::function<void()>> by_deadline_;
  std::unordered_map<uint64_t, int64_t> deadlines_;
};

// Raises the limit of open files as far as the system lets us; how many connections that allows.
int64_t raise_file_limit(int64_t wanted) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return wanted;
  if (limit.rlim_cur < limit.rlim_max) {
    const rlimit raised{limit.rlim_max, limit.rlim_max};
    if (::setrlimit(RLIMIT_NOFILE, &raised) == 0) limit = raised;
  }
  if (limit.rlim_cur == RLIM_INFINITY) return wanted;
  const auto num_files = static_cast<int64_t>(limit.rlim_cur);
  return std::min(wanted, std::max<int64_t>(num_files - kReservedFiles, num_files / 2));
}

class AsioHttpServer final : public HttpServer {
 public:
  AsioHttpServer(HttpServerOptions options, HttpApp& app)
      : shared_(std::move(options), app, std::random_device{}() * uint64_t{0x9E3779B97F4A7C15}),
        acceptor_(shared_.io),
        tick_(shared_.io),
        signals_(shared_.io) {}
  ~AsioHttpServer() override;

  Status listen();

  int port() const override { return port_; }
  int64_t max_connections() const override { return shared_.options.max_connections; }
  int64_t num_connections() const override { return shared_.num_connections; }
  bool all_answered() const override { return shared_.num_undone == 0 && shared_.num_sending == 0; }
  void watch_signals(std::function<void()> on_signal) override;
  void shut_down_responses() override;
  void close_connections() override;
  void run() override;
  void stop() override { shared_.io.stop(); }

  void post(std::function<void()> work) override { asio::post(shared_.io, std::move(work)); }
  uint64_t after_ms(int64_t delay_ms, std::function<void()> work) override {
    return timers_.add(steady_now_ns() + delay_ms * kNsPerMs, std::move(work));
  }
  void cancel_timer(uint64_t timer_id) override { timers_.cancel(timer_id); }

 private:
  Result<tcp::endpoint> resolve();
  void arm_accept();
  void accept_waiting();
  void accept_or_wait();
  bool has_room() const;
  const std::list<std::shared_ptr<HttpConnection>>& idle() const {
    return shared_.connections[static_cast<size_t>(Wait::kIdle)];
  }
  void arm_signals();
  void arm_tick();
  void on_tick();
  std::vector<std::shared_ptr<HttpConnection>> all_connections() const;

  HttpShared shared_;
  tcp::acceptor acceptor_;
  asio::steady_timer tick_;
  asio::signal_set signals_;
  TimerQueue timers_;
  std::function<void()> on_signal_;
  int port_ = 0;
  bool accept_armed_ = false;
  bool tick_armed_ = false;
  bool out_of_files_ = false;  // said once per episode
};

AsioHttpServer::~AsioHttpServer() {
  for (const auto& connection : all_connections()) connection->close(CloseReason::kShutdown);
}

void AsioHttpServer::close_connections() {
  error_code ec;
  acceptor_.close(ec);
  for (const auto& connection : all_connections()) connection->close(CloseReason::kShutdown);
  shared_.io.restart();
  shared_.io.poll();
}

std::vector<std::shared_ptr<HttpConnection>> AsioHttpServer::all_connections() const {
  std::vector<std::shared_ptr<HttpConnection>> all;
  for (const auto& list : shared_.connections) all.insert(all.end(), list.begin(), list.end());
  return all;
}

Result<tcp::endpoint> AsioHttpServer::resolve() {
  // The resolver would take it for every address there is.
  if (shared_.options.host.empty()) return bad_usage("--host is empty; give an address");
  const auto port = static_cast<uint16_t>(shared_.options.port);
  error_code ec;
  const asio::ip::address address = asio::ip::make_address(shared_.options.host, ec);
  if (!ec) return tcp::endpoint(address, port);
  tcp::resolver resolver(shared_.io);
  const auto found = resolver.resolve(shared_.options.host, std::to_string(port), ec);
  if (ec || found.empty()) {
    return bad_usage(str("--host ", quote(shared_.options.host),
                         ": not an address of this machine (", ec.message(), ")"));
  }
  return found.begin()->endpoint();
}

Status AsioHttpServer::listen() {
  SLIPSTREAM_ASSIGN_OR_RETURN(const tcp::endpoint endpoint, resolve());
  const auto refused = [&](const error_code& ec) {
    const bool busy = ec == asio::error::address_in_use;
    return failed(str("cannot listen on ", shared_.options.host, ":", shared_.options.port, ": ",
                      ec.message(),
                      busy ? "; another server runs there, give another --port (0: a free one)"
                           : "; check --host and --port"));
  };
  error_code ec;
  acceptor_.open(endpoint.protocol(), ec);
  if (ec) return refused(ec);
  acceptor_.set_option(tcp::acceptor::reuse_address(true), ec);
  if (!ec) acceptor_.bind(endpoint, ec);
  if (!ec) acceptor_.listen(kBacklog, ec);
  if (!ec) acceptor_.non_blocking(true, ec);
  if (ec) return refused(ec);
  port_ = acceptor_.local_endpoint(ec).port();

  const int64_t wanted = shared_.options.max_connections;
  shared_.options.max_connections = raise_file_limit(wanted);
  if (shared_.options.max_connections < wanted) {
    log_warn("http", "max_connections=", shared_.options.max_connections, " instead of ", wanted,
             ": too few files may be open; raise `ulimit -n`");
  }
  return {};
}

void AsioHttpServer::run() {
  arm_accept();
  arm_tick();
  shared_.io.run();
}

void AsioHttpServer::arm_accept() {
  if (accept_armed_) return;
  acceptor_.async_wait(tcp::acceptor::wait_read, [this](const error_code& ec) {
    accept_armed_ = false;
    if (!ec) accept_or_wait();
  });
  accept_armed_ = true;  // now that nothing has failed
}

// At the limit the connection that idled longest makes room; with none idle, newcomers wait in
// the backlog until the next tick. Who came a moment ago and has sent a request does not idle.
bool AsioHttpServer::has_room() const {
  if (shared_.num_connections < shared_.options.max_connections) return true;
  return !idle().empty() && !idle().front()->has_unread();
}

void AsioHttpServer::accept_waiting() {
  for (int turn = 0; turn < kMaxAcceptsPerWake; ++turn) {
    if (!has_room()) return;  // the tick looks again
    error_code ec;
    tcp::socket socket(shared_.io);
    acceptor_.accept(socket, ec);
    if (ec == asio::error::would_block) break;
    if (ec == asio::error::connection_aborted || ec == asio::error::interrupted) continue;
    if (ec) {
      if (!out_of_files_) log_warn("http", "cannot accept connections: ", ec.message());
      out_of_files_ = true;
      return;  // the tick tries again; waiting for readiness would spin
    }
    out_of_files_ = false;
    socket.non_blocking(true, ec);
    if (!ec) socket.set_option(tcp::no_delay(true), ec);
    if (!ec) socket.set_option(tcp::socket::keep_alive(true), ec);
    if (ec) continue;  // it left already
    if (shared_.num_connections >= shared_.options.max_connections) {
      const std::shared_ptr<HttpConnection> longest_idle = idle().front();
      longest_idle->close(CloseReason::kClientGone);
    }
    std::make_shared<HttpConnection>(shared_, std::move(socket))->start();
  }
  arm_accept();
}

void AsioHttpServer::accept_or_wait() {
  try {
    accept_waiting();
  } catch (const std::bad_alloc&) {
    log_error("http", "a client is turned away: memory ran out");  // the tick looks again
  }
}

void AsioHttpServer::watch_signals(std::function<void()> on_signal) {
  on_signal_ = std::move(on_signal);
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGHUP, SIG_IGN);
  error_code ec;
  signals_.add(SIGINT, ec);
  signals_.add(SIGTERM, ec);
  arm_signals();
}

void AsioHttpServer::arm_signals() {
  signals_.async_wait([this](const error_code& ec, int) {
    if (ec) return;
    arm_signals();
    on_signal_();
  });
}

void AsioHttpServer::shut_down_responses() {
  for (const auto& connection : all_connections()) connection->shut_down_response();
}

void AsioHttpServer::arm_tick() {
  if (tick_armed_) return;
  tick_.expires_after(kTick);
  tick_.async_wait([this](const error_code& ec) {
    tick_armed_ = false;
    if (!ec) on_tick();
  });
  tick_armed_ = true;
}

void AsioHttpServer::on_tick() {
  arm_tick();  // first: whatever fails below, there is another
  const int64_t now_ns = steady_now_ns();
  timers_.run_due(now_ns);
  for (auto& list : shared_.connections) {
    while (!list.empty() && list.front()->deadline_ns() <= now_ns) {
      const std::shared_ptr<HttpConnection> due = list.front();
      due->on_deadline();
    }
  }
  if (!accept_armed_ && acceptor_.is_open()) accept_or_wait();
}

}  // namespace

Result<std::unique_ptr<HttpServer>> HttpServer::create(HttpServerOptions options, HttpApp& app) {
  auto server = std::make_unique<AsioHttpServer>(std::move(options), app);
  SLIPSTREAM_RETURN_IF_ERROR(server->listen());
  return std::unique_ptr<HttpServer>(std::move(server));
}

}  // namespace slipstream
