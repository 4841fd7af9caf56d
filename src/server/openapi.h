// The API described by itself: /openapi.json, and docs/api.md, both from the parameter table.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "server/http.h"
#include "server/params.h"

namespace slipstream {

// OpenAPI 3.1. Deterministic.
Json openapi_document(const ParamTable& table);
// docs/api.md, with the default limits.
std::string api_markdown();

std::vector<Route> openapi_routes(const std::shared_ptr<const ParamTable>& table);

}  // namespace slipstream
