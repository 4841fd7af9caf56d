#include "bench/load_connection.h"

#include <errno.h>
#include <sys/socket.h>
#include <time.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <chrono>
#include <cstring>
#include <utility>

#include "base/clock.h"
#include "base/strings.h"

namespace slipstream {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

constexpr int64_t kNsPerMs = 1'000'000;
constexpr int64_t kNsPerS = 1'000'000'000;
constexpr int64_t kConnectTimeoutNs = 10 * kNsPerS;
constexpr size_t kMaxErrorBytes = 300;
constexpr int64_t kMaxRefusedInARow = 32;

int64_t realtime_now_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return now.tv_sec * kNsPerS + now.tv_nsec;
}

// How long ago the bytes of this message reached the machine; -1: the kernel does not say.
int64_t age_ns(msghdr& message) {
  for (cmsghdr* part = CMSG_FIRSTHDR(&message); part != nullptr;
       part = CMSG_NXTHDR(&message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_TIMESTAMPNS) continue;
    timespec arrived{};
    std::memcpy(&arrived, CMSG_DATA(part), sizeof(arrived));
    // The wall clock may be set meanwhile: never before now, never a second ago and more.
    return std::clamp<int64_t>(realtime_now_ns() - (arrived.tv_sec * kNsPerS + arrived.tv_nsec), 0,
                               kNsPerS);
  }
  return -1;
}

std::string one_line(std::string text) {
  std::replace_if(text.begin(), text.end(), [](char c) { return c == '\n' || c == '\r'; }, ' ');
  if (text.size() > kMaxErrorBytes) text.resize(kMaxErrorBytes);
  return text;
}

}  // namespace

LoadConnection::LoadConnection(LoadShared& shared, LoadLoop& loop)
    : shared_(shared), loop_(loop), socket_(loop.io), timer_(loop.io) {}

void LoadConnection::prepare() {
  ++loop_.num_running;
  take_session();
  if (phase_ != Phase::kFinished && session().send_at_ns <= 0) {
    ++shared_.num_preparing;
    connect();
  }
}

void LoadConnection::take_session() {
  if (!shared_.stop) session_idx_ = shared_.next_session++;
  if (shared_.stop || session_idx_ >= shared_.sessions.size()) return finish();
  turn_ = 0;
  answers_.clear();
  stream_idx_ = shared_.first_stream[session_idx_];
  body_ = &session().body;
  phase_ = Phase::kIdle;
}

void LoadConnection::go() {
  started_ = true;
  if (phase_ == Phase::kFinished) return;
  if (phase_ == Phase::kConnected) return send();
  // An attempt that failed before the start has its error in the result already.
  if (times().ended_ns != 0) return end_request();
  if (phase_ == Phase::kIdle) wait_due();
}

void LoadConnection::wait_due() {
  const int64_t due_ns = shared_.start_ns + session().send_at_ns;
  if (turn_ > 0 || session().send_at_ns <= 0 || due_ns <= steady_now_ns()) return connect();
  timer_.expires_at(asio::steady_timer::time_point(std::chrono::nanoseconds(due_ns)));
  timer_.async_wait([this, due_ns](const error_code& ec) {
    if (ec || phase_ != Phase::kIdle) return;
    loop_.lag.add(steady_now_ns() - due_ns);
    connect();
  });
}

void LoadConnection::connect() {
  phase_ = Phase::kConnecting;
  attempt_ns_ = steady_now_ns();
  const uint32_t generation = ++generation_;
  socket_.async_connect(shared_.endpoint, [this, generation](const error_code& ec) {
    if (generation != generation_ || phase_ != Phase::kConnecting) return;
    on_connected(ec);
  });
}

void LoadConnection::on_connected(const error_code& ec) {
  if (!started_) --shared_.num_preparing;
  if (ec) {
    if (++shared_.num_refused_in_a_row >= kMaxRefusedInARow) {
      shared_.server_lost = true;
      shared_.stop = true;
    }
    return fail("connect", ec.message());
  }
  shared_.num_refused_in_a_row = 0;
  error_code ignored;
  socket_.set_option(tcp::no_delay(true), ignored);
  socket_.native_non_blocking(true, ignored);
  const int on = 1;
  ::setsockopt(socket_.native_handle(), SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof(on));
  phase_ = Phase::kConnected;
  if (started_) send();
}

