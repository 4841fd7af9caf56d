// The way from a POST to a running Call, shared by every generating endpoint.
//
// Parses the body, finds the model, makes the prompts and starts the call. Large bodies are read on
// the worker pool, so a long prompt never holds up other streams. Handlers run on the network
// thread.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "server/call.h"
#include "server/errors.h"
#include "server/http.h"
#include "server/params.h"
#include "server/prompt.h"

namespace slipstream {

// What the body of a call becomes.
struct PreparedCall {
  CallSpec spec;
  std::unique_ptr<AnswerFormat> format;
};

// All that preparing may read. Immutable while the server runs: any thread.
struct FrontEnd {
  const ParamTable* table = nullptr;
  ParamEnv params;
  PromptEnv prompt;
};
FrontEnd front_end(const ServerContext& context, const ParamTable& table);

// One API dialect.
struct Dialect {
  std::string route;  // "/v1/chat/completions"
  // The body is valid JSON within the limits. Checks lengths last (check_lengths). Any thread.
  std::function<ApiResult<PreparedCall>(const Json& body, const FrontEnd& front_end)> prepare;
  ErrorShape error_shape = {};  // of refusals, also before the handler; null: error_response()
};

Handler generation_handler(ServerContext& context, std::shared_ptr<const ParamTable> table,
                           Dialect dialect);

}  // namespace slipstream
