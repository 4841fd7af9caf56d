#include "server/http_response.h"

#include <algorithm>
#include <array>
#include <exception>
#include <utility>

#include "base/clock.h"
#include "base/log.h"
#include "base/strings.h"
#include "server/errors.h"

namespace slipstream {
namespace {

constexpr size_t kMaxKeptFrameBytes = 64 << 10;

const char* reason_of(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 201:
      return "Created";
    case 204:
      return "No Content";
    case 304:
      return "Not Modified";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 408:
      return "Request Timeout";
    case 413:
      return "Content Too Large";
    case 414:
      return "URI Too Long";
    case 415:
      return "Unsupported Media Type";
    case 417:
      return "Expectation Failed";
    case 429:
      return "Too Many Requests";
    case 431:
      return "Request Header Fields Too Large";
    case 500:
      return "Internal Server Error";
    case 503:
      return "Service Unavailable";
    case 504:
      return "Gateway Timeout";
    case 505:
      return "HTTP Version Not Supported";
    default:
      return "Response";
  }
}

void append_header(std::string& out, std::string_view name, std::string_view value) {
  out += name;
  out += ": ";
  for (const char c : value) {
    // A value never ends its line, whoever wrote it.
    if (static_cast<unsigned char>(c) >= ' ' && c != '\x7f') out += c;
  }
  out += "\r\n";
}

bool is_event_stream(const HttpResponse& response) {
  return starts_with(response.content_type, "text/event-stream");
}

// `name` in lower case; handlers may write theirs as they like.
bool has_header(const HttpHeaders& headers, std::string_view name) {
  return std::any_of(headers.begin(), headers.end(), [name](const auto& header) {
    return std::equal(name.begin(), name.end(), header.first.begin(), header.first.end(),
                      [](char want, char have) { return want == have || want == (have | 0x20); });
  });
}

}  // namespace

HttpConnection::Response::~Response() {
  try {
    abandon();
  } catch (const std::exception& error) {
    log_error("http", "a request ends without an answer: ", error.what());
    if (connection_ != nullptr) connection_->close(CloseReason::kClientGone);
  }
}

// Nobody will answer any more.
void HttpConnection::Response::abandon() {
  if (connection_ != nullptr) {
    log_error("http", "id=", outcome_.request_id, " a handler left its request unanswered");
    connection_->response_ = nullptr;  // whatever happens to the connection concerns nobody now
    if (begun_) {
      outcome_.status = 500;
      connection_->close(CloseReason::kClientGone);  // an early end is all that can still be told
    } else {
      fail(internal_error());
    }
  }
  report();
}

void HttpConnection::Response::append_head(std::string& out, const HttpResponse& response,
                                           std::optional<size_t> length) {
  out += str("HTTP/1.1 ", response.status, " ", reason_of(response.status), "\r\n");
  const bool has_body = response.status != 204 && response.status != 304;
  if (has_body && !response.content_type.empty()) {
    append_header(out, "content-type", response.content_type);
  }
  if (has_body && length) append_header(out, "content-length", std::to_string(*length));
  append_header(out, "x-request-id", outcome_.request_id);
  if (!has_header(response.headers, "x-content-type-options")) {
    append_header(out, "x-content-type-options", "nosniff");
  }
  if (is_event_stream(response) && !has_header(response.headers, "cache-control")) {
    append_header(out, "cache-control", "no-cache");
  }
  for (const auto& [name, value] : head_.headers) append_header(out, name, value);
  for (const auto& [name, value] : response.headers) append_header(out, name, value);
  if (!length && !head_.is_http_1_0) append_header(out, "transfer-encoding", "chunked");
  if (!length && head_.is_http_1_0) head_.keep_alive = false;  // its end is the connection's
  if (!head_.keep_alive) {
    append_header(out, "connection", "close");
  } else if (head_.is_http_1_0) {
    append_header(out, "connection", "keep-alive");
  }
  out += "\r\n";
}

void HttpConnection::Response::send(HttpResponse response) {
  if (connection_ == nullptr) return;
  SLIPSTREAM_CHECK(!begun_, "a response is sent once");
  begun_ = true;
  outcome_.status = response.status;
  std::string& frame = shared_.frame;
  frame.clear();
  append_head(frame, response, response.body.size());
  const bool has_body = !head_.is_head_request && response.status != 204 && response.status != 304;
  if (has_body) {
    frame += response.body;
    outcome_.body_bytes = static_cast<int64_t>(response.body.size());
  }
  connection_->send_bytes(frame);
  if (frame.capacity() > kMaxKeptFrameBytes) frame = {};
  finish();
}