void LoadConnection::send() {
  phase_ = Phase::kStreaming;
  reader_.emplace([this](std::string_view line) { on_line(line); });
  done_seen_ = false;
  usage_so_far_ = 0;
  bare_finish_ns_ = 0;
  if (keeps_answer()) answers_.emplace_back();
  out_ = str(shared_.head, body_->size(), "\r\n\r\n");
  out_ += *body_;
  out_begin_ = 0;
  ++shared_.num_sent;
  times().sent_ns = steady_now_ns();
  const uint32_t generation = generation_;
  write_rest();
  if (generation == generation_ && phase_ == Phase::kStreaming) arm_read();
}

void LoadConnection::write_rest() {
  error_code ec;
  while (out_begin_ < out_.size() && !ec) {
    out_begin_ += socket_.write_some(
        asio::const_buffer(out_.data() + out_begin_, out_.size() - out_begin_), ec);
  }
  if (ec == asio::error::would_block) {
    socket_.async_wait(tcp::socket::wait_write, [this, generation = generation_](error_code error) {
      if (!error && generation == generation_ && phase_ == Phase::kStreaming) write_rest();
    });
    return;
  }
  // A server that refused early may have an answer waiting: reading tells.
  out_.clear();
  out_begin_ = 0;
}

void LoadConnection::arm_read() {
  socket_.async_wait(tcp::socket::wait_read, [this, generation = generation_](error_code ec) {
    if (!ec && generation == generation_ && phase_ == Phase::kStreaming) on_readable();
  });
}

// The result of recvmsg(), with arrived_ns_ set.
int64_t LoadConnection::receive(size_t& num_bytes) {
  iovec space{loop_.buffer.data(), loop_.buffer.size()};
  alignas(cmsghdr) std::array<char, 256> control;
  msghdr message{};
  message.msg_iov = &space;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  const ssize_t count = ::recvmsg(socket_.native_handle(), &message, MSG_DONTWAIT);
  num_bytes = count > 0 ? static_cast<size_t>(count) : 0;
  if (count <= 0) return count;
  const int64_t age = age_ns(message);
  if (age >= 0) loop_.lag.add(age);
  arrived_ns_ = steady_now_ns() - std::max<int64_t>(age, 0);
  return count;
}

void LoadConnection::on_readable() {
  for (;;) {
    size_t num_bytes = 0;
    const int64_t result = receive(num_bytes);
    if (result < 0) {
      if (errno == EINTR) continue;
      if (errno == EAGAIN || errno == EWOULDBLOCK) return arm_read();
      return fail("closed_early", std::strerror(errno));
    }
    if (result == 0) {
      if (reader_->feed_end() && reader_->complete()) return on_end();
      return fail("closed_early", "the server closed the connection within its answer");
    }
    if (!reader_->feed({loop_.buffer.data(), num_bytes})) {
      return fail("malformed", "what came is no HTTP response");
    }
    if (reader_->complete()) return on_end();
    if (num_bytes < loop_.buffer.size()) return arm_read();
  }
}

void LoadConnection::on_line(std::string_view line) {
  if (!starts_with(line, "data:")) return;
  line.remove_prefix(5);
  if (starts_with(line, " ")) line.remove_prefix(1);
  if (line == "[DONE]") {
    done_seen_ = true;
    return;
  }
  StreamTimes& result = times();
  if (!loop_.events.read(line, keeps_answer() ? &answers_.back() : nullptr)) {
    if (result.error_kind.empty()) result.error_kind = "malformed";
    if (result.error.empty()) result.error = one_line("no JSON: " + std::string(line));
    return;
  }
  const StreamEvent& event = loop_.events.event();
  if (event.is_error && result.error_kind.empty()) {
    result.error_kind = "error_event";
    result.error = one_line(event.error);
  }
  if (event.prompt_tokens >= 0) result.prompt_tokens = event.prompt_tokens;
  if (event.completion_tokens >= 0) result.completion_tokens = event.completion_tokens;
  if (!event.is_chunk()) {
    if (event.has_finish) bare_finish_ns_ = arrived_ns_;
    return;
  }
  result.chunk_ns.push_back(arrived_ns_);
  loop_.num_chunks.store(loop_.num_chunks.load(std::memory_order_relaxed) + 1,
                         std::memory_order_relaxed);
  if (event.completion_tokens < 0) return;
  result.chunk_tokens.push_back(static_cast<int32_t>(event.completion_tokens - usage_so_far_));
  usage_so_far_ = event.completion_tokens;
}

