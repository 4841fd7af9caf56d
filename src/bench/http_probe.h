// A GET to a server that may not be there yet: is it ready?
#pragma once

#include <string>

#include "base/status.h"

namespace slipstream {

// The HTTP status of `route` at 127.0.0.1:`port`; an error while nobody answers within `limit_ms`.
Result<int> http_status_of(int port, const std::string& route, int limit_ms);

// A TCP port of 127.0.0.1 that nobody listens on.
Result<int> free_port();

}  // namespace slipstream
