// /tokenize, /detokenize, /apply-template and /tokenizer_info.
//
// /tokenize takes vLLM's shape ({"prompt"} or {"messages"}) and llama.cpp's ({"content"}); the
// answer has the shape of the question.
#pragma once

#include <memory>
#include <vector>

#include "server/http.h"
#include "server/params.h"
#include "server/server_context.h"

namespace slipstream {

std::vector<Route> tokenize_routes(ServerContext& context,
                                   const std::shared_ptr<const ParamTable>& table);

}  // namespace slipstream
