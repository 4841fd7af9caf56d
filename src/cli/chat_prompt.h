// Messages -> prompt ids: the model's chat template rendered and tokenised.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "text/tokenizer.h"

namespace slipstream {

struct ChatMessage {
  std::string role;  // "system", "user", "assistant"
  std::string content;
};

struct PromptOptions {
  // The last message's text as it is, with what the tokenizer puts around a text.
  bool raw = false;
  // Without a chat template, do as `raw` does instead of failing.
  bool allow_plain = false;
};

// Whether messages go through a template under these options.
bool uses_template(const Tokenizer& tokenizer, const PromptOptions& options);

Result<std::vector<int32_t>> prompt_ids(const Tokenizer& tokenizer,
                                        const std::vector<ChatMessage>& messages,
                                        const PromptOptions& options);

}  // namespace slipstream
