// Request: what a caller asks. TokenEvent: what it gets back, one per token.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace slipstream {

using RequestId = uint64_t;

struct SamplingParams {
  float temperature = 1.0f;         // 0 = greedy
  float top_p = 1.0f;               // (0, 1]; keeps the smallest set with this probability
  int32_t top_k = 0;                // 0 = all
  float min_p = 0.0f;               // [0, 1]; drops tokens below min_p x the best probability
  float repetition_penalty = 1.0f;  // > 0; divides positive and multiplies negative logits
  float presence_penalty = 0.0f;    // [-2, 2]; subtracted once per generated token id
  float frequency_penalty = 0.0f;   // [-2, 2]; subtracted per occurrence
  std::optional<uint64_t> seed;     // none: drawn and reported in the first event
  std::vector<std::pair<int32_t, float>> logit_bias;  // added to the logits, [-100, 100]
  std::vector<int32_t> allowed_token_ids;             // none: all
  std::vector<std::vector<int32_t>> bad_token_ids;    // sequences that never appear in the answer
  uint32_t choice_idx = 0;  // choices of one call share the seed and differ in this

  std::optional<int64_t> max_tokens;  // none: the rest of the context
  int64_t min_tokens = 0;             // before this many, no stop token is drawn, no string ends
  std::vector<std::string> stop;      // strings that end the answer; not part of its text
  std::vector<int32_t> stop_token_ids;
  bool include_stop_in_output = false;
  bool ignore_eos = false;
  bool skip_special_tokens = true;

  std::optional<int32_t> logprobs;         // top-k alternatives per token, 0..20; none = off
  std::optional<int32_t> prompt_logprobs;  // the same for the prompt
};

struct Request {
  std::vector<int32_t> prompt_token_ids;
  SamplingParams sampling;
  int32_t priority = 0;  // lower runs first
  // Only requests with the same salt share cached prefixes.
  std::string cache_salt;
  // On the steady clock (base/clock.h); 0: none. An unfinished request then ends with kDeadline.
  int64_t deadline_ns = 0;
};

enum class FinishReason : uint8_t { kNone, kStop, kLength, kAbort, kError, kDeadline };
// "stop", "length", "abort", "error", "deadline"
const char* finish_reason_name(FinishReason reason);

struct TokenLogprobs {
  int32_t id = 0;
  float logprob = 0.0f;
  std::vector<std::pair<int32_t, float>> top;  // best first
};

// Events of one request arrive in order. The last one, and only it, carries a finish reason; it
// may be without a token (token_id < 0), for example after an abort.
struct TokenEvent {
  RequestId request = 0;
  int32_t token_id = -1;
  std::string text;  // new text; filled unless the tokenizer is not loaded
  bool has_logprobs = false;
  TokenLogprobs logprobs;
  FinishReason finish = FinishReason::kNone;
  int32_t stop_idx = -1;  // with kStop: which of SamplingParams::stop ended it; -1: a token did
  std::string error;      // with kError: one line
  int64_t time_ns = 0;    // steady clock, when the step that made it ended
  bool of_run = false;    // the latency gear made the token
  // On the first event only:
  bool first = false;
  uint64_t seed = 0;
  int64_t num_cached_tokens = 0;               // of the prompt, taken from the prefix cache
  int64_t scheduled_ns = 0;                    // when its first step began; 0: it never ran
  std::vector<TokenLogprobs> prompt_logprobs;  // [num_prompt_tokens - 1], from position 1
};

}  // namespace slipstream
