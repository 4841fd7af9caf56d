#include "server/anthropic_messages.h"

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "base/strings.h"
#include "server/json_route.h"
#include "server/json_writer.h"
#include "server/sse.h"
#include "server/text_parts.h"
#include "slipstream/engine.h"

namespace slipstream {
namespace {

// What its clients log as the request's id.
constexpr const char* kRequestIdHeader = "request-id";

// --- Errors ---

const char* error_type(int status) {
  switch (status) {
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 404:
      return "not_found_error";
    case 413:
      return "request_too_large";
    case 429:
      return "rate_limit_error";
    case 503:
      return "overloaded_error";
    case 408:
    case 504:
      return "timeout_error";
    default:
      return status < 500 ? "invalid_request_error" : "api_error";
  }
}

std::string messages_error_body(const ApiError& error, std::string_view request_id) {
  std::string out;
  JsonWriter json(out);
  json.begin_object().field("type", "error").key("error").begin_object();
  json.field("type", error_type(error.status)).field("message", error.message).end_object();
  json.field("request_id", request_id).end_object();
  return out;
}

// --- The answer ---

class MessagesFormat final : public AnswerFormat {
 public:
  explicit MessagesFormat(const MessagesOptions& options) : options_(options) {}

  void append_delta(const CallState& call, const Choice&, const ChoiceDelta& delta,
                    std::string& out) override {
    open(call, out);
    if (delta.text.empty()) return;
    event("content_block_delta", out, [&](JsonWriter& json) {
      json.field("index", int64_t{0}).key("delta").begin_object();
      json.field("type", "text_delta").field("text", delta.text).end_object();
    });
  }

  void append_end(const CallState& call, std::string& out) override {
    open(call, out);
    event("content_block_stop", out, [](JsonWriter& json) { json.field("index", int64_t{0}); });
    event("message_delta", out, [&](JsonWriter& json) {
      json.key("delta").begin_object();
      write_stop(call, json);
      json.end_object().key("usage");
      write_usage(call.usage, json);
      if (call.spec.timings) json.key("timings").raw(timings_json(call, call.choices.front()));
    });
    event("message_stop", out, [](JsonWriter&) {});
  }

  void append_ping(std::string& out) const override {
    if (is_open_) return append_ping_event(out);
    AnswerFormat::append_ping(out);  // no event comes before message_start
  }

  void append_error(const CallState& call, const ApiError& error, std::string& out) override {
    out += "event: error\n";
    out += kSseData;
    out += messages_error_body(error, call.request_id);
    out += kSseEnd;
  }

  HttpResponse error_response(const CallState& call, const ApiError& error) const override {
    return messages_error(error, call.request_id);
  }

  void append_headers(const CallState& call, HttpHeaders& headers) const override {
    headers.emplace_back(kRequestIdHeader, call.request_id);
  }

  std::string body(const CallState& call) override {
    std::string out;
    JsonWriter json(out);
    write_message(call, true, json);
    return out;
  }

 private:
  template <typename Write>
  static void event(const char* type, std::string& out, const Write& write) {
    out += "event: ";
    out += type;
    out += '\n';
    out += kSseData;
    JsonWriter json(out);
    json.begin_object().field("type", type);
    write(json);
    json.end_object();
    out += kSseEnd;
  }

  static void append_ping_event(std::string& out) {
    event("ping", out, [](JsonWriter&) {});
  }

  void open(const CallState& call, std::string& out) {
    if (std::exchange(is_open_, true)) return;
    event("message_start", out, [&](JsonWriter& json) {
      json.key("message");
      write_message(call, false, json);
    });
    event("content_block_start", out, [](JsonWriter& json) {
      json.field("index", int64_t{0}).key("content_block");
      write_text_block("", json);
    });
    append_ping_event(out);
  }

  static void write_text_block(std::string_view text, JsonWriter& json) {
    json.begin_object().field("type", "text").field("text", text).end_object();
  }

  void write_message(const CallState& call, bool whole, JsonWriter& json) const {
    json.begin_object()
        .field("id", call.spec.id)
        .field("type", "message")
        .field("role", "assistant")
        .field("model", call.spec.model);
    json.key("content").begin_array();
    if (whole) write_text_block(call.choices.front().text, json);
    json.end_array();
    if (whole) {
      write_stop(call, json);
    } else {
      json.key("stop_reason").null().key("stop_sequence").null();
    }
    json.key("usage");
    write_usage(call.usage, json);
    if (whole && call.spec.timings) {
      json.key("timings").raw(timings_json(call, call.choices.front()));
    }
    json.end_object();
  }

  void write_stop(const CallState& call, JsonWriter& json) const {
    const Choice& choice = call.choices.front();
    const bool at_string = choice.finish == FinishReason::kStop && choice.stop_idx >= 0;
    if (choice.finish == FinishReason::kLength) {
      json.field("stop_reason",
                 options_.ends_with_context ? "model_context_window_exceeded" : "max_tokens");
    } else {
      json.field("stop_reason", at_string ? "stop_sequence" : "end_turn");
    }
    json.key("stop_sequence");
    if (at_string) {
      json.string(call.spec.sampling.stop[static_cast<size_t>(choice.stop_idx)]);
    } else {
      json.null();
    }
  }

  // The prompt's tokens are split between what was computed and what the cache had.
  static void write_usage(const Usage& usage, JsonWriter& json) {
    json.begin_object()
        .field("input_tokens", usage.prompt_tokens - usage.cached_tokens)
        .field("cache_creation_input_tokens", int64_t{0})
        .field("cache_read_input_tokens", usage.cached_tokens)
        .field("output_tokens", usage.completion_tokens)
        .end_object();
  }

