// The one check of SamplingParams, for every front end. Ids are checked against the width of the
// logits, never against the tokenizer: that is what they index.
#pragma once

#include <cstdint>

#include "base/status.h"
#include "slipstream/request.h"

namespace slipstream {

struct SamplingLimits {
  int64_t vocab_size = 0;     // width of the logits
  int32_t max_logprobs = 0;   // EngineOptions::max_logprobs
  bool has_tokenizer = true;  // stop strings need one
};

constexpr size_t kMaxStopStrings = 64;
constexpr size_t kMaxStopBytes = 4096;  // of one stop string
constexpr size_t kMaxStopTokenIds = 1024;
// allowed_token_ids may name every token once; more is not a longer list but the same one again.
constexpr size_t kMaxBadSequences = 1024;
constexpr size_t kMaxBadSequenceTokens = 128;
constexpr float kMaxTemperature = 100.0f;
constexpr float kMinRepetitionPenalty = 0.01f;
constexpr float kMaxRepetitionPenalty = 100.0f;

// The error names the parameter, its value and the range.
Status validate_sampling_params(const SamplingParams& params, const SamplingLimits& limits);

}  // namespace slipstream
