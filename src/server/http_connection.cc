#include "server/http_connection.h"

#include <poll.h>

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/post.hpp>
#include <exception>
#include <utility>

#include "base/clock.h"
#include "base/log.h"
#include "base/strings.h"
#include "server/errors.h"
#include "server/http_response.h"

namespace slipstream {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

constexpr int kMaxReadsPerWake = 8;  // then others have their turn
constexpr size_t kMaxPipelinedBytes = 64 << 10;
constexpr int64_t kMaxIgnoredBodyBytes = 64 << 10;  // of a refused request on a kept connection
constexpr size_t kMaxLingerBytes = 64 << 10;
constexpr int64_t kLingerMs = 2'000;
constexpr int64_t kNsPerMs = 1'000'000;
constexpr size_t kMaxShownPathBytes = 256;
constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";

bool may_echo(std::string_view id) {
  if (id.empty() || id.size() > 128) return false;
  return std::all_of(id.begin(), id.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-';
  });
}

bool would_block(const error_code& ec) {
  return ec == asio::error::would_block || ec == asio::error::interrupted;
}

}  // namespace

void HttpShared::post(std::function<void()> work) { asio::post(io, std::move(work)); }

int64_t HttpShared::wait_ns(Wait wait) const {
  switch (wait) {
    case Wait::kNothing:
      return INT64_MAX / 2;
    case Wait::kIdle:
      return options.idle_timeout_ms * kNsPerMs;
    case Wait::kRead:
      return options.read_timeout_ms * kNsPerMs;
    case Wait::kSend:
      return options.send_timeout_ms * kNsPerMs;
    case Wait::kLinger:
      return kLingerMs * kNsPerMs;
  }
  return 0;
}

std::string HttpShared::make_request_id() {
  constexpr std::string_view kHex = "0123456789abcdef";
  std::string id = "req-";
  uint64_t word = id_source.next();
  for (int digit = 0; digit < 16; ++digit, word >>= 4) id += kHex[word & 15];
  return id;
}

// A request whose bytes still come, and what was decided about it.
struct HttpConnection::Reading {
  explicit Reading(HttpParserLimits limits) : parser(limits) {}
  HttpParser parser;
  HeadDecision decision;
  HttpOutcome outcome;  // as far as it is known
  bool decided = false;
};

HttpConnection::HttpConnection(HttpShared& shared, tcp::socket socket)
    : shared_(shared), socket_(std::move(socket)) {
  ++shared_.num_connections;
}

HttpConnection::~HttpConnection() { --shared_.num_connections; }

void HttpConnection::start() {
  auto& list = shared_.connections[static_cast<size_t>(wait_)];
  place_ = list.insert(list.end(), shared_from_this());
  wait_for(Wait::kIdle);
  guarded([this] { arm_read(); });
}

// Runs a turn of this connection. What fails in it, because memory ran out for example, is the end
// of this connection and of no other.
template <typename Turn>
void HttpConnection::guarded(Turn turn) {
  try {
    turn();
  } catch (const std::exception& error) {
    log_error("http", "a connection is closed, its request cannot be worked on: ", error.what());
    advancing_ = false;
    close(CloseReason::kClientGone);
  }
}

// Moves to the end of the list of `wait`, with a whole duration ahead.
void HttpConnection::wait_for(Wait wait) {
  auto& from = shared_.connections[static_cast<size_t>(wait_)];
  auto& to = shared_.connections[static_cast<size_t>(wait)];
  to.splice(to.end(), from, place_);
  wait_ = wait;
  deadline_ns_ = steady_now_ns() + shared_.wait_ns(wait);
}

// After the output changed: who does not read is waited for first.
void HttpConnection::settle_wait() {
  if (phase_ == Phase::kClosed) return;
  if (!out_.empty()) {
    wait_for(Wait::kSend);
  } else if (phase_ == Phase::kResponding) {
    wait_for(Wait::kNothing);
  } else if (phase_ == Phase::kClosing) {
    wait_for(Wait::kLinger);
  } else {
    wait_for(reading_ == nullptr ? Wait::kIdle : Wait::kRead);
  }
}

void HttpConnection::arm_read() {
  if (input_ended_) {
    arm_error();
    return;
  }
  if (read_armed_ || phase_ == Phase::kClosed) return;
  read_armed_ = true;
  socket_.async_wait(tcp::socket::wait_read, [self = shared_from_this()](const error_code&) {
    self->read_armed_ = false;
    if (self->phase_ != Phase::kClosed) self->guarded([&self] { self->on_readable(); });
  });
}

