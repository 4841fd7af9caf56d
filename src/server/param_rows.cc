// The rows of the parameter table: every field, its range, its default and its sentence.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <utility>

#include "base/strings.h"
#include "server/param_makers.h"
#include "server/params.h"
#include "text/tokenizer.h"

namespace slipstream {
namespace {

using Error = ParamError;

constexpr int64_t kMaxTokens = INT32_MAX;
constexpr int64_t kMaxPriority = 1'000'000;
constexpr size_t kMaxMetadataPairs = 16;
constexpr size_t kMaxMetadataKeyBytes = 64;
constexpr size_t kMaxMetadataValueBytes = 512;
constexpr size_t kMaxBadWords = 64;
constexpr size_t kMaxBadWordBytes = 256;
constexpr size_t kMaxBadWordTokens = 128;  // what the engine takes
constexpr size_t kMaxTemplateKwargsBytes = 16 << 10;

// --- Setters of the fields that are more than one number ---

Error read_bias(const Json& value, int32_t id, SamplingParams& sampling) {
  if (value.is_boolean() && !value.get<bool>()) {
    sampling.bad_token_ids.push_back({id});  // llama.cpp: false is never
    return {};
  }
  if (!value.is_number()) {
    return invalid_request(
        str("logit_bias of token ", id, " is ", value.type_name(), "; it must be a number"));
  }
  const double bias = value.get<double>();
  if (!(bias >= -100.0 && bias <= 100.0)) {
    return invalid_request(
        str("logit_bias of token ", id, " is ", bias, "; it must be between -100 and 100"));
  }
  sampling.logit_bias.emplace_back(id, static_cast<float>(bias));
  return {};
}

Error set_logit_bias(ParsedParams& parsed, const ParamEnv& env, const Json& value) {
  if (!value.is_object() && !value.is_array()) {
    return invalid_request(
        str("logit_bias is ", value.type_name(), "; it must be an object of token ids and biases"));
  }
  if (std::ssize(value) > env.limits->max_logit_bias) {
    return invalid_request(
        str("logit_bias has ", value.size(), " entries; at most ", env.limits->max_logit_bias));
  }
  SamplingParams& sampling = parsed.spec.sampling;
  for (const auto& [key, item] : value.items()) {
    Json id_json;
    const Json* bias = &item;
    if (value.is_object()) {
      int64_t id = 0;
      const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
      if (error != std::errc() || end != key.data() + key.size()) {
        return invalid_request(str("logit_bias has the key ", quote(key), "; keys are token ids"));
      }
      id_json = id;
    } else {
      if (!item.is_array() || item.size() != 2) {
        return invalid_request("logit_bias as an array holds pairs [token id, bias]");
      }
      id_json = item[0];
      bias = &item[1];
    }
    int32_t id = 0;
    if (auto error = read_token_id("logit_bias", id_json, env, id)) return error;
    if (auto error = read_bias(*bias, id, sampling)) return error;
  }
  return {};
}

// A word at the start of a text and inside it are different tokens; both are banned.
Error set_bad_words(ParsedParams& parsed, const ParamEnv& env, const Json& value) {
  if (!value.is_array()) {
    return invalid_request(
        str("bad_words is ", value.type_name(), "; it must be an array of strings"));
  }
  if (value.size() > kMaxBadWords) {
    return invalid_request(str("bad_words has ", value.size(), " strings; at most ", kMaxBadWords));
  }
  if (env.tokenizer == nullptr && !value.empty()) {
    return invalid_request("bad_words needs the tokenizer, which is not loaded");
  }
  EncodeOptions options;
  options.add_special = false;
  options.parse_special = false;
  std::vector<std::vector<int32_t>>& banned = parsed.spec.sampling.bad_token_ids;
  for (const Json& item : value) {
    if (!item.is_string() || item.get_ref<const std::string&>().empty()) {
      return invalid_request("bad_words holds strings that are not empty");
    }
    const auto& word = item.get_ref<const std::string&>();
    if (word.size() > kMaxBadWordBytes) {
      return invalid_request(
          str("bad_words has a string of ", word.size(), " bytes; at most ", kMaxBadWordBytes));
    }
    for (const std::string& spelling : {word, " " + word}) {
      Result<std::vector<int32_t>> ids = env.tokenizer->encode(spelling, options);
      if (!ids.ok()) return invalid_request(ids.status().message());
      if (ids->empty()) continue;
      if (ids->size() > kMaxBadWordTokens) {
        return invalid_request(
            str("bad_words has a string of ", ids->size(), " tokens; at most ", kMaxBadWordTokens));
      }
      if (std::find(banned.begin(), banned.end(), ids.value()) == banned.end()) {
        banned.push_back(std::move(ids).value());
      }
    }
  }
  return {};
}

Error set_stream_options(ParsedParams& parsed, const ParamEnv&, const Json& value) {
  if (!value.is_object()) {
    return invalid_request(str("stream_options is ", value.type_name(), "; it must be an object"));
  }
  parsed.stream_options = true;
  for (const auto& [name, flag] :
       {std::pair("include_usage", &parsed.spec.include_usage),
        std::pair("continuous_usage_stats", &parsed.spec.continuous_usage)}) {
    const auto item = value.find(name);
    if (item == value.end() || item->is_null()) continue;
    if (!item->is_boolean()) {
      return invalid_request(
          str("stream_options.", name, " is ", item->type_name(), "; it must be true or false"),
          str("stream_options.", name));
    }
    *flag = item->get<bool>();
  }
  return {};
}

Error set_completion_logprobs(ParsedParams& parsed, const ParamEnv&, const Json& value) {
  // Some clients send chat's booleans.
  if (value.is_boolean()) {
    if (value.get<bool>()) parsed.spec.sampling.logprobs = 0;
    return {};
  }
  int64_t count = 0;
  if (auto error = read_integer("logprobs", value, count)) return error;
  if (count < 0 || count > 20) {
    return invalid_request(str("logprobs is ", count, "; it must be between 0 and 20"));
  }
  parsed.spec.sampling.logprobs = static_cast<int32_t>(count);
  return {};
}

Error set_response_format(ParsedParams&, const ParamEnv&, const Json& value) {
  if (!value.is_object()) {
    return invalid_request(
        str("response_format is ", value.type_name(), "; it must be an object with a type"));
  }
  const auto type = value.find("type");
  if (type == value.end() || !type->is_string()) {
    return invalid_request("response_format.type is missing; the only one served is \"text\"",
                           "response_format.type");
  }
  if (*type != "text") {
    return invalid_request(str("response_format.type ", quote(type->get_ref<const std::string&>()),
                               " is not supported; the only one served is \"text\""),
                           "response_format.type", "unsupported_parameter");
  }
  return {};
}

Error set_tools(ParsedParams&, const ParamEnv&, const Json& value) {
  if (!value.is_array()) {
    return invalid_request(str("tools is ", value.type_name(), "; it must be an array"));
  }
  if (value.empty()) return {};
  return invalid_request("tools are not supported; send none", "", "unsupported_parameter");
}

Error set_tool_choice(ParsedParams&, const ParamEnv&, const Json& value) {
  if (value == "none" || value == "auto") return {};  // auto without tools is none
  return invalid_request("tool_choice needs tools, which are not supported; send \"none\"", "",
                         "unsupported_parameter");
}

Error set_modalities(ParsedParams&, const ParamEnv&, const Json& value) {
  if (value == Json::array({"text"})) return {};
  return invalid_request("modalities other than [\"text\"] are not supported", "",
                         "unsupported_parameter");
}

Error set_metadata(ParsedParams&, const ParamEnv&, const Json& value) {
  if (!value.is_object()) {
    return invalid_request(str("metadata is ", value.type_name(), "; it must be an object"));
  }
  if (value.size() > kMaxMetadataPairs) {
    return invalid_request(
        str("metadata has ", value.size(), " pairs; at most ", kMaxMetadataPairs));
  }
  for (const auto& [key, item] : value.items()) {
    if (!item.is_string() || key.size() > kMaxMetadataKeyBytes ||
        item.get_ref<const std::string&>().size() > kMaxMetadataValueBytes) {
      return invalid_request(str("metadata holds strings of at most ", kMaxMetadataValueBytes,
                                 " bytes under keys of at most ", kMaxMetadataKeyBytes));
    }
  }
  return {};
}

Error set_template_kwargs(ParsedParams& parsed, const ParamEnv& env, const Json& value) {
  if (!value.is_object()) {
    return invalid_request(
        str("chat_template_kwargs is ", value.type_name(), "; it must be an object"));
  }
  if (value.empty()) return {};
  if (!env.allow_template_kwargs) {
    return invalid_request(
        "chat_template_kwargs are not allowed by this server (serve "
        "--allow-chat-template-kwargs)",
        "", "unsupported_parameter");
  }
  // What a template gets from elsewhere is not a variable of the request.
  for (const char* reserved :
       {"messages", "tools", "documents", "bos_token", "eos_token", "add_generation_prompt"}) {
    if (value.contains(reserved)) {
      return invalid_request(str("chat_template_kwargs may not set ", quote(reserved)));
    }
  }
  parsed.spec.prompt.template_kwargs = dump_json(value);
  if (parsed.spec.prompt.template_kwargs.size() > kMaxTemplateKwargsBytes) {
    return invalid_request(
        str("chat_template_kwargs is larger than ", kMaxTemplateKwargsBytes, " bytes"));
  }
  return {};
}

Error set_truncation_side(ParsedParams& parsed, const ParamEnv&, const Json& value) {
  if (value != "left" && value != "right") {
    return invalid_request("truncation_side must be \"left\" or \"right\"");
  }
  parsed.spec.prompt.truncate_left = value == "left";
  return {};
}

// --- The rows, by group ---

void add_input_rows(std::vector<ParamRow>& rows, const ServerLimits& limits) {
  rows.push_back(custom_row(
      {"model", kGenerateApis | kCountTokensApi, "request",
       "The served model; absent: the one that is loaded."},
      {{"type", "string"}},
      [](ParsedParams& parsed, const ParamEnv& env, const Json& value) -> Error {
        if (!value.is_string()) {
          return invalid_request(str("model is ", value.type_name(), "; it must be a string"));
        }
        parsed.spec.model = value.get<std::string>();
        const std::vector<std::string>& names = *env.model_names;
        if (std::find(names.begin(), names.end(), parsed.spec.model) == names.end()) {
          return model_not_found(parsed.spec.model);
        }
        return {};
      }));
  rows.push_back(custom_row(
      {"messages", kChatApi, "request",
       "The conversation: objects with `role` (`system`, `developer`, `user`, `assistant`, `tool`) "
       "and `content` (a string or text parts)."},
      {{"type", "array"}, {"items", {{"type", "object"}}}, {"maxItems", limits.max_messages}},
      [](ParsedParams& parsed, const ParamEnv&, const Json& value) -> Error {
        parsed.messages = &value;
        return {};
      }));
  rows.push_back(custom_row(
      {"prompt", kCompletionsApi, "request",
       "One prompt or several: text, or token ids. Special tokens spelled in it count as such."},
      {{"oneOf", Json::array({{{"type", "string"}},
                              {{"type", "array"}, {"items", {{"type", "string"}}}},
                              {{"type", "array"}, {"items", {{"type", "integer"}}}},
                              {{"type", "array"},
                               {"items", {{"type", "array"}, {"items", {{"type", "integer"}}}}}}})},
       {"maxItems", limits.max_prompts}},
      [](ParsedParams& parsed, const ParamEnv&, const Json& value) -> Error {
        parsed.prompt = &value;
        return {};
      }));
}

void add_request_rows(std::vector<ParamRow>& rows) {
  rows.push_back(bool_row(
      {"stream", kGenerateApis, "request", "Send tokens as they are made, as server-sent events."},
      false, [](ParsedParams& parsed, bool value) { parsed.spec.stream = value; }));
  rows.push_back(custom_row({"stream_options", kChatApi | kCompletionsApi, "request",
                             "With `stream`: `include_usage` ends the stream with a usage chunk, "
                             "`continuous_usage_stats` "
                             "puts the usage so far into every chunk."},
                            {{"type", "object"},
                             {"properties",
                              {{"include_usage", {{"type", "boolean"}}},
                               {"continuous_usage_stats", {{"type", "boolean"}}}}}},
                            set_stream_options));
  rows.push_back(int_row({"stream_interval", kChatApi | kCompletionsApi, "request",
                          "Tokens per streamed chunk; the first and the last are never held."},
                         {1, 1024, 1}, [](ParsedParams& parsed, int64_t value) {
                           parsed.spec.stream_interval = static_cast<int32_t>(value);
                         }));
  rows.push_back(int_row(
      {"priority", kGenerateApis, "request", "Lower runs first; waiting raises it over time."},
      {-kMaxPriority, kMaxPriority, 0}, [](ParsedParams& parsed, int64_t value) {
        parsed.spec.priority = static_cast<int32_t>(value);
      }));
  rows.push_back(label_row(
      {"cache_salt", kGenerateApis, "request",
       "Only requests of the same key with the same salt share cached prefixes."},
      [](ParsedParams& parsed, std::string value) { parsed.spec.cache_salt = std::move(value); }));
  rows.push_back(label_row(
      {"user", kGenerateApis, "request", "A label for the log; it selects nothing."},
      [](ParsedParams& parsed, std::string value) { parsed.spec.user = std::move(value); }));
  rows.push_back(label_row({"request_id", kChatApi | kCompletionsApi, "request",
                            "Accepted and ignored: send the header x-request-id."},
                           [](ParsedParams&, std::string) {}));
  rows.push_back(custom_row({"metadata", kChatApi | kCompletionsApi | kResponsesApi, "request",
                             "Checked, and part of a response object; nothing is stored."},
                            {{"type", "object"}}, set_metadata));
}

void add_length_rows(std::vector<ParamRow>& rows) {
  rows.push_back(
      int_row({"max_completion_tokens", kChatApi | kCompletionsApi, "length",
               "Longest answer. Default: the rest of the context (chat), 16 (completions)."},
              {0, kMaxTokens},
              [](ParsedParams& parsed, int64_t value) { parsed.max_completion_tokens = value; }));
  rows.push_back(int_row(
      {"max_tokens", kChatApi | kCompletionsApi, "length",
       "The older name of `max_completion_tokens`; both may be sent if they agree. 0 only scores "
       "the prompt (`echo`, `prompt_logprobs`)."},
      {0, kMaxTokens}, [](ParsedParams& parsed, int64_t value) { parsed.max_tokens = value; }));
  rows.push_back(int_row(
      {"min_tokens", kGenerateApis, "length",
       "No stop token and no stop string ends the answer before so many tokens."},
      {0, kMaxTokens, 0},
      [](ParsedParams& parsed, int64_t value) { parsed.spec.sampling.min_tokens = value; }));
}

void add_sampling_rows(std::vector<ParamRow>& rows) {
  const char* group = "sampling";
  rows.push_back(number_row(
      {"temperature", kGenerateApis, group, "0 is greedy. Default: the model's, else 1."},
      {0.0, 100.0},
      [](ParsedParams& parsed, float value) { parsed.spec.sampling.temperature = value; }));
  rows.push_back(number_row(
      {"top_p", kGenerateApis, group,
       "Keeps the smallest set of tokens with this probability; 0 keeps one. Default: the model's, "
       "else 1."},
      {0.0, 1.0}, [](ParsedParams& parsed, float value) {
        // The sampler wants a positive share; the smallest keeps the likeliest token alone.
        parsed.spec.sampling.top_p = std::max(value, 1e-20f);
      }));
  rows.push_back(
      int_row({"top_k", kGenerateApis, group,
               "Keeps the likeliest tokens; 0 and -1 keep all. Default: the model's, else 0."},
              {-1, INT32_MAX}, [](ParsedParams& parsed, int64_t value) {
                parsed.spec.sampling.top_k = static_cast<int32_t>(std::max<int64_t>(value, 0));
              }));
  rows.push_back(number_row(
      {"min_p", kGenerateApis, group,
       "Drops tokens below this share of the likeliest one's probability."},
      {0.0, 1.0}, [](ParsedParams& parsed, float value) { parsed.spec.sampling.min_p = value; }));
  rows.push_back(number_row(
      {"repetition_penalty", kGenerateApis, group,
       "Divides positive and multiplies negative logits of tokens seen before. Default: the "
       "model's, else 1."},
      {0.01, 100.0},
      [](ParsedParams& parsed, float value) { parsed.spec.sampling.repetition_penalty = value; }));
  rows.push_back(number_row(
      {"presence_penalty", kGenerateApis, group, "Subtracted once per generated token id."},
      {-2.0, 2.0, false, 0.0},
      [](ParsedParams& parsed, float value) { parsed.spec.sampling.presence_penalty = value; }));
  rows.push_back(number_row(
      {"frequency_penalty", kGenerateApis, group, "Subtracted per occurrence of a token id."},
      {-2.0, 2.0, false, 0.0},
      [](ParsedParams& parsed, float value) { parsed.spec.sampling.frequency_penalty = value; }));
  rows.push_back(int_row(
      {"seed", kGenerateApis, group,
       "The same request with the same seed gives the same answer. Default: drawn, and reported in "
       "the header x-slipstream-seed."},
      {INT64_MIN, INT64_MAX}, [](ParsedParams& parsed, int64_t value) {
        parsed.spec.sampling.seed = static_cast<uint64_t>(value);
      }));
  rows.push_back(custom_row(
      {"logit_bias", kChatApi | kCompletionsApi, group,
       "Token ids and what is added to their logits, -100 to 100; as pairs also `[id, false]` for "
       "never."},
      {{"type", "object"}, {"additionalProperties", {{"type", "number"}}}}, set_logit_bias));
  rows.push_back(
      token_ids_row({"allowed_token_ids", kGenerateApis, group, "Only these tokens may be chosen."},
                    [](ParsedParams& parsed, std::vector<int32_t> ids) {
                      parsed.spec.sampling.allowed_token_ids = std::move(ids);
                    }));
  rows.push_back(
      custom_row({"bad_words", kGenerateApis, group,
                  "Strings whose tokens never follow each other in the answer."},
                 {{"type", "array"}, {"items", {{"type", "string"}}}, {"maxItems", kMaxBadWords}},
                 set_bad_words));
}

void add_stop_rows(std::vector<ParamRow>& rows, const ServerLimits& limits) {
  rows.push_back(custom_row(
      {"stop", kChatApi | kCompletionsApi | kResponsesApi, "stopping",
       "Strings that end the answer; they are not part of its text."},
      {{"oneOf",
        Json::array({{{"type", "string"}}, {{"type", "array"}, {"items", {{"type", "string"}}}}})},
       {"maxItems", limits.max_stop_strings}},
      [](ParsedParams& parsed, const ParamEnv& env, const Json& value) {
        return read_stop_strings("stop", parsed, env, value);
      }));
  rows.push_back(
      token_ids_row({"stop_token_ids", kGenerateApis, "stopping", "Tokens that end the answer."},
                    [](ParsedParams& parsed, std::vector<int32_t> ids) {
                      parsed.spec.sampling.stop_token_ids = std::move(ids);
                    }));
  rows.push_back(bool_row({"include_stop_str_in_output", kGenerateApis, "stopping",
                           "The stop string or token that ended the answer is part of its text."},
                          false, [](ParsedParams& parsed, bool value) {
                            parsed.spec.sampling.include_stop_in_output = value;
                          }));
  rows.push_back(bool_row(
      {"ignore_eos", kGenerateApis, "stopping", "Go on after the model's own end tokens."}, false,
      [](ParsedParams& parsed, bool value) { parsed.spec.sampling.ignore_eos = value; }));
}

void add_output_rows(std::vector<ParamRow>& rows, const ServerLimits& limits) {
  const uint32_t both = kChatApi | kCompletionsApi;
  const char* group = "output";
  rows.push_back(int_row(
      {"n", both, group, "Answers to each prompt."}, {1, limits.max_n, 1},
      [](ParsedParams& parsed, int64_t value) { parsed.spec.n = static_cast<int32_t>(value); }));
  rows.push_back(int_row({"best_of", kCompletionsApi, group, "Must equal `n` when sent."},
                         {1, limits.max_n},
                         [](ParsedParams& parsed, int64_t value) { parsed.best_of = value; }));
  rows.push_back(bool_row({"logprobs", kChatApi, group, "Report each token's log-probability."},
                          false,
                          [](ParsedParams& parsed, bool value) { parsed.wants_logprobs = value; }));
  rows.push_back(custom_row({"logprobs", kCompletionsApi, group,
                             "Report each token's log-probability and so many alternatives."},
                            {{"type", "integer"}, {"minimum", 0}, {"maximum", 20}},
                            set_completion_logprobs));
  rows.push_back(int_row({"top_logprobs", kChatApi | kResponsesApi, group,
                          "With `logprobs`: so many alternatives per token."},
                         {0, 20}, [](ParsedParams& parsed, int64_t value) {
                           parsed.top_logprobs = static_cast<int32_t>(value);
                         }));
  rows.push_back(
      int_row({"prompt_logprobs", both, group, "The same for every token of the prompt."}, {0, 20},
              [](ParsedParams& parsed, int64_t value) {
                parsed.spec.sampling.prompt_logprobs = static_cast<int32_t>(value);
              }));
  rows.push_back(bool_row({"echo", kCompletionsApi, group, "The prompt opens the answer's text."},
                          false,
                          [](ParsedParams& parsed, bool value) { parsed.spec.echo = value; }));
  rows.push_back(bool_row(
      {"skip_special_tokens", kGenerateApis, group, "Leave special tokens out of the text."}, true,
      [](ParsedParams& parsed, bool value) { parsed.spec.sampling.skip_special_tokens = value; }));
  rows.push_back(bool_row({"spaces_between_special_tokens", kGenerateApis, group,
                           "Accepted; special tokens are written without spaces between them."},
                          true, [](ParsedParams&, bool) {}));
  rows.push_back(bool_row(
      {"return_token_ids", both, group,
       "Add `prompt_token_ids` to the answer or its first chunk, and `token_ids` to every choice."},
      false, [](ParsedParams& parsed, bool value) { parsed.spec.return_token_ids = value; }));
  rows.push_back(
      bool_row({"return_tokens_as_token_ids", both, group,
                "Log-probabilities name tokens `token_id:42` instead of their text."},
               false, [](ParsedParams& parsed, bool value) { parsed.spec.tokens_as_ids = value; }));
  rows.push_back(bool_row(
      {"return_prompt_text", both, group, "Add `prompt_text`, the prompt as the model saw it."},
      false, [](ParsedParams& parsed, bool value) { parsed.spec.return_prompt_text = value; }));
  rows.push_back(bool_row(
      {"timings", kGenerateApis, group,
       "Add `timings`: tokens per second, time to the first token, share of the memory roof."},
      false, [](ParsedParams& parsed, bool value) { parsed.spec.timings = value; }));
}

void add_prompt_rows(std::vector<ParamRow>& rows) {
  const uint32_t both = kChatApi | kCompletionsApi;
  const char* group = "prompt";
  rows.push_back(bool_row(
      {"add_generation_prompt", kChatApi, group, "Open the assistant's turn after the messages."},
      true, [](ParsedParams& parsed, bool value) { parsed.add_generation_prompt = value; }));
  rows.push_back(bool_row({"continue_final_message", kChatApi, group,
                           "The answer continues the last message, whose turn stays open."},
                          false, [](ParsedParams& parsed, bool value) {
                            parsed.spec.prompt.continue_final_message = value;
                          }));
  rows.push_back(bool_row(
      {"add_special_tokens", both, group,
       "Put bos and eos around the prompt as the tokenizer says. Default: true (completions), "
       "false "
       "(chat, whose template writes them)."},
      {}, [](ParsedParams& parsed, bool value) { parsed.spec.prompt.add_special_tokens = value; }));
  rows.push_back(int_row({"truncate_prompt_tokens", both, group,
                          "Cut longer prompts to so many tokens; -1 to what the context allows."},
                         {-1, kMaxTokens}, [](ParsedParams& parsed, int64_t value) {
                           parsed.spec.prompt.truncate_to_tokens = value;
                         }));
  rows.push_back(custom_row({"truncation_side", both, group, "Which end of the prompt is cut off."},
                            {{"type", "string"}, {"enum", {"left", "right"}}, {"default", "left"}},
                            set_truncation_side));
  rows.push_back(refused_row({"chat_template", kGenerateApis, group, "Refused."},
                             "chat_template is not allowed: templates come with the model"));
  rows.push_back(
      custom_row({"chat_template_kwargs", kGenerateApis, group,
                  "More variables of the chat template; only where the server allows them."},
                 {{"type", "object"}}, set_template_kwargs));
}

void add_refused_rows(std::vector<ParamRow>& rows) {
  const uint32_t both = kChatApi | kCompletionsApi;
  const char* group = "unsupported";
  rows.push_back(custom_row({"response_format", both, group, "Only `{\"type\": \"text\"}`."},
                            {{"type", "object"}}, set_response_format));
  rows.push_back(custom_row({"tools", kChatApi | kResponsesApi | kMessagesApi | kCountTokensApi,
                             group, "Only none: null or an empty array."},
                            {{"type", "array"}}, set_tools));
  rows.push_back(
      custom_row({"tool_choice", kChatApi | kResponsesApi, group, "Only `none` or `auto`."},
                 {{"type", "string"}}, set_tool_choice));
  rows.push_back(
      bool_row({"parallel_tool_calls", kChatApi | kResponsesApi, group, "Accepted and ignored."},
               {}, [](ParsedParams&, bool) {}));
  rows.push_back(custom_row({"modalities", kChatApi, group, "Only `[\"text\"]`."},
                            {{"type", "array"}, {"items", {{"type", "string"}}}}, set_modalities));
  for (const char* name : {"functions", "function_call"}) {
    rows.push_back(refused_row({name, kChatApi, group, "Refused."},
                               str(name, " is not supported: tools are not")));
  }
  rows.push_back(refused_row({"audio", kChatApi, group, "Refused."},
                             "audio is not supported: the model writes text"));
  for (const char* name : {"structured_outputs", "guided_json", "guided_regex", "guided_choice",
                           "guided_grammar", "grammar", "json_schema", "regex", "ebnf"}) {
    rows.push_back(refused_row({name, both, group, "Refused."},
                               str(name, " is not supported: answers are free text")));
  }
  rows.push_back(custom_row(
      {"suffix", kCompletionsApi, group, "Only the empty string."}, {{"type", "string"}},
      [](ParsedParams&, const ParamEnv&, const Json& value) -> Error {
        if (value == "") return {};
        return invalid_request("suffix is not supported: the model does not fill in the middle", "",
                               "unsupported_parameter");
      }));
  rows.push_back(refused_row({"prompt_embeds", kCompletionsApi, group, "Refused."},
                             "prompt_embeds is not supported; send text or token ids"));
}

// Rows of one group stand together, groups in the order of their first row.
void arrange(std::vector<ParamRow>& rows) {
  std::vector<std::string> groups;
  for (const ParamRow& row : rows) {
    if (std::find(groups.begin(), groups.end(), row.group) == groups.end()) {
      groups.push_back(row.group);
    }
  }
  const auto rank = [&groups](const ParamRow& row) {
    return std::find(groups.begin(), groups.end(), row.group) - groups.begin();
  };
  std::stable_sort(rows.begin(), rows.end(),
                   [&rank](const ParamRow& a, const ParamRow& b) { return rank(a) < rank(b); });
}

}  // namespace

std::vector<ParamRow> param_rows(const ServerLimits& limits) {
  std::vector<ParamRow> rows;
  add_input_rows(rows, limits);
  add_request_rows(rows);
  add_length_rows(rows);
  add_sampling_rows(rows);
  add_stop_rows(rows, limits);
  add_output_rows(rows, limits);
  add_prompt_rows(rows);
  add_refused_rows(rows);
  add_responses_rows(rows);
  add_messages_rows(rows, limits);
  arrange(rows);
  return rows;
}

}  // namespace slipstream
