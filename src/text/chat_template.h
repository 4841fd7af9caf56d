// A model's chat template: messages and tools in, prompt text out, as Hugging Face's
// apply_chat_template(tokenize=False) does it. Immutable; any thread may apply it.
#pragma once

#include <ctime>
#include <optional>
#include <string>

#include "base/json.h"
#include "base/status.h"
#include "text/jinja/jinja.h"

namespace slipstream {

struct ChatTemplateOptions {
  bool add_generation_prompt = true;
  Json variables = Json::object();  // more variables; they may replace every other one
  std::optional<std::tm> now;       // what strftime_now() shows; the local clock when absent
  jinja::RenderLimits limits;
};

class ChatTemplate {
 public:
  static Result<ChatTemplate> create(std::string source, std::string bos_token,
                                     std::string eos_token);

  // `tools` is null or an array. An error's message opens with its kind: "TemplateError: ...".
  Result<std::string> apply(const Json& messages, const Json& tools,
                            const ChatTemplateOptions& options) const;

 private:
  ChatTemplate(jinja::Template compiled, std::string bos_token, std::string eos_token);

  jinja::Template template_;
  std::string bos_token_;
  std::string eos_token_;
};

// One line of the render command: {"messages", "tools", "variables": {...}, "now": "ISO time"},
// rendered with exactly these variables, to {"text"} or {"error", "error_type"}.
Json render_line(const jinja::Template& compiled, const Json& line);

}  // namespace slipstream
