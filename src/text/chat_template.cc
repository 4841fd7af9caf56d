// Owns which variables a chat template sees. How templates run is in jinja/.
#include "text/chat_template.h"

#include <utility>

#include "base/strings.h"

namespace slipstream {
namespace {

Json error_line(const std::string& message, const std::string& type) {
  Json out = Json::object();
  out["error"] = message;
  out["error_type"] = type;
  return out;
}

}  // namespace

ChatTemplate::ChatTemplate(jinja::Template compiled, std::string bos_token, std::string eos_token)
    : template_(std::move(compiled)),
      bos_token_(std::move(bos_token)),
      eos_token_(std::move(eos_token)) {}

Result<ChatTemplate> ChatTemplate::create(std::string source, std::string bos_token,
                                          std::string eos_token) {
  auto compiled = jinja::Template::parse(source);
  if (!compiled.ok()) return compiled.status().in("chat template");
  return ChatTemplate(std::move(compiled).value(), std::move(bos_token), std::move(eos_token));
}

Result<std::string> ChatTemplate::apply(const Json& messages, const Json& tools,
                                        const ChatTemplateOptions& options) const {
  Json variables = Json::object();
  variables["messages"] = messages;
  variables["tools"] = tools;
  variables["documents"] = nullptr;
  variables["add_generation_prompt"] = options.add_generation_prompt;
  // A tokenizer without such a token leaves the variable undefined, as Hugging Face does.
  if (!bos_token_.empty()) variables["bos_token"] = bos_token_;
  if (!eos_token_.empty()) variables["eos_token"] = eos_token_;
  if (options.variables.is_object()) variables.update(options.variables);
  jinja::RenderResult result =
      template_.render(variables, {.limits = options.limits, .now = options.now});
  if (result.ok()) return std::move(result.text);
  return failed(str(jinja::error_kind_name(result.error->kind), ": ", result.error->message));
}

Json render_line(const jinja::Template& compiled, const Json& line) {
  if (!line.is_object()) return error_line("the line is not a JSON object", "ValueError");
  Json variables = Json::object();
  const auto extra = line.find("variables");
  if (extra != line.end() && !extra->is_null()) {
    if (!extra->is_object()) return error_line("variables: expected an object", "ValueError");
    variables = *extra;
  }
  for (const char* name : {"messages", "tools"}) {
    const auto it = line.find(name);
    if (it != line.end()) variables[name] = *it;
  }
  jinja::RenderOptions options;
  const auto now = line.find("now");
  if (now != line.end() && !now->is_null()) {
    if (!now->is_string()) return error_line("now: expected an ISO time", "ValueError");
    auto time = jinja::parse_iso_time(now->get_ref<const std::string&>());
    if (!time.ok()) return error_line(time.status().message(), "ValueError");
    options.now = time.value();
  }
  jinja::RenderResult result = compiled.render(variables, options);
  if (!result.ok()) {
    return error_line(result.error->message, jinja::error_kind_name(result.error->kind));
  }
  Json out = Json::object();
  out["text"] = std::move(result.text);
  return out;
}

}  // namespace slipstream
