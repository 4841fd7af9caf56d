// HttpServer: sockets, connections and timers on one thread.
//
// Owns HTTP/1.1 on the wire: reading requests within limits and deadlines, keep-alive, pipelining,
// writing responses without ever blocking, noticing who left. What a request means is the HttpApp's
// business. run() makes its caller the network thread; post() and stop() are for any thread,
// everything else for the network thread, or for its creator before run().
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/status.h"
#include "server/http.h"
#include "server/http_parser.h"

namespace slipstream {

struct HttpServerOptions {
  std::string host = "127.0.0.1";
  int port = 8000;  // 0: a free one
  HttpParserLimits parser;
  int64_t max_connections = 20'000;
  int64_t max_unsent_bytes = 1 << 20;  // of a streamed response, beyond what the kernel took
  int64_t read_timeout_ms = 10'000;    // a head, and then its body
  int64_t idle_timeout_ms = 120'000;   // between requests
  int64_t send_timeout_ms = 60'000;    // without the client taking a byte of what lies unsent
};

// What becomes of a request, decided when its head is complete and before its body is read.
struct HeadDecision {
  const Route* route = nullptr;  // null with a refusal of an unknown path
  std::optional<HttpResponse> refusal;
  HttpHeaders headers;    // of the response, whatever it is
  bool admitted = false;  // takes part in what the app counts; comes back in the outcome
};

struct HttpOutcome {
  const Route* route = nullptr;
  const ApiKey* key = nullptr;
  std::string method;
  std::string path;
  std::string request_id;
  int status = 0;             // 499: the client left, or did not read
  int64_t request_bytes = 0;  // of the body, like body_bytes of the response
  int64_t body_bytes = 0;
  int64_t arrival_ns = 0;
  int64_t ended_ns = 0;
  bool admitted = false;
  const CallRecord* call = nullptr;  // what the handler noted, or null
};

class HttpApp {
 public:
  virtual ~HttpApp() = default;
  // May change the request: set its key and path_tail.
  virtual HeadDecision decide(HttpRequest& request) = 0;
  // Once for every decision, and for every refusal that needed none.
  virtual void ended(const HttpOutcome& outcome) = 0;
};

class HttpServer : public EventLoop {
 public:
  // Listens, so connections queue up from now on; raises the limit of open files as far as it goes.
  // `app` outlives the server.
  static Result<std::unique_ptr<HttpServer>> create(HttpServerOptions options, HttpApp& app);

  virtual int port() const = 0;
  // Connections held at most: fewer than asked for when too few files may be open.
  virtual int64_t max_connections() const = 0;
  virtual int64_t num_connections() const = 0;
  // Whether every request was answered and every byte of the answers is with the kernel.
  virtual bool all_answered() const = 0;
  // SIGINT and SIGTERM, each time; SIGPIPE and SIGHUP are ignored from here on.
  virtual void watch_signals(std::function<void()> on_signal) = 0;
  // Ends every unfinished response with kShutdown; those that say nothing more get a 503.
  virtual void shut_down_responses() = 0;

  // Loses every connection and runs what that leads to: handlers learn of it. After run().
  virtual void close_connections() = 0;

  // Until stop(). Throws what posted work and timers throw; may be called again then.
  virtual void run() = 0;
  virtual void stop() = 0;
};

}  // namespace slipstream
