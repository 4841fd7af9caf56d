#include "server/openai_completions.h"

#include <utility>
#include <vector>

#include "server/logprobs_json.h"
#include "server/openai_answer.h"

namespace slipstream {
namespace {

const std::string& prompt_text(const CallState& call, const Choice& choice) {
  return call.spec.prompt_texts[static_cast<size_t>(choice.prompt_idx)];
}

class CompletionsFormat final : public OpenAiAnswer {
 public:
  CompletionsFormat() : OpenAiAnswer("text_completion") {}

  void append_delta(const CallState& call, const Choice& choice, const ChoiceDelta& delta,
                    std::string& out) override {
    const bool reports_tokens =
        !choice.token_ids.empty() && (call.spec.return_token_ids || !choice.logprobs.empty());
    // The first chunk is sent even if its text is still held back: it dates the first token.
    if (delta.text.empty() && !delta.first && !reports_tokens &&
        delta.finish == FinishReason::kNone) {
      return;
    }
    begin_chunk(call, out);
    JsonWriter json(out);
    json.begin_object().field("index", int64_t{choice.idx});
    if (delta.first && call.spec.echo) {
      json.field("text", prompt_text(call, choice) + std::string(delta.text));
    } else {
      json.field("text", delta.text);
    }
    write_details(call, choice, delta.first, json);
    json.key("finish_reason");
    if (delta.finish == FinishReason::kNone) {
      json.null();
    } else {
      json.string(finish_reason_name(delta.finish));
    }
    json.end_object();
    end_chunk(call, delta.finish == FinishReason::kNone ? nullptr : &choice, "", out);
  }

  std::string body(const CallState& call) override {
    std::string out;
    JsonWriter json(out);
    write_head(call, "text_completion", json);
    json.key("choices").begin_array();
    for (const Choice& choice : call.choices) {
      json.begin_object().field("index", int64_t{choice.idx});
      json.field("text", call.spec.echo ? prompt_text(call, choice) + choice.text : choice.text);
      write_details(call, choice, true, json);
      json.field("finish_reason", finish_reason_name(choice.finish)).end_object();
    }
    json.end_array();
    write_tail(call, json);
    return out;
  }

 private:
  // Log-probabilities and ids; with `opening`, those of the prompt as well.
  void write_details(const CallState& call, const Choice& choice, bool opening, JsonWriter& json) {
    const CallSpec& spec = call.spec;
    json.key("logprobs");
    if (spec.sampling.logprobs && (opening || !choice.logprobs.empty())) {
      text_offsets_.resize(call.choices.size());
      write_completion_logprobs(call, choice,
                                {.with_prompt = opening && spec.echo,
                                 .text_offset = &text_offsets_[static_cast<size_t>(choice.idx)]},
                                json);
    } else {
      json.null();
    }
    if (opening && spec.sampling.prompt_logprobs && !spec.echo) {
      json.key("prompt_logprobs");
      write_prompt_logprobs(call, choice, json);
    }
    if (spec.return_token_ids) {
      json.key("token_ids");
      write_token_ids(choice.token_ids, json);
      if (opening) {
        json.key("prompt_token_ids");
        write_token_ids(spec.prompts[static_cast<size_t>(choice.prompt_idx)], json);
      }
    }
    if (opening && spec.return_prompt_text) json.field("prompt_text", prompt_text(call, choice));
  }

  std::vector<int64_t> text_offsets_;  // per choice: code points written so far
};

ApiResult<PreparedCall> prepare_completion(const Json& body, const FrontEnd& front_end) {
  ApiResult<ParsedParams> parsed = front_end.table->parse(body, kCompletionsApi, front_end.params);
  if (!parsed.ok()) return parsed.error();
  if (parsed->prompt == nullptr) return invalid_request("prompt is missing", "prompt");
  PreparedCall call;
  call.spec = std::move(parsed->spec);
  call.spec.id = new_api_id("cmpl-");
  // Without a tokenizer there is no text: ids are the answer.
  if (front_end.prompt.tokenizer == nullptr) call.spec.return_token_ids = true;
  if (auto error = make_completion_prompts(*parsed->prompt, front_end.prompt, call.spec)) {
    return *error;
  }
  if (auto error = check_lengths(call.spec, front_end.params, "prompt")) return *error;
  call.format = make_completions_format();
  return call;
}

}  // namespace

std::unique_ptr<AnswerFormat> make_completions_format() {
  return std::make_unique<CompletionsFormat>();
}

Dialect completions_dialect() {
  Dialect dialect;
  dialect.route = "/v1/completions";
  dialect.prepare = prepare_completion;
  return dialect;
}

}  // namespace slipstream
