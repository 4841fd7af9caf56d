// POST /v1/responses, without memory: nothing is stored, so every request brings its conversation.
#pragma once

#include <memory>
#include <string>

#include "server/generation_route.h"

namespace slipstream {

Dialect responses_dialect();

// OpenAI's response object, and its typed events when streamed. `echo`: the members of the object
// that repeat the request, `"name":value` joined by commas.
std::unique_ptr<AnswerFormat> make_responses_format(std::string item_id, std::string echo);

}  // namespace slipstream
