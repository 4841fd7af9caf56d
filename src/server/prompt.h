// Prompts: what a client sent as messages, text or token ids becomes the token ids of a CallSpec.
//
// Owns the checks of messages, the rule that special tokens spelled by a client inside a message
// are ordinary text, and truncation. Pure functions of their arguments: any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "server/call.h"
#include "server/errors.h"
#include "server/server_context.h"
#include "text/tokenizer.h"

namespace slipstream {

struct PromptEnv {
  const ServerLimits* limits = nullptr;
  const ModelInfo* model = nullptr;
  const Tokenizer* tokenizer = nullptr;         // null: not loaded, token ids only
  const ChatTemplate* chat_template = nullptr;  // null: none, or a broken one
  std::string_view chat_template_error;         // why it is broken
};

// Rendered text, and the stretches of it that a client wrote and that spell special tokens.
struct RenderedPrompt {
  std::string text;
  std::vector<TextRange> plain_ranges;
};

// Checks the messages and renders them with the model's template. `messages` are OpenAI's: role,
// content (a string, or text parts, which are joined by line feeds), and what tools left behind.
ApiResult<RenderedPrompt> render_chat(const Json& messages, const PromptSpec& spec,
                                      const PromptEnv& env);

// Token ids of rendered or raw text, truncated as `spec` says.
ApiResult<std::vector<int32_t>> prompt_ids(const RenderedPrompt& prompt, const CallSpec& spec,
                                           const PromptEnv& env);

// Fills spec.prompts (and prompt_texts where they are needed) from chat messages.
std::optional<ApiError> make_chat_prompt(const Json& messages, const PromptEnv& env,
                                         CallSpec& spec);
// The same from a completion's prompt: a string, strings, ids, or lists of ids. Special tokens that
// raw text spells are parsed.
std::optional<ApiError> make_completion_prompts(const Json& prompt, const PromptEnv& env,
                                                CallSpec& spec);

}  // namespace slipstream
