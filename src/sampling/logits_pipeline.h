// LogitsPipeline: what changes the logits of a row before a token is drawn, in this order:
// penalties, bias, (temperature, top-k, top-p, min-p: see Sampler).
//
// Owns the counts of one choice's tokens. Engine thread, or one thread at a time.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>

#include "slipstream/request.h"

namespace slipstream {

class LogitsPipeline {
 public:
  // `params` are validated and must outlive the pipeline.
  LogitsPipeline(const SamplingParams& params, std::span<const int32_t> prompt_token_ids);

  // Whether apply() changes anything.
  bool active() const { return counts_tokens_ || !params_->logit_bias.empty(); }

  // repetition_penalty, over prompt and answer: positive logits are divided, others multiplied.
  // Then, over the answer, frequency_penalty per occurrence and presence_penalty once. Then bias.
  void apply(std::span<float> logits) const;

  // A token of the answer.
  void append(int32_t token_id);

 private:
  const SamplingParams* params_;
  bool counts_tokens_;
  // Occurrences in the answer of every token seen; each entry is applied on its own, so the order
  // of the map does not matter.
  std::unordered_map<int32_t, int32_t> counts_;
};

}  // namespace slipstream
