#include "server/openai_responses.h"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "base/strings.h"
#include "server/json_writer.h"
#include "server/logprobs_json.h"
#include "server/sse.h"
#include "server/text_parts.h"
#include "slipstream/engine.h"

namespace slipstream {
namespace {

constexpr int64_t kNsPerS = 1'000'000'000;

// --- The answer ---

class ResponsesFormat final : public AnswerFormat {
 public:
  ResponsesFormat(std::string item_id, std::string echo)
      : item_id_(std::move(item_id)), echo_(std::move(echo)) {}

  void append_delta(const CallState& call, const Choice& choice, const ChoiceDelta& delta,
                    std::string& out) override {
    open_item(call, out);
    if (!delta.text.empty() || !choice.logprobs.empty()) append_text(call, choice, delta, out);
  }

  void append_end(const CallState& call, std::string& out) override {
    open_item(call, out);
    const Choice& choice = call.choices.front();
    const bool complete = choice.finish == FinishReason::kStop;
    const char* status = complete ? "completed" : "incomplete";
    event("response.output_text.done", out, [&](JsonWriter& json) {
      write_place(json);
      json.field("text", choice.text).key("logprobs").raw(all_logprobs());
    });
    event("response.content_part.done", out, [&](JsonWriter& json) {
      write_place(json);
      json.key("part");
      write_part(choice.text, all_logprobs(), json);
    });
    event("response.output_item.done", out, [&](JsonWriter& json) {
      json.field("output_index", int64_t{0}).key("item");
      write_item(choice, status, json);
    });
    event(complete ? "response.completed" : "response.incomplete", out,
          [&](JsonWriter& json) { write_response(call, {status}, json); });
  }

  void append_error(const CallState& call, const ApiError& error, std::string& out) override {
    open_response(call, out);
    event("response.failed", out,
          [&](JsonWriter& json) { write_response(call, {"failed", &error}, json); });
    // The documented members, and the object that makes clients raise what they raise elsewhere.
    event("error", out, [&](JsonWriter& json) {
      write_error(error, json);
      json.key("error").begin_object();
      json.field("type", error.type);
      write_error(error, json);
      json.end_object();
    });
  }

  std::string body(const CallState& call) override {
    const Choice& choice = call.choices.front();
    add_logprobs(call, choice);
    std::string out;
    JsonWriter json(out);
    write_object(call, {choice.finish == FinishReason::kStop ? "completed" : "incomplete"}, json);
    return out;
  }

 private:
  struct Stage {
    const char* status;
    const ApiError* error = nullptr;
  };

  template <typename Write>
  void event(const char* type, std::string& out, const Write& write) {
    out += "event: ";
    out += type;
    out += '\n';
    out += kSseData;
    JsonWriter json(out);
    json.begin_object().field("type", type).field("sequence_number", num_events_++);
    write(json);
    json.end_object();
    out += kSseEnd;
  }

  void open_response(const CallState& call, std::string& out) {
    if (num_events_ > 0) return;
    for (const char* type : {"response.created", "response.in_progress"}) {
      event(type, out, [&](JsonWriter& json) { write_response(call, {"in_progress"}, json); });
    }
  }

  void open_item(const CallState& call, std::string& out) {
    if (item_is_open_) return;
    open_response(call, out);
    item_is_open_ = true;
    event("response.output_item.added", out, [&](JsonWriter& json) {
      json.field("output_index", int64_t{0}).key("item").begin_object();
      json.field("id", item_id_).field("type", "message").field("status", "in_progress");
      json.field("role", "assistant").key("content").begin_array().end_array().end_object();
    });
    event("response.content_part.added", out, [&](JsonWriter& json) {
      write_place(json);
      json.key("part");
      write_part("", "[]", json);
    });
  }

  void append_text(const CallState& call, const Choice& choice, const ChoiceDelta& delta,
                   std::string& out) {
    const std::string logprobs = add_logprobs(call, choice);
    event("response.output_text.delta", out, [&](JsonWriter& json) {
      write_place(json);
      json.field("delta", delta.text).key("logprobs").raw(logprobs);
    });
  }