void HttpConnection::arm_write() {
  if (write_armed_ || phase_ == Phase::kClosed) return;
  write_armed_ = true;
  socket_.async_wait(tcp::socket::wait_write, [self = shared_from_this()](const error_code&) {
    self->write_armed_ = false;
    if (self->phase_ != Phase::kClosed) self->guarded([&self] { self->on_writable(); });
  });
}

// For when reading has nothing more to tell: a reset still shows.
void HttpConnection::arm_error() {
  if (error_armed_ || phase_ == Phase::kClosed) return;
  error_armed_ = true;
  socket_.async_wait(tcp::socket::wait_error, [self = shared_from_this()](const error_code&) {
    self->error_armed_ = false;
    if (self->phase_ != Phase::kClosed) self->guarded([&self] { self->on_error(); });
  });
}

void HttpConnection::on_readable() {
  if (phase_ == Phase::kClosing) {
    linger();
    return;
  }
  for (int turn = 0; turn < kMaxReadsPerWake; ++turn) {
    if (in_.size() >= kMaxPipelinedBytes && !may_start_request()) {
      arm_error();  // enough is waiting; the rest stays with the kernel
      return;
    }
    error_code ec;
    const size_t num_bytes = socket_.read_some(asio::buffer(shared_.read_buffer), ec);
    if (would_block(ec)) break;
    if (ec == asio::error::eof) {
      on_end_of_input();
      return;
    }
    if (ec) {
      close(CloseReason::kClientGone);
      return;
    }
    take({shared_.read_buffer.data(), num_bytes});
    if (phase_ == Phase::kClosed) return;
    if (phase_ == Phase::kClosing || num_bytes < shared_.read_buffer.size()) break;
  }
  arm_read();
}

void HttpConnection::take(std::string_view bytes) {
  if (advancing_ || !may_start_request()) {
    in_ += bytes;
  } else if (in_.empty()) {
    advance(bytes);
  } else {
    in_ += bytes;
    advance(std::exchange(in_, {}));
  }
}

// Whether bytes can be understood now, rather than kept for later.
bool HttpConnection::may_start_request() const {
  return phase_ == Phase::kReading && out_.size() - out_begin_ < kMaxPipelinedBytes;
}

// Reads as many requests as `bytes` hold and their answers allow.
void HttpConnection::advance(std::string_view bytes) {
  advancing_ = true;
  while (!bytes.empty() && may_start_request()) {
    if (reading_ == nullptr) {
      reading_ = std::make_unique<Reading>(shared_.options.parser);
      settle_wait();
    }
    HttpParser& parser = reading_->parser;
    const HttpParser::State before = parser.state();
    const size_t used = parser.feed(bytes);
    bytes.remove_prefix(used);
    if (parser.state() == HttpParser::State::kFailed) {
      refuse(shaped(parser.error()), true);
      break;
    }
    if (before == HttpParser::State::kHead && parser.state() != HttpParser::State::kHead) on_head();
    if (reading_ != nullptr && parser.state() == HttpParser::State::kDone) {
      on_request();
    } else if (used == 0) {
      break;
    }
  }
  advancing_ = false;
  if (phase_ != Phase::kClosed) in_.assign(bytes);
  if (in_.empty()) in_ = {};
}

void HttpConnection::on_head() {
  HttpRequest& request = reading_->parser.request();
  request.arrival_ns = steady_now_ns();
  const std::string_view id = request.header("x-request-id");
  request.request_id = may_echo(id) ? std::string(id) : shared_.make_request_id();
  reading_->decision = shared_.app.decide(request);
  reading_->decided = true;
  ++shared_.num_undone;
  HttpOutcome& outcome = reading_->outcome;
  outcome.route = reading_->decision.route;
  outcome.admitted = reading_->decision.admitted;
  outcome.key = request.key;
  outcome.method = request.method;
  outcome.path = request.path.substr(0, kMaxShownPathBytes);
  outcome.request_id = request.request_id;
  outcome.arrival_ns = request.arrival_ns;
  if (reading_->parser.state() == HttpParser::State::kDone) return;

  settle_wait();  // the body has its own time
  const int64_t bytes_left = reading_->parser.body_bytes_left();
  if (reading_->decision.refusal) {
    // A short body is read over, so that the connection can be kept.
    if (bytes_left < 0 || bytes_left > kMaxIgnoredBodyBytes ||
        reading_->parser.expects_continue()) {
      refuse(std::move(*reading_->decision.refusal), true);
    } else {
      reading_->parser.discard_body();
    }
  } else if (reading_->parser.expects_continue() && !reading_->parser.is_http_1_0()) {
    send_bytes(kContinue);
  }
}

