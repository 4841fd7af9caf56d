#include "cli/chat_prompt.h"

#include "base/json.h"
#include "text/chat_template.h"

namespace slipstream {

bool uses_template(const Tokenizer& tokenizer, const PromptOptions& options) {
  return !options.raw && tokenizer.chat_template() != nullptr;
}

Result<std::vector<int32_t>> prompt_ids(const Tokenizer& tokenizer,
                                        const std::vector<ChatMessage>& messages,
                                        const PromptOptions& options) {
  if (!uses_template(tokenizer, options)) {
    if (!options.raw && !options.allow_plain) {
      return bad_usage("the model has no chat template; use --raw");
    }
    return tokenizer.encode(messages.back().content);
  }
  SLIPSTREAM_ASSIGN_OR_RETURN(const ChatTemplate chat_template,
                              ChatTemplate::create(*tokenizer.chat_template(),
                                                   tokenizer.bos_token(), tokenizer.eos_token()));
  Json list = Json::array();
  for (const ChatMessage& message : messages) {
    list.push_back(Json{{"role", message.role}, {"content", message.content}});
  }
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::string text,
                              chat_template.apply(list, nullptr, ChatTemplateOptions()));
  // The template writes bos and eos itself.
  EncodeOptions encode;
  encode.add_special = false;
  return tokenizer.encode(text, encode);
}

}  // namespace slipstream
