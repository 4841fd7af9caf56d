// The rows of the parameter table that only the Responses API and the Messages API have.
//
// Their front ends read what is not a CallSpec's from the body itself (instructions, system,
// metadata), after these rows have checked it.
#include <algorithm>
#include <utility>

#include "base/strings.h"
#include "server/param_makers.h"

namespace slipstream {
namespace {

constexpr int64_t kMaxTokens = INT32_MAX;

// The type of an object such as {"type": "disabled"}; empty when it has none.
std::string type_of(const Json& value) {
  const auto type = value.is_object() ? value.find("type") : value.end();
  return value.is_object() && type != value.end() && type->is_string() ? type->get<std::string>()
                                                                       : std::string();
}

ApiError unsupported(std::string message, std::string param = "") {
  return invalid_request(std::move(message), std::move(param), "unsupported_parameter");
}

// A field that is checked for its type and otherwise left to the front end, or to nobody.
ParamRow typed_row(const RowHead& head, const char* type) {
  const auto is_right = [type = std::string(type)](const Json& value) {
    return type == "object"   ? value.is_object()
           : type == "array"  ? value.is_array()
           : type == "string" ? value.is_string()
                              : false;
  };
  return custom_row(
      head, {{"type", type}},
      [name = std::string(head.name), type = std::string(type), is_right](
          ParsedParams&, const ParamEnv&, const Json& value) -> ParamError {
        if (is_right(value)) return {};
        return invalid_request(str(name, " is ", value.type_name(), "; it must be of type ", type));
      });
}

// A string, or an array that the front end reads.
ParamRow text_row(const RowHead& head) {
  return custom_row(
      head,
      {{"oneOf",
        Json::array({{{"type", "string"}}, {{"type", "array"}, {"items", {{"type", "object"}}}}})}},
      [name = std::string(head.name)](ParsedParams&, const ParamEnv&,
                                      const Json& value) -> ParamError {
        if (value.is_string() || value.is_array()) return {};
        return invalid_request(
            str(name, " is ", value.type_name(), "; it must be a string or an array"));
      });
}

// --- Responses ---

ParamError set_include(ParsedParams& parsed, const ParamEnv&, const Json& value) {
  if (!value.is_array()) {
    return invalid_request(
        str("include is ", value.type_name(), "; it must be an array of strings"));
  }
  for (const Json& item : value) {
    if (!item.is_string()) return invalid_request("include holds strings");
    if (item == "message.output_text.logprobs") parsed.wants_logprobs = true;
  }
  return {};
}

ParamError set_text(ParsedParams&, const ParamEnv&, const Json& value) {
  if (!value.is_object()) {
    return invalid_request(str("text is ", value.type_name(), "; it must be an object"));
  }
  const auto format = value.find("format");
  if (format == value.end() || format->is_null() || type_of(*format) == "text") return {};
  return unsupported("text.format other than {\"type\": \"text\"} is not supported", "text.format");
}

ParamError set_truncation(ParsedParams&, const ParamEnv&, const Json& value) {
  if (value == "auto" || value == "disabled") return {};
  return invalid_request("truncation must be \"auto\" or \"disabled\"");
}

ParamError set_background(ParsedParams&, const ParamEnv&, const Json& value) {
  if (value == false) return {};
  if (!value.is_boolean()) return invalid_request("background must be true or false");
  return unsupported("background is not supported: nothing is stored; send false");
}

ParamError set_responses_stream_options(ParsedParams& parsed, const ParamEnv&, const Json& value) {
  if (!value.is_object()) {
    return invalid_request(str("stream_options is ", value.type_name(), "; it must be an object"));
  }
  parsed.stream_options = true;
  return {};
}

void add_unstored_rows(std::vector<ParamRow>& rows) {
  rows.push_back(bool_row({"store", kResponsesApi, "request",
                           "Accepted; nothing is stored, and the response says `store: false`."},
                          true, [](ParsedParams&, bool) {}));
  rows.push_back(custom_row({"background", kResponsesApi, "unsupported", "Only false."},
                            {{"type", "boolean"}, {"default", false}}, set_background));
  rows.push_back(refused_row({"previous_response_id", kResponsesApi, "unsupported", "Refused."},
                             "previous_response_id is not supported: nothing is stored; send the "
                             "conversation in input"));
  rows.push_back(refused_row({"conversation", kResponsesApi, "unsupported", "Refused."},
                             "conversation is not supported: nothing is stored; send the "
                             "conversation in input"));
  rows.push_back(refused_row({"prompt", kResponsesApi, "unsupported", "Refused."},
                             "prompt names a stored template, and nothing is stored; send input"));
}

// --- Messages ---

ParamError set_user_id(ParsedParams& parsed, const ParamEnv&, const Json& value) {
  if (!value.is_object()) {
    return invalid_request(str("metadata is ", value.type_name(), "; it must be an object"));
  }
  const auto user = value.find("user_id");
  if (user == value.end() || user->is_null()) return {};
  if (!user->is_string()) {
    return invalid_request("metadata.user_id must be a string", "metadata.user_id");
  }
  parsed.spec.user = user->get<std::string>();
  return check_label("metadata.user_id", parsed.spec.user);
}

ParamError set_thinking(ParsedParams&, const ParamEnv&, const Json& value) {
  if (type_of(value) == "disabled") return {};
  return unsupported("thinking is not supported; send {\"type\": \"disabled\"} or nothing");
}

ParamError set_messages_tool_choice(ParsedParams&, const ParamEnv&, const Json& value) {
  const std::string type = type_of(value);
  if (type == "none" || type == "auto") return {};  // auto without tools is none
  return unsupported("tool_choice needs tools, which are not supported; send none");
}

ParamError set_output_config(ParsedParams&, const ParamEnv&, const Json& value) {
  if (!value.is_object()) {
    return invalid_request(str("output_config is ", value.type_name(), "; it must be an object"));
  }
  const auto format = value.find("format");
  if (format == value.end() || format->is_null()) return {};
  return unsupported("output_config.format is not supported: answers are free text",
                     "output_config.format");
}

ParamError set_mcp_servers(ParsedParams&, const ParamEnv&, const Json& value) {
  if (value.is_array() && value.empty()) return {};
  return unsupported("mcp_servers are not supported: tools are not");
}

}  // namespace

void add_responses_rows(std::vector<ParamRow>& rows) {
  rows.push_back(text_row({"input", kResponsesApi, "request",
                           "What the model answers: a text, or message items with `role` and "
                           "`content` (a string, or `input_text` and `output_text` parts)."}));
  rows.push_back(typed_row(
      {"instructions", kResponsesApi, "request", "A system message before everything in `input`."},
      "string"));
  rows.push_back(custom_row({"stream_options", kResponsesApi, "request",
                             "With `stream`: checked and ignored; events are never padded."},
                            {{"type", "object"}}, set_responses_stream_options));
  rows.push_back(
      label_row({"safety_identifier", kResponsesApi, "request", "A label of the response object."},
                [](ParsedParams&, std::string) {}));
  rows.push_back(label_row({"prompt_cache_key", kResponsesApi, "request",
                            "A label of the response object; every prefix is cached anyway."},
                           [](ParsedParams&, std::string) {}));
  rows.push_back(label_row({"service_tier", kResponsesApi | kMessagesApi, "request",
                            "Accepted and ignored: there is one tier; see `priority`."},
                           [](ParsedParams&, std::string) {}));
  rows.push_back(int_row({"max_output_tokens", kResponsesApi, "length",
                          "Longest answer. Default: the rest of the context."},
                         {1, kMaxTokens}, [](ParsedParams& parsed, int64_t value) {
                           parsed.max_completion_tokens = value;
                         }));
  rows.push_back(custom_row({"include", kResponsesApi, "output",
                             "`message.output_text.logprobs` reports each token's "
                             "log-probability; there is nothing else to include."},
                            {{"type", "array"}, {"items", {{"type", "string"}}}}, set_include));
  rows.push_back(
      custom_row({"truncation", kResponsesApi, "prompt",
                  "`auto` leaves out the oldest turns when `input` does not fit the context."},
                 {{"type", "string"}, {"enum", {"auto", "disabled"}}, {"default", "disabled"}},
                 set_truncation));
  add_unstored_rows(rows);
  const char* group = "unsupported";
  rows.push_back(custom_row({"text", kResponsesApi, group,
                             "Only `{\"format\": {\"type\": \"text\"}}`; `verbosity` is ignored."},
                            {{"type", "object"}}, set_text));
  rows.push_back(typed_row(
      {"reasoning", kResponsesApi, group, "Accepted and ignored: answers are not reasoned about."},
      "object"));
  rows.push_back(int_row({"max_tool_calls", kResponsesApi, group, "Accepted and ignored."},
                         {1, kMaxTokens}, [](ParsedParams&, int64_t) {}));
}

void add_messages_rows(std::vector<ParamRow>& rows, const ServerLimits& limits) {
  const uint32_t both = kMessagesApi | kCountTokensApi;
  rows.push_back(custom_row(
      {"messages", both, "request",
       "The conversation: objects with `role` (`user`, `assistant`, `system`) and `content` (a "
       "string or text blocks). Turns of one role in a row are one turn; the answer continues an "
       "`assistant` turn at the end."},
      {{"type", "array"}, {"items", {{"type", "object"}}}, {"maxItems", limits.max_messages}},
      [](ParsedParams& parsed, const ParamEnv&, const Json& value) -> ParamError {
        parsed.messages = &value;
        return {};
      }));
  rows.push_back(
      text_row({"system", both, "request", "The system prompt: a text, or text blocks."}));
  rows.push_back(custom_row(
      {"metadata", kMessagesApi, "request", "`user_id` is a label for the log."},
      {{"type", "object"}, {"properties", {{"user_id", {{"type", "string"}}}}}}, set_user_id));
  rows.push_back(int_row(
      {"max_tokens", kMessagesApi, "length",
       "Required: the longest answer. More than the context leaves room for counts as the rest of "
       "it; an answer that gets there stops for `model_context_window_exceeded`."},
      {1, kMaxTokens}, [](ParsedParams& parsed, int64_t value) { parsed.max_tokens = value; }));
  rows.push_back(custom_row(
      {"stop_sequences", kMessagesApi, "stopping",
       "Strings that end the answer; they are not part of its text."},
      {{"type", "array"}, {"items", {{"type", "string"}}}, {"maxItems", limits.max_stop_strings}},
      [](ParsedParams& parsed, const ParamEnv& env, const Json& value) -> ParamError {
        if (!value.is_array()) {
          return invalid_request(
              str("stop_sequences is ", value.type_name(), "; it must be an array of strings"));
        }
        return read_stop_strings("stop_sequences", parsed, env, value);
      }));
  const char* group = "unsupported";
  rows.push_back(custom_row({"thinking", both, group, "Only `{\"type\": \"disabled\"}`."},
                            {{"type", "object"}}, set_thinking));
  rows.push_back(custom_row({"tool_choice", both, group, "Only the types `none` and `auto`."},
                            {{"type", "object"}}, set_messages_tool_choice));
  rows.push_back(custom_row({"output_config", both, group, "No `format`; `effort` is ignored."},
                            {{"type", "object"}}, set_output_config));
  rows.push_back(custom_row({"mcp_servers", kMessagesApi, group, "Only none."}, {{"type", "array"}},
                            set_mcp_servers));
  rows.push_back(refused_row({"container", kMessagesApi, group, "Refused."},
                             "container is not supported: tools are not"));
}

}  // namespace slipstream
