// GET /usage?from&to: what the caller's key has used, with its price.
#pragma once

#include <vector>

#include "server/http.h"
#include "server/server_context.h"

namespace slipstream {

std::vector<Route> usage_routes(ServerContext& context);

}  // namespace slipstream