void HttpConnection::on_request() {
  if (reading_->decision.refusal) {
    refuse(std::move(*reading_->decision.refusal), false);
    return;
  }
  const Route* route = reading_->decision.route;
  HttpRequest request = std::move(reading_->parser.request());
  reading_->outcome.request_bytes = static_cast<int64_t>(request.body.size());
  std::shared_ptr<Response> response = begin_response();
  try {
    route->handler(std::move(request), std::move(response));
  } catch (const std::exception& error) {
    // The writer is gone with the handler's frame, so the request was answered with 500.
    log_error("http", "route=", route->path, " a handler threw: ", error.what());
  }
}

// The Response of the request being read, which is over with that.
std::shared_ptr<HttpConnection::Response> HttpConnection::begin_response() {
  const HttpParser& parser = reading_->parser;
  Response::Head head;
  head.headers = std::move(reading_->decision.headers);
  head.is_head_request = reading_->outcome.method == "HEAD";
  if (reading_->decided) {
    head.is_http_1_0 = parser.is_http_1_0();
    head.keep_alive = parser.keep_alive();
  } else {
    // Never decided on, and reported all the same.
    reading_->outcome.request_id = shared_.make_request_id();
    reading_->outcome.arrival_ns = steady_now_ns();
    reading_->decided = true;
    ++shared_.num_undone;
    head.keep_alive = false;
  }
  // Whoever fails so far still has the outcome in reading_, from where close() reports it.
  auto response =
      std::make_shared<Response>(shared_from_this(), std::move(reading_->outcome), std::move(head));
  response_ = response.get();
  reading_.reset();
  phase_ = Phase::kResponding;
  settle_wait();
  return response;
}

// Answers what is read or was to be read next. `body_follows`: bytes of it may still come, so the
// connection cannot go on.
void HttpConnection::refuse(HttpResponse response, bool body_follows) {
  const std::shared_ptr<Response> writer = begin_response();
  if (body_follows) {
    writer->keep_no_connection();
    must_linger_ = true;
  }
  writer->send(std::move(response));
}

void HttpConnection::send_bytes(std::string_view bytes) {
  if (phase_ == Phase::kClosed || bytes.empty()) return;
  if (out_.empty()) {
    error_code ec;
    const size_t sent = socket_.write_some(asio::buffer(bytes.data(), bytes.size()), ec);
    if (ec && !would_block(ec)) {
      close(CloseReason::kClientGone);
      return;
    }
    bytes.remove_prefix(sent);
    if (bytes.empty()) return;
    ++shared_.num_sending;
    out_ = bytes;
    settle_wait();
    arm_write();
    return;
  }
  out_ += bytes;
}

void HttpConnection::on_writable() {
  error_code ec;
  const size_t sent =
      socket_.write_some(asio::buffer(out_.data() + out_begin_, out_.size() - out_begin_), ec);
  if (ec && !would_block(ec)) {
    close(CloseReason::kClientGone);
    return;
  }
  out_begin_ += sent;
  if (out_begin_ < out_.size()) {
    if (out_begin_ > out_.size() / 2) {
      out_.erase(0, out_begin_);
      out_begin_ = 0;
    }
    if (sent > 0) settle_wait();
    arm_write();
    return;
  }
  out_ = {};
  out_begin_ = 0;
  --shared_.num_sending;
  settle_wait();
  if (phase_ == Phase::kClosing) {
    begin_closing();
  } else if (phase_ == Phase::kReading) {
    go_on_reading();
  }
}

// With what is already here, then with what the client sends.
void HttpConnection::go_on_reading() {
  if (!in_.empty() && may_start_request()) advance(std::exchange(in_, {}));
  if (phase_ == Phase::kReading && input_ended_ && may_start_request()) {
    begin_closing();
  } else {
    arm_read();
  }
}

