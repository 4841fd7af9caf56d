#include "cli/answer.h"

#include <algorithm>
#include <iomanip>
#include <optional>
#include <sstream>

#include "base/strings.h"

namespace slipstream {
namespace {

std::string fixed(double value, int digits) {
  std::ostringstream text;
  text << std::fixed << std::setprecision(digits) << value;
  return text.str();
}

Json logprobs_json(const std::vector<TokenLogprobs>& logprobs) {
  Json list = Json::array();
  for (const TokenLogprobs& token : logprobs) {
    Json top = Json::array();
    for (const auto& [id, logprob] : token.top) top.push_back(Json::array({id, logprob}));
    list.push_back(Json{{"id", token.id}, {"logprob", token.logprob}, {"top", std::move(top)}});
  }
  return list;
}

// Null where nothing was measured, so that no reader takes a 0 for a speed.
Json measured(double value) { return value > 0.0 ? Json(value) : Json(nullptr); }

}  // namespace

Result<Generation> stream_answer(EngineClient& client, const Request& request, Output& output,
                                 const Interrupts& interrupts, bool stream) {
  const bool has_text = client.engine().tokenizer() != nullptr;
  GenerateHooks hooks;
  hooks.should_cancel = [&] { return interrupts.interrupted() || output.closed(); };
  hooks.on_event = [&](const TokenEvent& event) {
    if (!stream) return;
    if (has_text) {
      if (!event.text.empty()) output.write_now(event.text);
    } else if (event.token_id >= 0) {
      output.write_now(str(event.token_id, " "));
    }
  };
  return client.generate(request, hooks);
}

void fit_to_context(const ModelInfo& model, Request& request) {
  const auto num_prompt_tokens = static_cast<int64_t>(request.prompt_token_ids.size());
  const int64_t room = model.max_model_len - num_prompt_tokens;
  std::optional<int64_t>& max_tokens = request.sampling.max_tokens;
  // Without any room the engine refuses the prompt, with the numbers.
  if (max_tokens && room > 0) max_tokens = std::min(*max_tokens, room);
}

Speed measure_speed(EngineClient& client, const Generation& generation) {
  Speed speed;
  speed.ttft_ms = generation.ttft_ms();
  speed.prefill_tok_s = generation.prefill_tok_s();
  speed.decode_tok_s = generation.decode_tok_s();
  if (speed.decode_tok_s <= 0.0) return speed;
  const ModelInfo& model = client.model();
  const double mean_positions = static_cast<double>(generation.num_prompt_tokens) +
                                static_cast<double>(generation.token_ids.size()) / 2.0;
  const double read_gb_s = client.engine().measure_read_gb_s();
  speed.roof_tok_s = roof_tok_s(model, mean_positions, read_gb_s);
  if (speed.roof_tok_s > 0.0) speed.roof_fraction = speed.decode_tok_s / speed.roof_tok_s;
  return speed;
}

std::string speed_line(const Generation& generation, const Speed& speed) {
  std::string line = str(generation.num_prompt_tokens, " prompt tokens, TTFT ",
                         fixed(speed.ttft_ms, 1), " ms, prefill ", fixed(speed.prefill_tok_s, 0),
                         " tok/s; ", generation.token_ids.size(), " tokens");
  if (speed.decode_tok_s > 0.0) {
    line += str(", decode ", fixed(speed.decode_tok_s, 1), " tok/s");
  }
  if (speed.roof_tok_s > 0.0) {
    line += str(" of a ", fixed(speed.roof_tok_s, 1), " tok/s roof (",
                fixed(speed.roof_fraction * 100.0, 0), " %)");
  }
  if (generation.finish == FinishReason::kAbort) line += "; interrupted";
  return line;
}

Json answer_json(const Generation& generation, const Speed& speed, const AnswerContext& context) {
  const SamplingParams& sampling = context.request->sampling;
  Json object{{"text", generation.text},
              {"token_ids", generation.token_ids},
              {"finish_reason", finish_reason_name(generation.finish)},
              {"prompt_tokens", generation.num_prompt_tokens},
              {"completion_tokens", generation.token_ids.size()},
              {"prompt_token_ids", context.request->prompt_token_ids}};
  if (sampling.logprobs) object["logprobs"] = logprobs_json(generation.logprobs);
  if (sampling.prompt_logprobs) {
    Json list = logprobs_json(generation.prompt_logprobs);
    list.insert(list.begin(), nullptr);
    object["prompt_logprobs"] = std::move(list);
  }
  object["timings"] = Json{{"load_s", context.load_s},
                           {"ttft_ms", measured(speed.ttft_ms)},
                           {"prefill_tok_s", measured(speed.prefill_tok_s)},
                           {"decode_tok_s", measured(speed.decode_tok_s)},
                           {"roof_tok_s", measured(speed.roof_tok_s)},
                           {"roof_fraction", measured(speed.roof_fraction)}};
  object["model"] = context.model_name;
  object["device"] = context.model->device;
  object["executor"] = context.model->executor;
  object["seed"] = generation.seed;
  return object;
}

}  // namespace slipstream