  // Keeps those of the choice for the events that repeat all.
  std::string add_logprobs(const CallState& call, const Choice& choice) {
    if (choice.logprobs.empty()) return "[]";
    std::string list;
    JsonWriter json(list);
    write_token_logprobs(call, choice.logprobs, json);
    if (!logprobs_.empty()) logprobs_ += ',';
    logprobs_.append(list, 1, list.size() - 2);
    return list;
  }

  std::string all_logprobs() const { return "[" + logprobs_ + "]"; }

  void write_place(JsonWriter& json) const {
    json.field("item_id", item_id_)
        .field("output_index", int64_t{0})
        .field("content_index", int64_t{0});
  }

  static void write_part(std::string_view text, std::string_view logprobs, JsonWriter& json) {
    json.begin_object().field("type", "output_text").field("text", text);
    json.key("annotations").begin_array().end_array().key("logprobs").raw(logprobs).end_object();
  }

  void write_item(const Choice& choice, const char* status, JsonWriter& json) const {
    json.begin_object().field("id", item_id_).field("type", "message").field("status", status);
    json.field("role", "assistant").key("content").begin_array();
    write_part(choice.text, all_logprobs(), json);
    json.end_array().end_object();
  }

  void write_response(const CallState& call, const Stage& stage, JsonWriter& json) const {
    json.key("response");
    write_object(call, stage, json);
  }

  void write_object(const CallState& call, const Stage& stage, JsonWriter& json) const {
    const Choice& choice = call.choices.front();
    const std::string_view status = stage.status;
    const bool running = status == "in_progress";
    json.begin_object()
        .field("id", call.spec.id)
        .field("object", "response")
        .field("created_at", call.spec.created_s)
        .field("status", status);
    json.key("completed_at");
    if (status == "completed") {
      json.integer(call.spec.created_s + (choice.last_token_ns - call.arrival_ns) / kNsPerS);
    } else {
      json.null();
    }
    json.key("error");
    if (stage.error != nullptr) {
      json.begin_object().field("code", "server_error").field("message", stage.error->message);
      json.end_object();
    } else {
      json.null();
    }
    json.key("incomplete_details");
    if (status == "incomplete") {
      json.begin_object().field("reason", "max_output_tokens").end_object();
    } else {
      json.null();
    }
    json.field("model", call.spec.model).key("output").begin_array();
    if (!running && (item_is_open_ || stage.error == nullptr)) {
      write_item(choice, status == "completed" ? "completed" : "incomplete", json);
    }
    json.end_array().raw(echo_).key("usage");
    if (running) {
      json.null();
    } else {
      write_usage(call.usage, json);
    }
    if (!running && call.spec.timings) json.key("timings").raw(timings_json(call, choice));
    json.end_object();
  }

  static void write_usage(const Usage& usage, JsonWriter& json) {
    json.begin_object().field("input_tokens", usage.prompt_tokens);
    json.key("input_tokens_details").begin_object().field("cached_tokens", usage.cached_tokens);
    // Writing to the cache is part of every request and has no price of its own.
    json.field("cache_write_tokens", int64_t{0}).end_object();
    json.field("output_tokens", usage.completion_tokens);
    json.key("output_tokens_details").begin_object();
    json.field("reasoning_tokens", int64_t{0}).end_object();
    json.field("total_tokens", usage.prompt_tokens + usage.completion_tokens).end_object();
  }

  static void write_error(const ApiError& error, JsonWriter& json) {
    for (const auto& [name, value] : {std::pair("code", &error.code), {"param", &error.param}}) {
      json.key(name);
      if (value->empty()) {
        json.null();
      } else {
        json.string(*value);
      }
    }
    json.field("message", error.message);
  }

