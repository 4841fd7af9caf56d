// GET /v1/models and /v1/models/{id}.
#pragma once

#include <vector>

#include "server/http.h"
#include "server/server_context.h"

namespace slipstream {

std::vector<Route> models_routes(ServerContext& context);

}  // namespace slipstream
