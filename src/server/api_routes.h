// Every route of the API but the probes and the page.
#pragma once

#include <vector>

#include "server/http.h"
#include "server/server_context.h"

namespace slipstream {

// `context` outlives the routes; its engine, template and metrics may come later.
std::vector<Route> api_routes(ServerContext& context);

}  // namespace slipstream