  const std::string item_id_;
  const std::string echo_;
  int64_t num_events_ = 0;
  bool item_is_open_ = false;
  std::string logprobs_;  // of every token so far, joined by commas
};

// --- The request ---

ApiError item_error(const std::string& where, const std::string& problem) {
  return invalid_request(where + problem, where);
}

// A message of the input as the chat template knows it; null for what has no text to show.
ApiResult<Json> read_item(const Json& item, const std::string& where) {
  if (!item.is_object()) {
    return item_error(where, str(" is ", item.type_name(), "; it must be an object"));
  }
  if (const Json* type = member_of(item, "type")) {
    if (*type == "reasoning") return Json();
    if (*type != "message") {
      return item_error(where + ".type",
                        str(" is ", quote(dump_json(*type)), "; only messages are supported"));
    }
  }
  static constexpr std::array<std::string_view, 4> kRoles = {"system", "developer", "user",
                                                             "assistant"};
  const Json* role = member_of(item, "role");
  if (role == nullptr || !role->is_string() ||
      std::find(kRoles.begin(), kRoles.end(), role->get_ref<const std::string&>()) ==
          kRoles.end()) {
    return item_error(where + ".role", " must be system, developer, user or assistant");
  }
  const Json* content = member_of(item, "content");
  if (content == nullptr) return item_error(where + ".content", " is missing");
  ApiResult<std::string> text =
      read_text(*content, where + ".content", {"input_text", "output_text", "text"});
  if (!text.ok()) return text.error();
  const bool is_system = *role == "system" || *role == "developer";
  return Json{{"role", is_system ? Json("system") : *role}, {"content", std::move(text).value()}};
}

ApiResult<Json> read_input(const Json& input, const ServerLimits& limits) {
  if (input.is_string()) {
    return Json::array({Json{{"role", "user"}, {"content", input}}});
  }
  if (std::ssize(input) > limits.max_messages) {
    return invalid_request(str("input has ", input.size(), " items; at most ", limits.max_messages),
                           "input");
  }
  Json messages = Json::array();
  for (size_t idx = 0; idx < input.size(); ++idx) {
    ApiResult<Json> message = read_item(input[idx], str("input[", idx, "]"));
    if (!message.ok()) return message.error();
    if (!message->is_null()) messages.push_back(std::move(message).value());
  }
  if (messages.empty()) return invalid_request("input has no message", "input");
  return messages;
}

// The conversation from message `first` on, behind the instructions. Templates expect one system
// message, at the start.
Json with_instructions(const std::string& instructions, const Json& messages, size_t first) {
  Json list(messages.begin() + static_cast<std::ptrdiff_t>(first), messages.end());
  if (instructions.empty()) return list;
  if (list.front()["role"] == "system") {
    list.front()["content"] =
        instructions + "\n\n" + list.front()["content"].get_ref<const std::string&>();
  } else {
    list.insert(list.begin(), Json{{"role", "system"}, {"content", instructions}});
  }
  return list;
}

std::optional<ApiError> make_prompt(const Json& messages, const PromptEnv& env, CallSpec& spec) {
  spec.prompts.clear();
  spec.prompt_texts.clear();
  auto error = make_chat_prompt(messages, env, spec);
  if (error && error->param == "messages") error->param = "input";
  return error;
}

struct Conversation {
  std::string instructions;
  Json messages;
};

// Leaves out the oldest turns until the rest fits with an answer: as many as it takes, none more.
std::optional<ApiError> make_truncated_prompt(const Conversation& conversation,
                                              const PromptEnv& env, CallSpec& spec) {
  const int64_t max_len = env.model->max_model_len;
  // Without a length of its own an answer gets an eighth of the context.
  const int64_t answer = spec.asks_max_tokens ? spec.sampling.max_tokens.value_or(1) : max_len / 8;
  std::vector<size_t> starts;  // of turns
  for (size_t idx = 1; idx < conversation.messages.size(); ++idx) {
    if (conversation.messages[idx]["role"] == "user") starts.push_back(idx);
  }
  if (starts.empty()) return {};
  const auto make = [&](size_t first) {
    return make_prompt(with_instructions(conversation.instructions, conversation.messages, first),
                       env, spec);
  };
  const auto fits = [&](size_t first) {
    return !make(first) && std::ssize(spec.prompts.front()) <= max_len - answer;
  };
  const auto first = std::partition_point(starts.begin(), starts.end(),
                                          [&fits](size_t start) { return !fits(start); });
  return make(first == starts.end() ? starts.back() : *first);
}

std::optional<ApiError> make_response_prompt(const Conversation& conversation, bool may_truncate,
                                             const FrontEnd& front_end, CallSpec& spec) {
  const Json all = with_instructions(conversation.instructions, conversation.messages, 0);
  if (auto error = make_prompt(all, front_end.prompt, spec)) return error;
  auto error = check_lengths(spec, front_end.params, "input");
  if (error && may_truncate) {
    if (auto failed = make_truncated_prompt(conversation, front_end.prompt, spec)) return failed;
    error = check_lengths(spec, front_end.params, "input");
  }
  if (error && error->param == "max_tokens") error->param = "max_output_tokens";
  return error;
}

// The members of a response object that repeat the request or say what is fixed here.
std::string echo_of(const Json& body, const CallSpec& spec) {
  std::string out;
  JsonWriter json(out);
  const auto echo = [&](const char* name, const char* otherwise) {
    const Json* value = member_of(body, name);
    json.key(name).raw(value != nullptr ? dump_json(*value) : otherwise);
  };
  json.key("background").boolean(false);
  echo("instructions", "null");
  echo("max_output_tokens", "null");
  echo("max_tool_calls", "null");
  echo("metadata", "{}");
  echo("parallel_tool_calls", "true");
  json.key("previous_response_id").null();
  echo("prompt_cache_key", "null");
  json.key("reasoning").raw(R"({"effort":null,"summary":null})");
  echo("safety_identifier", "null");
  json.field("service_tier", "default").key("store").boolean(false);
  json.key("temperature").number(spec.sampling.temperature);
  json.key("text").raw(R"({"format":{"type":"text"}})");
  echo("tool_choice", "\"auto\"");
  json.key("tools").begin_array().end_array();
  json.field("top_logprobs", int64_t{spec.sampling.logprobs.value_or(0)});
  json.key("top_p").number(spec.sampling.top_p);
  echo("truncation", "\"disabled\"");
  echo("user", "null");
  return out;
}

ApiResult<PreparedCall> prepare_response(const Json& body, const FrontEnd& front_end) {
  ApiResult<ParsedParams> parsed = front_end.table->parse(body, kResponsesApi, front_end.params);
  if (!parsed.ok()) return parsed.error();
  const Json* input = member_of(body, "input");
  if (input == nullptr) return invalid_request("input is missing", "input");
  ApiResult<Json> messages = read_input(*input, *front_end.params.limits);
  if (!messages.ok()) return messages.error();
  Conversation conversation{.instructions = {}, .messages = std::move(messages).value()};
  if (const Json* instructions = member_of(body, "instructions")) {
    conversation.instructions = instructions->get<std::string>();
  }
  PreparedCall call;
  call.spec = std::move(parsed->spec);
  const Json* truncation = member_of(body, "truncation");
  const bool may_truncate = truncation != nullptr && *truncation == "auto";
  if (auto error = make_response_prompt(conversation, may_truncate, front_end, call.spec)) {
    return *error;
  }
  call.spec.id = new_api_id("resp_");
  call.format = make_responses_format(new_api_id("msg_"), echo_of(body, call.spec));
  return call;
}

}  // namespace

std::unique_ptr<AnswerFormat> make_responses_format(std::string item_id, std::string echo) {
  return std::make_unique<ResponsesFormat>(std::move(item_id), std::move(echo));
}

Dialect responses_dialect() {
  Dialect dialect;
  dialect.route = "/v1/responses";
  dialect.prepare = prepare_response;
  return dialect;
}

}  // namespace slipstream
