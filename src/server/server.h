// Server: `slipstream serve` without its command line. Wires the HTTP server to the engine and
// ends both in order.
//
// It listens before the model is loaded, so that probes and refusals are answered meanwhile.
// create(), run() and the destructor belong to one thread, the network thread; attach() and
// fail() may be called from any.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "server/almanac_route.h"
#include "server/auth.h"
#include "server/server_context.h"
#include "slipstream/engine.h"

namespace slipstream {

struct ServerOptions {
  std::string host = "127.0.0.1";
  int port = 8000;
  std::vector<std::string> model_names;  // at least one; the first is the id
  std::vector<std::string> api_keys;
  std::string api_key_file;
  std::vector<std::string> allowed_origins;
  RateLimits rate_limits;
  ServerLimits limits;
  int64_t max_queued_requests = 0;  // the engine's
  int64_t drain_timeout_ms = 30'000;
  std::string usage_db;  // empty: no metering
  double price_per_million_tokens = 0.0;
  bool share_prefix_cache = false;
  bool allow_template_kwargs = false;
  bool access_log = true;
  DataFiles almanac_files;  // null: /almanac is a page without data
  std::string version;
};

class Server {
 public:
  static Result<std::unique_ptr<Server>> create(ServerOptions options);
  virtual ~Server() = default;

  virtual int port() const = 0;
  virtual bool has_keys() const = 0;
  // What the engine is to be opened with.
  virtual EventSink sink() = 0;

  // The model is there: requests are taken from now on, and `on_ready` is called on the network
  // thread. `read_gb_s`: measured, or 0.
  virtual void attach(std::unique_ptr<Engine> engine, double read_gb_s,
                      std::function<void()> on_ready) = 0;
  // Something without which there is no serving broke: what runs gets its end and run() returns 1.
  virtual void fail() = 0;

  // Serves until SIGINT or SIGTERM. The first refuses new work, waits for what runs, and after the
  // drain timeout ends it; the second ends it at once. 0: everything was answered, else 1.
  virtual int run() = 0;
};

}  // namespace slipstream
