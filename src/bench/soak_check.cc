#include "bench/soak_check.h"

#include <algorithm>
#include <bit>

#include "base/strings.h"

namespace slipstream {
namespace {

bool same_bits(float a, float b) {
  return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b);
}

bool same(const TokenLogprobs& a, const TokenLogprobs& b) {
  return a.id == b.id && same_bits(a.logprob, b.logprob) &&
         std::equal(a.top.begin(), a.top.end(), b.top.begin(), b.top.end(),
                    [](const auto& x, const auto& y) {
                      return x.first == y.first && same_bits(x.second, y.second);
                    });
}

// The first place where the two differ; the shorter one's length when one goes on.
template <typename T, typename Same>
size_t first_difference(const std::vector<T>& a, const std::vector<T>& b, Same is_same) {
  const size_t len = std::min(a.size(), b.size());
  size_t idx = 0;
  while (idx < len && is_same(a[idx], b[idx])) ++idx;
  return idx;
}

std::string logprob_difference(const char* what, const std::vector<TokenLogprobs>& got,
                               const std::vector<TokenLogprobs>& alone, bool may_end_early) {
  const size_t idx = first_difference(got, alone, same);
  if (idx == got.size() && (idx == alone.size() || may_end_early)) return {};
  if (idx >= got.size() || idx >= alone.size()) {
    return str("log-probabilities of ", got.size(), " ", what, "s, alone of ", alone.size());
  }
  return str("log-probability of ", what, " ", idx, " is ", got[idx].logprob, ", alone ",
             alone[idx].logprob, " (the alternatives count too)");
}

std::string token_difference(const SoakAnswer& got, const SoakAnswer& alone, size_t idx) {
  if (idx == got.token_ids.size() && (idx == alone.token_ids.size() || !got.ended_normally())) {
    return {};
  }
  if (idx >= got.token_ids.size() || idx >= alone.token_ids.size()) {
    return str(got.token_ids.size(), " tokens, alone ", alone.token_ids.size());
  }
  return str("token ", idx, " is ", got.token_ids[idx], ", alone ", alone.token_ids[idx]);
}

std::string end_fault(const SoakRequest& asked, const SoakAnswer& answer, int64_t max_model_len,
                      bool cancelled) {
  const int64_t num_tokens = std::ssize(answer.token_ids);
  const int64_t room = max_model_len - std::ssize(asked.request.prompt_token_ids);
  const int64_t most = asked.request.sampling.max_tokens.value_or(room);
  if (num_tokens > most) return str(num_tokens, " tokens, asked for at most ", most);
  switch (answer.finish) {
    case FinishReason::kLength:
      if (num_tokens != most) return str("ended at its length after ", num_tokens, " of ", most);
      return {};
    case FinishReason::kStop:
      if (num_tokens == 0) return "ended at a stop without a token";
      if (num_tokens < asked.request.sampling.min_tokens) {
        return str("ended at a stop after ", num_tokens, " tokens, before min_tokens");
      }
      return {};
    case FinishReason::kAbort:
      return cancelled ? "" : "aborted, and nobody had cancelled it";
    case FinishReason::kDeadline:
      return asked.deadline_gaps ? "" : "ended by a deadline that it does not have";
    case FinishReason::kError:
      return "failed: " + answer.error;
    case FinishReason::kNone:
      break;
  }
  return {};
}

}  // namespace

void append_event(const TokenEvent& event, SoakAnswer& answer) {
  if (answer.ended()) ++answer.num_after_final;
  if (answer.num_events++ == 0) answer.began_with_first = event.first;
  if (event.first) {
    ++answer.num_firsts;
    answer.num_cached_tokens = event.num_cached_tokens;
    answer.prompt_logprobs = event.prompt_logprobs;
  }
  if (event.token_id >= 0) answer.token_ids.push_back(event.token_id);
  if (event.has_logprobs) answer.logprobs.push_back(event.logprobs);
  answer.text += event.text;
  if (event.finish == FinishReason::kNone) return;
  if (answer.num_finals++ > 0) return;
  answer.finish = event.finish;
  answer.stop_idx = event.stop_idx;
  answer.error = event.error;
}

std::string stream_fault(const SoakRequest& asked, const SoakAnswer& answer, int64_t max_model_len,
                         bool cancelled) {
  if (answer.num_finals == 0) return "no final event";
  if (answer.num_finals > 1) return str(answer.num_finals, " final events");
  if (answer.num_after_final > 0) return str(answer.num_after_final, " events after the final one");
  if (answer.num_firsts != 1 || !answer.began_with_first) {
    return str(answer.num_firsts, " events are marked as the first one, or one out of place");
  }
  const auto num_with_logprobs =
      asked.request.sampling.logprobs ? answer.token_ids.size() : size_t{0};
  if (answer.logprobs.size() != num_with_logprobs) {
    return str(answer.logprobs.size(), " of ", answer.token_ids.size(),
               " tokens have log-probabilities, it asked for ", num_with_logprobs);
  }
  if (answer.ended_normally() && asked.request.sampling.prompt_logprobs &&
      answer.prompt_logprobs.size() + 1 != asked.request.prompt_token_ids.size()) {
    return str("log-probabilities of ", answer.prompt_logprobs.size(), " tokens of a prompt of ",
               asked.request.prompt_token_ids.size());
  }
  return end_fault(asked, answer, max_model_len, cancelled);
}

SoakComparison compare_answers(const SoakAnswer& got, const SoakAnswer& alone) {
  SoakComparison result;
  const size_t num_same =
      first_difference(got.token_ids, alone.token_ids, [](int32_t a, int32_t b) { return a == b; });
  result.num_tokens = std::ssize(got.token_ids);
  result.num_same_tokens = static_cast<int64_t>(num_same);
  std::string& difference = result.difference;
  difference = token_difference(got, alone, num_same);
  if (!difference.empty()) return result;
  const bool cut = !got.ended_normally();
  difference = logprob_difference("token", got.logprobs, alone.logprobs, cut);
  if (!difference.empty()) return result;
  difference = logprob_difference("prompt token", got.prompt_logprobs, alone.prompt_logprobs, cut);
  if (!difference.empty() || cut) return result;
  if (got.finish != alone.finish || got.stop_idx != alone.stop_idx) {
    difference =
        str("ended with ", finish_reason_name(got.finish), " (stop ", got.stop_idx,
            "), alone with ", finish_reason_name(alone.finish), " (stop ", alone.stop_idx, ")");
  } else if (got.text != alone.text) {
    difference = str("the text is ", quote(got.text), ", alone ", quote(alone.text));
  }
  return result;
}

std::string idle_fault(const EngineStats& before, const EngineStats& idle,
                       const SoakCounts& counts) {
  std::string fault;
  const auto expect = [&fault](const char* what, int64_t found, int64_t wanted) {
    if (found == wanted) return;
    fault += str(fault.empty() ? "" : "; ", what, " is ", found, ", expected ", wanted);
  };
  expect("kv_blocks_used", idle.kv_blocks_used, 0);
  expect("num_running", idle.num_running, 0);
  expect("num_waiting", idle.num_waiting, 0);
  expect("num_finished", idle.num_finished - before.num_finished, counts.num_ended);
  expect("num_generated_tokens", idle.num_generated_tokens - before.num_generated_tokens,
         counts.num_tokens);
  return fault;
}

}  // namespace slipstream