void LoadConnection::on_end() {
  StreamTimes& result = times();
  if (reader_->status() != 200) {
    result.error_kind = str("http_", reader_->status());
    result.error = one_line(reader_->refusal());
  } else if (result.error_kind.empty() && !done_seen_) {
    result.error_kind = "closed_early";
    result.error = "the answer ended without [DONE]";
  }
  // A single token without text comes with the finish_reason.
  if (result.chunk_ns.empty() && result.completion_tokens > 0 && bare_finish_ns_ != 0) {
    result.chunk_ns.push_back(bare_finish_ns_);
  }
  if (result.error_kind.empty() && result.chunk_ns.empty()) {
    result.error_kind = "no_tokens";
    result.error = "the answer held no tokens";
  }
  if (result.chunk_tokens.size() != result.chunk_ns.size()) result.chunk_tokens.clear();
  result.ok = result.error_kind.empty();
  end_request();
}

void LoadConnection::fail(std::string kind, std::string what) {
  StreamTimes& result = times();
  if (result.error_kind.empty()) {
    result.error_kind = std::move(kind);
    result.error = one_line(std::move(what));
  }
  close();
  result.ended_ns = steady_now_ns();
  if (started_) end_request();
}

void LoadConnection::end_request() {
  close();
  StreamTimes& result = times();
  result.ended_ns = steady_now_ns();
  ++(result.ok ? shared_.num_done : shared_.num_failed);
  // Not from within: a server that refuses everything would nest call in call.
  asio::post(loop_.io, [this] {
    if (phase_ == Phase::kIdle) next_turn();
  });
}

void LoadConnection::next_turn() {
  const bool goes_on = times().ok && turn_ + 1 < session().num_turns && !shared_.stop;
  if (!goes_on) {
    take_session();
    if (phase_ != Phase::kFinished) wait_due();
    return;
  }
  ++turn_;
  ++stream_idx_;
  later_body_ = shared_.options.next_body(session_idx_, answers_);
  body_ = &later_body_;
  connect();
}

void LoadConnection::check_timeout(int64_t now_ns) {
  if (phase_ == Phase::kConnecting && now_ns - attempt_ns_ > kConnectTimeoutNs) {
    if (!started_) --shared_.num_preparing;
    return fail("connect", "the connection was not accepted within 10 s");
  }
  const int64_t limit_ns = shared_.options.request_timeout_ms * kNsPerMs;
  if (phase_ == Phase::kStreaming && now_ns - times().sent_ns > limit_ns) {
    fail("timeout", str("not finished after ", shared_.options.request_timeout_ms, " ms"));
  }
}

void LoadConnection::abort() {
  if (phase_ == Phase::kFinished) return;
  StreamTimes& result = times();
  if (result.ended_ns == 0) {
    const bool was_sent = phase_ == Phase::kStreaming;
    result.error_kind = was_sent ? "interrupted" : "not_sent";
    result.error = "the run ended first";
    result.ended_ns = steady_now_ns();
  }
  if (!started_ && phase_ == Phase::kConnecting) --shared_.num_preparing;
  finish();
}

void LoadConnection::finish() {
  close();
  timer_.cancel();
  phase_ = Phase::kFinished;
  --loop_.num_running;
}

void LoadConnection::close() {
  error_code ignored;
  socket_.close(ignored);
  ++generation_;
  phase_ = Phase::kIdle;
  reader_.reset();
}

}  // namespace slipstream
