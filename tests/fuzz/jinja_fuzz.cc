// Feeds arbitrary template source to the parser and, when it parses, renders it with a small fixed
// conversation under small limits. Whatever comes in, the engine answers with text or an error.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "text/jinja/jinja.h"

namespace {

slipstream::Json make_variables() {
  using slipstream::Json;
  Json variables = Json::object();
  variables["messages"] = Json::array(
      {{{"role", "system"}, {"content", "be brief"}},
       {{"role", "user"}, {"content", Json::array({{{"type", "text"}, {"text", "h\u00e9llo"}}})}},
       {{"role", "assistant"},
        {"content", nullptr},
        {"tool_calls",
         Json::array({{{"function", {{"name", "f"}, {"arguments", {{"a", 1.5}, {"b", -2}}}}}}})}}});
  variables["tools"] = Json::array({{{"type", "function"}, {"function", {{"name", "f"}}}}});
  variables["bos_token"] = "<s>";
  variables["add_generation_prompt"] = true;
  return variables;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const slipstream::Json kVariables = make_variables();
  const std::string_view source(reinterpret_cast<const char*>(data), size);
  auto compiled = slipstream::jinja::Template::parse(source);
  if (!compiled.ok()) return 0;
  slipstream::jinja::RenderOptions options;
  options.limits.max_steps = 20'000;
  options.limits.max_produced_bytes = 1 << 20;
  options.limits.max_output_bytes = 1 << 16;
  options.now = std::tm{};
  (void)compiled->render(kVariables, options);
  return 0;
}
