#include "server/prompt.h"

#include <algorithm>
#include <array>
#include <unordered_set>
#include <utility>

#include "base/strings.h"
#include "base/utf8.h"
#include "server/text_parts.h"
#include "slipstream/engine.h"
#include "text/chat_template.h"

namespace slipstream {
namespace {

// Code points that no text has: they travel through the template beside what a client wrote and are
// taken out of what it renders.
constexpr std::string_view kPlainBegin = "\xEF\xB7\x90";    // U+FDD0
constexpr std::string_view kPlainEnd = "\xEF\xB7\x91";      // U+FDD1
constexpr std::string_view kFinalContent = "\xEF\xB7\x92";  // U+FDD2: where the last message ends
constexpr std::string_view kMarkPrefix = "\xEF\xB7";
constexpr size_t kMarkBytes = 3;
constexpr size_t kMaxMessageFields = 64;  // each is looked for among those before it

constexpr std::array<std::string_view, 5> kRoles = {"system", "developer", "user", "assistant",
                                                    "tool"};

bool is_mark(std::string_view text, size_t at) {
  const std::string_view bytes = text.substr(at, kMarkBytes);
  return bytes == kPlainBegin || bytes == kPlainEnd || bytes == kFinalContent;
}

// A client's own marks would be taken for ours.
std::string without_marks(const std::string& text) {
  if (text.find(kMarkPrefix) == std::string::npos) return text;
  std::string out;
  for (size_t at = 0; at < text.size();) {
    if (is_mark(text, at)) {
      utf8_append(out, 0xFFFD);
      at += kMarkBytes;
    } else {
      out += text[at++];
    }
  }
  return out;
}

// Marks what spells special tokens in texts a client wrote, and finds it again in what a template
// made of them.
class PlainText {
 public:
  explicit PlainText(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  std::string mark(const std::string& original) {
    std::string text = without_marks(original);
    const std::vector<TextRange> ranges = tokenizer_.find_special(text);
    if (ranges.empty()) return text;
    std::string out;
    size_t done = 0;
    for (const TextRange& range : ranges) {
      out.append(text, done, range.begin - done);
      out += kPlainBegin;
      const std::string spelling = text.substr(range.begin, range.end - range.begin);
      out += spelling;
      out += kPlainEnd;
      marked_.insert(spelling);
      done = range.end;
    }
    return out.append(text, done);
  }

  // Every string of a value, whatever its place.
  void mark_all(Json& value) {
    if (value.is_string()) {
      value = mark(value.get_ref<const std::string&>());
    } else if (value.is_structured()) {
      for (Json& item : value) mark_all(item);
    }
  }

  // Takes the marks out. What lies between a begin and the end that follows it is plain if it was
  // marked as such; templates may have cut a text in between, and then it is not.
  RenderedPrompt resolve(std::string_view rendered) const {
    RenderedPrompt prompt;
    std::optional<size_t> begin;
    for (size_t at = 0; at < rendered.size();) {
      const size_t next = std::min(rendered.find(kMarkPrefix, at), rendered.size());
      prompt.text += rendered.substr(at, next - at);
      if (next == rendered.size()) break;
      if (!is_mark(rendered, next)) {
        prompt.text += rendered.substr(next, kMarkPrefix.size());
        at = next + kMarkPrefix.size();
        continue;
      }
      const std::string_view found = rendered.substr(next, kMarkBytes);
      if (found == kPlainEnd && begin && marked_.count(prompt.text.substr(*begin)) > 0) {
        prompt.plain_ranges.push_back({*begin, prompt.text.size()});
      }
      begin = found == kPlainBegin ? std::optional(prompt.text.size()) : std::nullopt;
      at = next + kMarkBytes;
    }
    return prompt;
  }

 private:
  const Tokenizer& tokenizer_;
  std::unordered_set<std::string> marked_;
};

ApiError message_error(size_t message_idx, const std::string& field, const std::string& problem) {
  const std::string where = str("messages[", message_idx, "]", field.empty() ? "" : ".", field);
  return invalid_request(where + problem, where);
}

// One message as the template gets it.
ApiResult<Json> read_message(const Json& message, size_t message_idx, PlainText& plain) {
  if (!message.is_object()) {
    return message_error(message_idx, "",
                         str(" is ", message.type_name(), "; it must be an object"));
  }
  if (message.size() > kMaxMessageFields) {
    return message_error(message_idx, "",
                         str(" has ", message.size(), " fields; at most ", kMaxMessageFields));
  }
  const auto role = message.find("role");
  if (role == message.end() || !role->is_string()) {
    return message_error(message_idx, "role", " must be a string");
  }
  const auto& role_name = role->get_ref<const std::string&>();
  if (std::find(kRoles.begin(), kRoles.end(), role_name) == kRoles.end()) {
    return message_error(
        message_idx, "role",
        str(" is ", quote(role_name), "; it must be system, developer, user, assistant or tool"));
  }
  Json out = Json::object();
  // Templates know the older name.
  out["role"] = role_name == "developer" ? "system" : role_name;
  const auto calls = message.find("tool_calls");
  const bool has_calls =
      role_name == "assistant" && calls != message.end() && calls->is_array() && !calls->empty();
  const auto content = message.find("content");
  if (content != message.end() && !content->is_null()) {
    ApiResult<std::string> text = read_text(*content, str("messages[", message_idx, "].content"),
                                            {"text", "input_text", "output_text"});
    if (!text.ok()) return text.error();
    out["content"] = plain.mark(text.value());
  } else if (has_calls) {
    out["content"] = nullptr;
  } else {
    return message_error(message_idx, "content", " is missing");
  }
  if (role_name == "tool") {
    const auto id = message.find("tool_call_id");
    if (id == message.end() || !id->is_string()) {
      return message_error(message_idx, "tool_call_id", " must be a string");
    }
  }
  for (const auto& [name, value] : message.items()) {
    if (name == "role" || name == "content" || value.is_null()) continue;
    out[name] = value;
    plain.mark_all(out[name]);
  }
  return out;
}

ApiError no_template(const PromptEnv& env) {
  if (!env.chat_template_error.empty()) {
    return invalid_request(str("the model's chat template is broken (", env.chat_template_error,
                               "); use /v1/completions"),
                           "messages", "template_error");
  }
  return invalid_request("the model has no chat template; use /v1/completions", "messages",
                         "template_error");
}

ApiResult<std::string> apply_template(const Json& messages, const PromptSpec& spec,
                                      const PromptEnv& env) {
  ChatTemplateOptions options;
  options.add_generation_prompt = spec.add_generation_prompt;
  options.limits.max_output_bytes = static_cast<uint64_t>(env.limits->max_prompt_bytes) * 2;
  if (!spec.template_kwargs.empty()) {
    Result<Json> variables = parse_json(spec.template_kwargs, "chat_template_kwargs");
    if (!variables.ok()) return invalid_request(variables.status().message());
    options.variables = std::move(variables).value();
  }
  Result<std::string> text = env.chat_template->apply(messages, nullptr, options);
  if (!text.ok()) {
    return invalid_request(str("the chat template refuses the messages: ", text.status().message()),
                           "messages", "template_error");
  }
  return std::move(text).value();
}

ApiResult<std::vector<int32_t>> read_ids(const Json& list, const std::string& where,
                                         const PromptEnv& env) {
  std::vector<int32_t> ids;
  ids.reserve(list.size());
  for (const Json& item : list) {
    if (!item.is_number_integer()) {
      return invalid_request(str(where, " mixes token ids with ", item.type_name()), "prompt");
    }
    const bool fits = !item.is_number_unsigned() || item.get<uint64_t>() <= uint64_t{INT64_MAX};
    const int64_t id = fits ? item.get<int64_t>() : INT64_MAX;
    if (id < 0 || id >= env.model->vocab_size) {
      return invalid_request(str(where, " names token ", dump_json(item),
                                 "; the model has tokens 0 to ", env.model->vocab_size - 1),
                             "prompt");
    }
    ids.push_back(static_cast<int32_t>(id));
  }
  return ids;
}

void truncate(const CallSpec& spec, const PromptEnv& env, std::vector<int32_t>& ids) {
  int64_t longest = spec.prompt.truncate_to_tokens;
  if (longest == 0) return;
  if (longest < 0) {
    const int64_t answer = spec.asks_max_tokens ? spec.sampling.max_tokens.value_or(1)
                                                : std::max<int64_t>(spec.sampling.min_tokens, 1);
    longest = std::max<int64_t>(env.model->max_model_len - answer, 1);
  }
  const auto surplus = std::ssize(ids) - longest;
  if (surplus <= 0) return;
  const auto cut = spec.prompt.truncate_left ? ids.begin() : ids.end() - surplus;
  ids.erase(cut, cut + surplus);
}

std::optional<ApiError> add_prompt(const Json& item, const std::string& where, const PromptEnv& env,
                                   CallSpec& spec) {
  std::vector<int32_t> ids;
  std::string text;
  if (item.is_string()) {
    text = item.get_ref<const std::string&>();
    ApiResult<std::vector<int32_t>> encoded = prompt_ids({text, {}}, spec, env);
    if (!encoded.ok()) return encoded.error();
    ids = std::move(encoded).value();
  } else {
    ApiResult<std::vector<int32_t>> read = read_ids(item, where, env);
    if (!read.ok()) return read.error();
    ids = std::move(read).value();
    truncate(spec, env, ids);
    if ((spec.echo || spec.return_prompt_text) && env.tokenizer != nullptr) {
      DecodeOptions options;
      options.skip_special = spec.sampling.skip_special_tokens;
      text = env.tokenizer->decode(ids, options);
    }
  }
  if (ids.empty()) return invalid_request(str(where, " is empty"), "prompt");
  spec.prompts.push_back(std::move(ids));
  spec.prompt_texts.push_back(std::move(text));
  return {};
}

}  // namespace

ApiResult<RenderedPrompt> render_chat(const Json& messages, const PromptSpec& spec,
                                      const PromptEnv& env) {
  if (!messages.is_array()) {
    return invalid_request(str("messages is ", messages.type_name(), "; it must be an array"),
                           "messages");
  }
  if (messages.empty()) return invalid_request("messages is empty", "messages");
  if (std::ssize(messages) > env.limits->max_messages) {
    return invalid_request(
        str("messages has ", messages.size(), " entries; at most ", env.limits->max_messages),
        "messages");
  }
  if (env.tokenizer == nullptr) {
    return invalid_request("messages need the tokenizer, which is not loaded", "messages");
  }
  if (env.chat_template == nullptr) return no_template(env);
  PlainText plain(*env.tokenizer);
  Json list = Json::array();
  for (size_t idx = 0; idx < messages.size(); ++idx) {
    ApiResult<Json> message = read_message(messages[idx], idx, plain);
    if (!message.ok()) return message.error();
    list.push_back(std::move(message).value());
  }
  if (spec.continue_final_message) {
    Json& last = list.back()["content"];
    last =
        (last.is_string() ? last.get<std::string>() : std::string()) + std::string(kFinalContent);
  }
  ApiResult<std::string> text = apply_template(list, spec, env);
  if (!text.ok()) return text.error();
  std::string_view rendered = text.value();
  if (spec.continue_final_message) {
    const size_t end = rendered.rfind(kFinalContent);
    if (end == std::string_view::npos) {
      return invalid_request("the chat template does not show the final message",
                             "continue_final_message", "template_error");
    }
    rendered = rendered.substr(0, end);
  }
  return plain.resolve(rendered);
}

ApiResult<std::vector<int32_t>> prompt_ids(const RenderedPrompt& prompt, const CallSpec& spec,
                                           const PromptEnv& env) {
  if (env.tokenizer == nullptr) {
    return invalid_request("text needs the tokenizer, which is not loaded; send token ids",
                           "prompt");
  }
  if (std::ssize(prompt.text) > env.limits->max_prompt_bytes) {
    return payload_too_large(str("the prompt has ", prompt.text.size(), " bytes; at most ",
                                 env.limits->max_prompt_bytes));
  }
  EncodeOptions options;
  options.add_special = spec.prompt.add_special_tokens;
  options.plain_ranges = prompt.plain_ranges;
  Result<std::vector<int32_t>> ids = env.tokenizer->encode(prompt.text, options);
  if (!ids.ok()) return invalid_request(ids.status().message(), "prompt");
  truncate(spec, env, ids.value());
  return std::move(ids).value();
}

std::optional<ApiError> make_chat_prompt(const Json& messages, const PromptEnv& env,
                                         CallSpec& spec) {
  ApiResult<RenderedPrompt> rendered = render_chat(messages, spec.prompt, env);
  if (!rendered.ok()) return rendered.error();
  ApiResult<std::vector<int32_t>> ids = prompt_ids(rendered.value(), spec, env);
  if (!ids.ok()) return ids.error();
  if (ids->empty()) {
    return invalid_request("the chat template makes no prompt of the messages", "messages",
                           "template_error");
  }
  spec.prompts.push_back(std::move(ids).value());
  spec.prompt_texts.push_back(spec.return_prompt_text ? std::move(rendered->text) : std::string());
  return {};
}

std::optional<ApiError> make_completion_prompts(const Json& prompt, const PromptEnv& env,
                                                CallSpec& spec) {
  if (prompt.is_string()) return add_prompt(prompt, "prompt", env, spec);
  if (!prompt.is_array()) {
    return invalid_request(str("prompt is ", prompt.type_name(),
                               "; it must be a string, strings, token ids or lists of token ids"),
                           "prompt");
  }
  if (prompt.empty()) return invalid_request("prompt is an empty array", "prompt");
  if (prompt.front().is_number()) return add_prompt(prompt, "prompt", env, spec);
  if (std::ssize(prompt) > env.limits->max_prompts) {
    return invalid_request(
        str("prompt has ", prompt.size(), " prompts; at most ", env.limits->max_prompts), "prompt");
  }
  const bool texts = prompt.front().is_string();
  for (size_t idx = 0; idx < prompt.size(); ++idx) {
    const std::string where = str("prompt[", idx, "]");
    const bool same_kind = texts ? prompt[idx].is_string() : prompt[idx].is_array();
    if (!same_kind) {
      return invalid_request(str(where, " is ", prompt[idx].type_name(), "; all prompts must be ",
                                 texts ? "strings" : "lists of token ids"),
                             "prompt");
    }
    if (auto error = add_prompt(prompt[idx], where, env, spec)) return error;
  }
  return {};
}

}  // namespace slipstream
