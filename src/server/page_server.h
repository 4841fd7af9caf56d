// PageServer: HTTP for a page alone, without a model, keys or limits per client.
//
// Everything belongs to the thread that calls run().
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "server/http.h"

namespace slipstream {

class PageServer {
 public:
  // Listens. `port` 0: a free one.
  static Result<std::unique_ptr<PageServer>> create(const std::string& host, int port,
                                                    std::vector<Route> routes);
  virtual ~PageServer() = default;
  virtual int port() const = 0;
  // Serves until SIGINT or SIGTERM.
  virtual void run() = 0;
};

// Sends who asks for `from` to `to`.
Route redirect_route(std::string from, std::string to);

}  // namespace slipstream
