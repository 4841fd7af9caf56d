// POST /v1/completions.
#pragma once

#include <memory>

#include "server/generation_route.h"

namespace slipstream {

Dialect completions_dialect();

// OpenAI's text_completion, streamed and not.
std::unique_ptr<AnswerFormat> make_completions_format();

}  // namespace slipstream
