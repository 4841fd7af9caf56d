// GET /metrics.
#pragma once

#include <vector>

#include "server/http.h"
#include "server/server_context.h"

namespace slipstream {

std::vector<Route> metrics_routes(ServerContext& context);

}  // namespace slipstream