// The client will send no more. With a request unanswered this may be an orderly half-close, so
// the answer goes on; but most clients that close do so altogether, and only a byte sent to such a
// client brings the reset that tells.
void HttpConnection::on_end_of_input() {
  input_ended_ = true;
  if (phase_ == Phase::kResponding) {
    probe_client();
    arm_error();
  } else if (may_start_request()) {
    begin_closing();
  } else {
    arm_error();  // on_writable() goes on with what is in_
  }
}

// A byte that means nothing: an interim response before the answer, a comment among its events.
void HttpConnection::probe_client() {
  if (!out_.empty() || response_->is_http_1_0()) return;
  if (response_->is_event_stream_begun()) {
    response_->write(":\n\n");
  } else if (!response_->begun()) {
    send_bytes(kContinue);
  }
}

void HttpConnection::on_error() {
  // Reading would not tell: after the end of input it says "end of input" even when a reset came.
  pollfd watched{socket_.native_handle(), 0, 0};
  if (::poll(&watched, 1, 0) > 0) close(CloseReason::kClientGone);
}

void HttpConnection::response_ended(bool keep_alive) {
  response_ = nullptr;
  if (phase_ == Phase::kClosed) return;
  if (!keep_alive) {
    begin_closing();
    return;
  }
  phase_ = Phase::kReading;
  settle_wait();
  if (!advancing_) go_on_reading();
}

// Closes once everything was sent. When the client may still be sending, what comes is read over
// for a while first: a close with unread bytes would take the answer away from it.
void HttpConnection::begin_closing() {
  phase_ = Phase::kClosing;
  if (!out_.empty()) return;
  error_code ec;
  const bool unread = must_linger_ || !in_.empty() || socket_.available(ec) > 0;
  if (input_ended_ || !unread) {
    close(CloseReason::kClientGone);
    return;
  }
  in_ = {};
  socket_.shutdown(tcp::socket::shutdown_send, ec);
  settle_wait();
  linger();
}

void HttpConnection::linger() {
  while (lingered_bytes_ < kMaxLingerBytes) {
    error_code ec;
    const size_t num_bytes = socket_.read_some(asio::buffer(shared_.read_buffer), ec);
    if (would_block(ec)) {
      arm_read();
      return;
    }
    if (ec && ec != asio::error::eof) {
      close(CloseReason::kClientGone);
      return;
    }
    if (ec) input_ended_ = true;
    if (ec) break;
    lingered_bytes_ += num_bytes;
  }
  if (out_.empty()) {
    close(CloseReason::kClientGone);
  } else {
    arm_error();  // on_writable() closes
  }
}

void HttpConnection::on_deadline() {
  if (wait_ != Wait::kRead) {
    close(wait_ == Wait::kSend ? CloseReason::kSlowClient : CloseReason::kClientGone);
    return;
  }
  ApiError error = invalid_request(
      str("the request was not complete within ", shared_.options.read_timeout_ms, " ms"));
  error.status = 408;
  error.type = "timeout_error";
  guarded([&] { refuse(shaped(error), true); });
}

// In the dialect of the route, if the request being read came so far.
HttpResponse HttpConnection::shaped(const ApiError& error) const {
  const HttpOutcome& outcome = reading_->outcome;
  return outcome.route != nullptr
             ? shaped_error(outcome.route->error_shape, error, outcome.request_id)
             : error_response(error);
}

void HttpConnection::shut_down_response() {
  if (response_ != nullptr) response_->shut_down();
}

bool HttpConnection::has_unread() const {
  error_code ec;
  return socket_.available(ec) > 0;
}

void HttpConnection::close(CloseReason reason) {
  if (phase_ == Phase::kClosed) return;
  const std::shared_ptr<HttpConnection> self = shared_from_this();
  phase_ = Phase::kClosed;
  error_code ec;
  socket_.close(ec);
  shared_.connections[static_cast<size_t>(wait_)].erase(place_);
  if (!out_.empty()) --shared_.num_sending;
  in_ = {};
  out_ = {};
  out_begin_ = 0;
  if (reading_ != nullptr && reading_->decided) {
    const std::unique_ptr<Reading> reading = std::move(reading_);
    reading->outcome.status = 499;
    reading->outcome.ended_ns = steady_now_ns();
    --shared_.num_undone;
    shared_.app.ended(reading->outcome);
  }
  if (response_ != nullptr) std::exchange(response_, nullptr)->lose(reason);
}

}  // namespace slipstream
