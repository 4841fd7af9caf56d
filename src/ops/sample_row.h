// What the host tells sampling ops, and what they give back; devices read and write it as it is.
#pragma once

#include <cstdint>
#include <span>
#include <utility>

namespace slipstream {

// A row of logits to draw a token from; see sampling/sampler.h.
struct SampleRow {
  int32_t row = 0;
  float temperature = 0.0f;  // 0: the largest logit
  uint64_t seed = 0;
  uint32_t position = 0;
  uint32_t choice_idx = 0;
  int32_t top_k = 0;   // 0: all
  float top_p = 1.0f;  // 1: all
  float min_p = 0.0f;  // of the best token's probability; 0: all

  // Which sampling state changes the logits before the draw and counts the token that is drawn; -1:
  // none. See sampling/logits_pipeline.h.
  int32_t state = -1;
  float repetition_penalty = 1.0f;
  float frequency_penalty = 0.0f;
  float presence_penalty = 0.0f;
  bool masks_early_ids = false;
  int32_t num_logprobs =
      -1;  // log-probabilities of so many best tokens; -1: not even the drawn one's

  int32_t kept_row = -1;  // set by the op: where it keeps the logits as they were
};

// Instead of a token that is drawn.
constexpr int32_t kBadLogits = -1;    // NaN or +infinity
constexpr int32_t kNoTokenLeft = -2;  // all are masked

// What a sampling state starts from: a request's tokens as far as its penalties ask for them, and
// its lists. Borrowed.
struct SampleState {
  std::span<const int32_t> prompt_ids =
      {};  // what repetition_penalty applies to besides the answer's
  std::span<const int32_t> answer_ids = {};
  std::span<const std::pair<int32_t, float>> biases = {};
  std::span<const int32_t> early_ids = {};
};
constexpr size_t kMostStateBiases = 512;
constexpr size_t kMostStateEarlyIds = 64;

// Log-probabilities of a row of logits before anything has changed them.
constexpr int32_t kMostLogprobs = 20;
struct SampledLogprobs {
  float drawn = 0.0f;
  int32_t num_best = 0;
  int32_t ids[kMostLogprobs];  // best first; of equal ones the lower id first
  float logprobs[kMostLogprobs];
};

}  // namespace slipstream
