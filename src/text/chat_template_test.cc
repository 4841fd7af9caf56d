// The chat template contract: Hugging Face's variables, the render line, and every rendered case
// of the shared templates when they are there.
#include "text/chat_template.h"

#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <sstream>

namespace slipstream {
namespace {

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

const char kChatMl[] =
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

Json user_says(const std::string& text) {
  return Json::array({{{"role", "user"}, {"content", text}}});
}

TEST(ChatTemplate, RendersMessagesWithAndWithoutGenerationPrompt) {
  auto chat = ChatTemplate::create(kChatMl, "", "");
  ASSERT_TRUE(chat.ok()) << chat.status().message();
  auto open = chat->apply(user_says("hi"), nullptr, {});
  ASSERT_TRUE(open.ok());
  EXPECT_EQ(open.value(), "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n");
  ChatTemplateOptions closed_options;
  closed_options.add_generation_prompt = false;
  auto closed = chat->apply(user_says("hi"), nullptr, closed_options);
  EXPECT_EQ(closed.value(), "<|im_start|>user\nhi<|im_end|>\n");
}

TEST(ChatTemplate, ExtraVariablesReachTheTemplateAndMayReplaceTokens) {
  auto chat = ChatTemplate::create("{{ bos_token }}{{ eos_token }}{{ mode }}", "<s>", "</s>");
  ASSERT_TRUE(chat.ok());
  ChatTemplateOptions options;
  options.variables = {{"mode", "x"}, {"eos_token", "<e>"}};
  EXPECT_EQ(chat->apply(user_says(""), nullptr, options).value(), "<s><e>x");
}

TEST(ChatTemplate, AbsentTokensAndToolsAreUndefinedAndNone) {
  auto chat = ChatTemplate::create("{{ bos_token is defined }} {{ tools is none }}", "", "");
  ASSERT_TRUE(chat.ok());
  EXPECT_EQ(chat->apply(user_says(""), nullptr, {}).value(), "False True");
}

TEST(ChatTemplate, RaisedExceptionIsReportedWithItsKindAndMessage) {
  auto chat = ChatTemplate::create("{{ raise_exception('no system role') }}", "", "");
  ASSERT_TRUE(chat.ok());
  auto result = chat->apply(user_says(""), nullptr, {});
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.status().message(), "TemplateError: no system role");
}

TEST(ChatTemplate, TextOfMessagesIsNeverReadAsTemplate) {
  auto chat = ChatTemplate::create(kChatMl, "", "");
  ASSERT_TRUE(chat.ok());
  auto result = chat->apply(user_says("{{ 7 * 7 }}{% raw %}"), nullptr, {});
  ASSERT_TRUE(result.ok());
  EXPECT_NE(result.value().find("{{ 7 * 7 }}{% raw %}"), std::string::npos);
}

TEST(ChatTemplate, BrokenTemplateIsAnInvalidModelThatNamesTheLine) {
  auto chat = ChatTemplate::create("a\n{% if %}", "", "");
  ASSERT_FALSE(chat.ok());
  EXPECT_EQ(chat.status().code(), StatusCode::kInvalidModel);
  EXPECT_NE(chat.status().message().find("line 2"), std::string::npos);
}

TEST(RenderLine, TakesVariablesAndTimeFromTheLine) {
  auto compiled = jinja::Template::parse("{{ bos_token }}{{ strftime_now('%d %b %Y %A %j') }}");
  ASSERT_TRUE(compiled.ok());
  const Json line = {{"messages", Json::array()},
                     {"variables", {{"bos_token", "<s>"}}},
                     {"now", "2026-01-02T03:04:05"}};
  EXPECT_EQ(render_line(compiled.value(), line)["text"], "<s>02 Jan 2026 Friday 002");
}

TEST(RenderLine, ReportsBadTimesAndTemplateErrors) {
  auto compiled = jinja::Template::parse("{{ messages.x.y }}");
  ASSERT_TRUE(compiled.ok());
  const Json failing = render_line(compiled.value(), {{"messages", Json::array()}});
  EXPECT_EQ(failing["error_type"], "UndefinedError");
  EXPECT_EQ(failing["error"], "'list object' has no attribute 'x'");
  for (const char* time : {"yesterday", "2026-02-30T00:00:00", "2026-01-02T25:00:00", "2026-1-2"}) {
    EXPECT_TRUE(render_line(compiled.value(), {{"now", time}}).contains("error")) << time;
  }
  EXPECT_TRUE(render_line(compiled.value(), Json(3)).contains("error"));
}

// Every template renders every case to the byte, and fails where Python's jinja2 fails, with the
// same message where the template itself wrote the message.
TEST(GoldenTemplates, EveryCaseMatchesPythonsJinja2) {
  const std::string folder = SLIPSTREAM_SOURCE_DIR "/../shared/templates/";
  const std::string golden_text = read_file(folder + "golden.json");
  if (golden_text.empty()) GTEST_SKIP() << "no " << folder << "golden.json on this machine";
  auto golden = parse_json(golden_text, "golden.json");
  ASSERT_TRUE(golden.ok()) << golden.status().message();
  std::map<std::string, jinja::Template> templates;
  size_t num_failing = 0;
  for (const Json& test : golden.value()) {
    const std::string name = test["template"];
    auto it = templates.find(name);
    if (it == templates.end()) {
      auto compiled = jinja::Template::parse(read_file(folder + name));
      ASSERT_TRUE(compiled.ok()) << name << ": " << compiled.status().message();
      it = templates.emplace(name, std::move(compiled).value()).first;
    }
    const std::string label = name + " / " + test["case"].get<std::string>();
    const Json got = render_line(it->second, test);
    if (test.contains("expected")) {
      EXPECT_TRUE(got.contains("text") && got["text"] == test["expected"])
          << label << "\n got: " << dump_json(got) << "\n want: " << dump_json(test["expected"]);
      continue;
    }
    ++num_failing;
    EXPECT_EQ(Json(got.value("error_type", "none")), test["error_type"]) << label << dump_json(got);
    EXPECT_EQ(got.value("error", "none"), test["error"].get<std::string>()) << label;
  }
  EXPECT_EQ(golden->size(), 1182u);
  EXPECT_EQ(num_failing, 160u);
}

}  // namespace
}  // namespace slipstream
