// POST /v1/chat/completions.
#pragma once

#include <memory>

#include "server/generation_route.h"

namespace slipstream {

Dialect chat_dialect();

// OpenAI's chat.completion and chat.completion.chunk.
std::unique_ptr<AnswerFormat> make_chat_format();

}  // namespace slipstream
