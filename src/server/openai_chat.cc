#include "server/openai_chat.h"

#include <utility>

#include "server/logprobs_json.h"
#include "server/openai_answer.h"

namespace slipstream {
namespace {

class ChatFormat final : public OpenAiAnswer {
 public:
  ChatFormat() : OpenAiAnswer("chat.completion.chunk") {}

  void append_delta(const CallState& call, const Choice& choice, const ChoiceDelta& delta,
                    std::string& out) override {
    if (delta.first) append_role(call, choice, out);
    const bool reports_tokens =
        !choice.token_ids.empty() && (call.spec.return_token_ids || !choice.logprobs.empty());
    if (!delta.text.empty() || reports_tokens) append_content(call, choice, delta, out);
    if (delta.finish != FinishReason::kNone) append_finish(call, choice, delta, out);
  }

  std::string body(const CallState& call) override {
    std::string out;
    JsonWriter json(out);
    write_head(call, "chat.completion", json);
    json.key("choices").begin_array();
    for (const Choice& choice : call.choices) write_choice(call, choice, json);
    json.end_array();
    const Choice& first = call.choices.front();
    if (call.spec.sampling.prompt_logprobs) {
      json.key("prompt_logprobs");
      write_prompt_logprobs(call, first, json);
    }
    write_prompt(call, json);
    write_tail(call, json);
    return out;
  }

 private:
  // The first token's chunk comes right behind: clients take the time to the first token here.
  void append_role(const CallState& call, const Choice& choice, std::string& out) {
    begin_chunk(call, out);
    JsonWriter json(out);
    json.begin_object().field("index", int64_t{choice.idx});
    json.key("delta").begin_object().field("role", "assistant").field("content", "").end_object();
    json.key("logprobs").null().key("finish_reason").null().end_object();
    std::string more;
    if (choice.idx == 0) {
      std::string members = "{";
      JsonWriter prompt(members);
      write_prompt(call, prompt);
      if (members.size() > 1) more = "," + members.substr(1);
    }
    end_chunk(call, nullptr, more, out);
  }

  void append_content(const CallState& call, const Choice& choice, const ChoiceDelta& delta,
                      std::string& out) {
    begin_chunk(call, out);
    JsonWriter json(out);
    json.begin_object().field("index", int64_t{choice.idx});
    json.key("delta").begin_object().field("content", delta.text).end_object();
    json.key("logprobs");
    if (choice.logprobs.empty()) {
      json.null();
    } else {
      write_chat_logprobs(call, choice, json);
    }
    json.key("finish_reason").null();
    if (call.spec.return_token_ids) {
      json.key("token_ids");
      write_token_ids(choice.token_ids, json);
    }
    json.end_object();
    end_chunk(call, nullptr, "", out);
  }

  void append_finish(const CallState& call, const Choice& choice, const ChoiceDelta& delta,
                     std::string& out) {
    begin_chunk(call, out);
    JsonWriter json(out);
    json.begin_object().field("index", int64_t{choice.idx});
    json.key("delta").begin_object().end_object();
    json.key("logprobs").null();
    json.field("finish_reason", finish_reason_name(delta.finish)).end_object();
    end_chunk(call, &choice, "", out);
  }

  static void write_choice(const CallState& call, const Choice& choice, JsonWriter& json) {
    json.begin_object().field("index", int64_t{choice.idx});
    json.key("message").begin_object().field("role", "assistant").field("content", choice.text);
    json.key("refusal").null().end_object();
    json.key("logprobs");
    if (call.spec.sampling.logprobs) {
      write_chat_logprobs(call, choice, json);
    } else {
      json.null();
    }
    json.field("finish_reason", finish_reason_name(choice.finish));
    if (call.spec.return_token_ids) {
      json.key("token_ids");
      write_token_ids(choice.token_ids, json);
    }
    json.end_object();
  }

  // What the client asked to see of its prompt.
  static void write_prompt(const CallState& call, JsonWriter& json) {
    if (call.spec.return_token_ids) {
      json.key("prompt_token_ids");
      write_token_ids(call.spec.prompts.front(), json);
    }
    if (call.spec.return_prompt_text) json.field("prompt_text", call.spec.prompt_texts.front());
  }
};

ApiResult<PreparedCall> prepare_chat(const Json& body, const FrontEnd& front_end) {
  ApiResult<ParsedParams> parsed = front_end.table->parse(body, kChatApi, front_end.params);
  if (!parsed.ok()) return parsed.error();
  if (parsed->messages == nullptr) return invalid_request("messages is missing", "messages");
  PreparedCall call;
  call.spec = std::move(parsed->spec);
  call.spec.id = new_api_id("chatcmpl-");
  if (auto error = make_chat_prompt(*parsed->messages, front_end.prompt, call.spec)) return *error;
  if (auto error = check_lengths(call.spec, front_end.params, "messages")) return *error;
  call.format = make_chat_format();
  return call;
}

}  // namespace

std::unique_ptr<AnswerFormat> make_chat_format() { return std::make_unique<ChatFormat>(); }

Dialect chat_dialect() {
  Dialect dialect;
  dialect.route = "/v1/chat/completions";
  dialect.prepare = prepare_chat;
  return dialect;
}

}  // namespace slipstream
