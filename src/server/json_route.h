// Routes that take a JSON object and give one back without generating.
//
// Also owns where such work runs: small bodies on the network thread, large ones on the workers.
#pragma once

#include <cstddef>
#include <functional>
#include <string>

#include "base/json.h"
#include "server/errors.h"
#include "server/http.h"
#include "server/server_context.h"

namespace slipstream {

// Runs `work`, which took `num_bytes` of body, here or on the worker pool, then `then` here. False:
// too much waits already and neither will run. `work` must not own what only this thread may end.
bool run_by_size(ServerContext& context, size_t num_bytes, std::function<void()> work,
                 std::function<void()> then);

// Makes the answer's JSON text of a body. Any thread.
using JsonFunction = std::function<ApiResult<std::string>(const Json& body)>;

Handler json_handler(ServerContext& context, JsonFunction function, ErrorShape error_shape = {});

}  // namespace slipstream
