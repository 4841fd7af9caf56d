// The routes that operators ask: is it alive, ready, how loaded, which version.
//
// /health, /readyz, /livez and /ping need no key and hold no data. Network thread only.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "server/errors.h"
#include "server/http.h"
#include "server/server_context.h"

namespace slipstream {

// Why the server should get no traffic now; none: it is ready.
std::optional<ApiError> not_ready_reason(ServerContext& context, int64_t now_ns);

// Whether the step that runs has taken so long that it will not end by itself.
bool is_step_stuck(const ServerContext& context, int64_t now_ns);

// `version` as /version shows it: "0.1.0".
std::vector<Route> probe_routes(ServerContext& context, std::string version);

}  // namespace slipstream