  const MessagesOptions options_;
  bool is_open_ = false;
};

// --- The request ---

ApiResult<Json> read_message(const Json& message, const std::string& where) {
  if (!message.is_object()) {
    return invalid_request(str(where, " is ", message.type_name(), "; it must be an object"),
                           where);
  }
  static constexpr std::array<std::string_view, 3> kRoles = {"user", "assistant", "system"};
  const Json* role = member_of(message, "role");
  if (role == nullptr || !role->is_string() ||
      std::find(kRoles.begin(), kRoles.end(), role->get_ref<const std::string&>()) ==
          kRoles.end()) {
    return invalid_request(where + ".role must be user, assistant or system", where + ".role");
  }
  const Json* content = member_of(message, "content");
  if (content == nullptr) {
    return invalid_request(where + ".content is missing", where + ".content");
  }
  ApiResult<std::string> text = read_text(*content, where + ".content", {"text"});
  if (!text.ok()) return text.error();
  return Json{{"role", *role}, {"content", std::move(text).value()}};
}

// The conversation as chat templates know it: the system prompt first, and turns of one role in a
// row as one turn.
ApiResult<Json> read_messages(const Json& body, const Json& messages, const ServerLimits& limits) {
  if (!messages.is_array()) {
    return invalid_request(str("messages is ", messages.type_name(), "; it must be an array"),
                           "messages");
  }
  if (messages.empty()) return invalid_request("messages is empty", "messages");
  if (std::ssize(messages) > limits.max_messages) {
    return invalid_request(
        str("messages has ", messages.size(), " entries; at most ", limits.max_messages),
        "messages");
  }
  Json list = Json::array();
  const auto add = [&list](Json message) {
    if (list.empty() || list.back()["role"] != message["role"]) {
      list.push_back(std::move(message));
      return;
    }
    auto& text = list.back()["content"].get_ref<std::string&>();
    text += '\n';
    text += message["content"].get_ref<const std::string&>();
  };
  if (const Json* system = member_of(body, "system")) {
    ApiResult<std::string> text = read_text(*system, "system", {"text"});
    if (!text.ok()) return text.error();
    if (!text->empty()) add(Json{{"role", "system"}, {"content", std::move(text).value()}});
  }
  for (size_t idx = 0; idx < messages.size(); ++idx) {
    ApiResult<Json> message = read_message(messages[idx], str("messages[", idx, "]"));
    if (!message.ok()) return message.error();
    add(std::move(message).value());
  }
  return list;
}

// Fills in the prompt of a body that the table has read.
std::optional<ApiError> make_messages_prompt(const Json& body, const ParsedParams& parsed,
                                             const PromptEnv& env, CallSpec& spec) {
  if (parsed.messages == nullptr) return invalid_request("messages is missing", "messages");
  const ApiResult<Json> list = read_messages(body, *parsed.messages, *env.limits);
  if (!list.ok()) return list.error();
  if (list.value().back()["role"] == "assistant") {
    spec.prompt.continue_final_message = true;
    spec.prompt.add_generation_prompt = false;
  }
  return make_chat_prompt(list.value(), env, spec);
}

ApiResult<PreparedCall> prepare_message(const Json& body, const FrontEnd& front_end) {
  ApiResult<ParsedParams> parsed = front_end.table->parse(body, kMessagesApi, front_end.params);
  if (!parsed.ok()) return parsed.error();
  if (!parsed->max_tokens) return invalid_request("max_tokens is missing", "max_tokens");
  PreparedCall call;
  call.spec = parsed->spec;
  if (auto error = make_messages_prompt(body, parsed.value(), front_end.prompt, call.spec)) {
    return *error;
  }
  MessagesOptions options;
  const int64_t room = front_end.params.model->max_model_len - std::ssize(call.spec.prompts[0]);
  if (*parsed->max_tokens > room && room >= std::max<int64_t>(call.spec.sampling.min_tokens, 1)) {
    options.ends_with_context = true;
    call.spec.sampling.max_tokens = room;
  }
  if (auto error = check_lengths(call.spec, front_end.params, "messages")) return *error;
  call.spec.id = new_api_id("msg_");
  call.format = make_messages_format(options);
  return call;
}

ApiResult<std::string> count_tokens(const Json& body, const FrontEnd& front_end) {
  ApiResult<ParsedParams> parsed = front_end.table->parse(body, kCountTokensApi, front_end.params);
  if (!parsed.ok()) return parsed.error();
  CallSpec spec = parsed->spec;
  if (auto error = make_messages_prompt(body, parsed.value(), front_end.prompt, spec)) {
    return *error;
  }
  std::string out;
  JsonWriter json(out);
  json.begin_object().field("input_tokens", std::ssize(spec.prompts[0])).end_object();
  return out;
}

}  // namespace

HttpResponse messages_error(const ApiError& error, std::string_view request_id) {
  HttpResponse response = error_response(error);
  response.body = messages_error_body(error, request_id);
  response.headers.emplace_back(kRequestIdHeader, request_id);
  return response;
}

std::unique_ptr<AnswerFormat> make_messages_format(const MessagesOptions& options) {
  return std::make_unique<MessagesFormat>(options);
}

Dialect messages_dialect() {
  Dialect dialect;
  dialect.route = "/v1/messages";
  dialect.prepare = prepare_message;
  dialect.error_shape = messages_error;
  return dialect;
}

Route count_tokens_route(ServerContext& context, std::shared_ptr<const ParamTable> table) {
  Route route;
  route.method = "POST";
  route.path = "/v1/messages/count_tokens";
  route.error_shape = messages_error;
  route.handler = json_handler(
      context,
      [&context, table = std::move(table)](const Json& body) {
        return count_tokens(body, front_end(context, *table));
      },
      messages_error);
  return route;
}

}  // namespace slipstream
