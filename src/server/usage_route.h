// GET /usage?from&to: what the caller's key has used, with its price.
#pragma once

#include <string>
#include <vector>

#include "server/errors.h"
#include "server/http.h"
#include "server/server_context.h"

namespace slipstream {

std::vector<Route> usage_routes(ServerContext& context);

// Unix seconds, or an ISO date or UTC time ("2026-01-31", "2026-01-31T12:00:00Z"), as Unix
// milliseconds. Empty gives `fallback`.
ApiResult<int64_t> parse_time_ms(const std::string& text, const char* name, int64_t fallback);

}  // namespace slipstream