// One chunk; without chunks in HTTP/1.0.
void HttpConnection::Response::append_part(std::string& out, std::string_view bytes) {
  if (bytes.empty() || head_.is_head_request) return;
  outcome_.body_bytes += static_cast<int64_t>(bytes.size());
  if (head_.is_http_1_0) {
    out += bytes;
    return;
  }
  constexpr std::string_view kHex = "0123456789abcdef";
  std::array<char, 16> size{};
  size_t begin = size.size();
  for (size_t left = bytes.size(); left > 0; left >>= 4) size[--begin] = kHex[left & 15];
  out.append(size.data() + begin, size.size() - begin);
  out += "\r\n";
  out += bytes;
  out += "\r\n";
}

void HttpConnection::Response::begin_stream(HttpResponse response) {
  if (connection_ == nullptr) return;
  SLIPSTREAM_CHECK(!begun_, "a response begins once");
  begun_ = true;
  is_event_stream_ = is_event_stream(response);
  outcome_.status = response.status;
  std::string& frame = shared_.frame;
  frame.clear();
  append_head(frame, response, std::nullopt);
  append_part(frame, response.body);
  connection_->send_bytes(frame);
}

void HttpConnection::Response::write(std::string_view bytes) {
  if (connection_ == nullptr || bytes.empty() || head_.is_head_request) return;
  SLIPSTREAM_CHECK(begun_, "a stream begins before it is written to");
  std::string& frame = shared_.frame;
  frame.clear();
  append_part(frame, bytes);
  connection_->send_bytes(frame);
  if (connection_ == nullptr) return;
  const size_t unsent = connection_->out_.size() - connection_->out_begin_;
  if (static_cast<int64_t>(unsent) > shared_.options.max_unsent_bytes) {
    connection_->close(CloseReason::kSlowClient);
  }
}

void HttpConnection::Response::end() {
  if (connection_ == nullptr) return;
  SLIPSTREAM_CHECK(begun_, "a stream begins before it ends");
  if (!head_.is_http_1_0 && !head_.is_head_request) connection_->send_bytes("0\r\n\r\n");
  finish();
}

void HttpConnection::Response::finish() {
  if (connection_ == nullptr) return;  // the last bytes found the client gone
  on_close_ = nullptr;
  const std::shared_ptr<HttpConnection> connection = std::move(connection_);
  connection_ = nullptr;
  report();
  connection->response_ended(head_.keep_alive);
}

void HttpConnection::Response::on_close(std::function<void(CloseReason)> callback) {
  if (connection_ != nullptr) {
    on_close_ = std::move(callback);
  } else if (lost_) {  // while a worker had the request, for example
    shared_.post([callback = std::move(callback), reason = *lost_] { callback(reason); });
  }
}

void HttpConnection::Response::lose(CloseReason reason) {
  connection_ = nullptr;
  lost_ = reason;
  outcome_.status = reason == CloseReason::kShutdown ? 503 : 499;
  // Later, because the handler may be in the middle of a write to this very response.
  shared_.post([self = shared_from_this(), callback = std::move(on_close_), reason] {
    if (callback) callback(reason);
    self->report();
  });
  on_close_ = nullptr;
}

void HttpConnection::Response::shut_down() {
  const std::shared_ptr<Response> self =
      shared_from_this();  // the callback may drop the last other
  head_.keep_alive = false;
  const std::function<void(CloseReason)> callback = std::move(on_close_);
  on_close_ = nullptr;
  if (callback) callback(CloseReason::kShutdown);
  if (connection_ == nullptr) return;
  if (begun_) {
    end();
    return;
  }
  ApiError error = service_unavailable("the server is shutting down", 1);
  error.should_not_retry = true;
  fail(error);
}

// In the shape of the route's dialect.
void HttpConnection::Response::fail(const ApiError& error) {
  const Route* route = outcome_.route;
  send(route != nullptr ? shaped_error(route->error_shape, error, outcome_.request_id)
                        : error_response(error));
}

void HttpConnection::Response::report() {
  if (reported_) return;
  reported_ = true;
  outcome_.ended_ns = steady_now_ns();
  outcome_.call = record_.get();
  --shared_.num_undone;
  shared_.app.ended(outcome_);
}

}  // namespace slipstream
