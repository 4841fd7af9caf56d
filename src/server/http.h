// What a handler sees of HTTP: a request that was read whole, and a writer for its response.
//
// No socket and no third-party type appears here; http_server.cc owns those. Everything in this
// file belongs to the network thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace slipstream {

struct ApiError;    // server/errors.h
struct ApiKey;      // server/auth.h
struct CallRecord;  // server/access_log.h

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

struct HttpRequest {
  std::string method;     // "POST"
  std::string path;       // the target up to '?', exactly as sent; a route has matched it
  std::string query;      // what follows '?', undecoded
  std::string path_tail;  // what a route's trailing "{...}" matched
  HttpHeaders headers;    // names in lower case
  std::string body;
  std::string request_id;       // for logs and x-request-id; never a key to anything
  const ApiKey* key = nullptr;  // who asks; null when the server has no keys or the route is open
  int64_t arrival_ns = 0;       // steady clock, when the head was complete

  // Empty when absent.
  std::string_view header(std::string_view lower_case_name) const;
  // The value of `name` in the query, percent-decoded; empty when absent.
  std::string query_value(std::string_view name) const;
};

struct HttpResponse {
  int status = 200;
  HttpHeaders headers;  // besides content-type, content-length, date and x-request-id
  std::string content_type = "application/json";
  std::string body;
};

// Why a response ended without its handler's doing.
enum class CloseReason : uint8_t {
  kClientGone,  // EOF or reset: 499 in metrics
  kSlowClient,  // more than the limit lies unsent
  kShutdown,    // the drain deadline passed or a second signal came
};

// The response of one request. Either send(), or begin_stream() then write() any number of times
// then end(). Calls after the connection closed are ignored.
class ResponseWriter {
 public:
  virtual ~ResponseWriter() = default;
  virtual void send(HttpResponse response) = 0;
  // Status, headers and `body` as the first chunk; chunked transfer follows.
  virtual void begin_stream(HttpResponse head) = 0;
  virtual void write(std::string_view bytes) = 0;
  virtual void end() = 0;
  virtual bool closed() const = 0;
  // Called at most once, and never after send() or end(); soon when the client left before this
  // was set. The writer must not be used then, except
  // with kShutdown, after which a last write() and end() may tell the client.
  virtual void on_close(std::function<void(CloseReason)> callback) = 0;
  // What a generating call adds to the request's line in the access log. Before send() or end(), or
  // inside the on_close callback.
  virtual void note(const CallRecord& record) { static_cast<void>(record); }
};

using Handler = std::function<void(HttpRequest, std::shared_ptr<ResponseWriter>)>;

// How an API dialect writes an error.
using ErrorShape = std::function<HttpResponse(const ApiError& error, std::string_view request_id)>;

struct Route {
  std::string method;  // "GET" also answers HEAD
  // Exact, or with one trailing parameter: "/v1/models/{id}".
  std::string path;
  Handler handler;
  bool needs_key = true;
  // Refused with 503 while the server drains or loads.
  bool needs_engine = true;
  ErrorShape error_shape = {};  // of what is refused before the handler; null: error_response()
};

// Work of other threads for the network thread, and timers on it. Implemented by HttpServer.
class EventLoop {
 public:
  virtual ~EventLoop() = default;
  // From any thread; runs on the network thread, in order.
  virtual void post(std::function<void()> work) = 0;
  // Network thread only. The returned id cancels; cancelling what ran already is harmless.
  virtual uint64_t after_ms(int64_t delay_ms, std::function<void()> work) = 0;
  virtual void cancel_timer(uint64_t timer_id) = 0;
};

}  // namespace slipstream
