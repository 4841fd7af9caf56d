// LogitsPipeline: what changes the logits of a row before a token is drawn, in this order:
// penalties, bias, masks, (temperature, top-k, top-p, min-p: see Sampler). A masked token is
// -infinity: no bias brings it back.
//
// Owns what one choice's tokens mean for the next. Engine thread, or one thread at a time.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "slipstream/request.h"

namespace slipstream {

class LogitsPipeline {
 public:
  // `params` are validated and must outlive the pipeline.
  LogitsPipeline(const SamplingParams& params, std::span<const int32_t> prompt_token_ids);

  // Masks `ids`, those that would end the answer, until it has min_tokens tokens.
  void forbid_early(std::span<const int32_t> ids);

  // Whether it depends on the tokens so far: there are penalties.
  bool counts_tokens() const { return counts_tokens_; }
  std::span<const int32_t> early_ids() const { return early_ids_; }

  // Whether apply() changes anything.
  bool active() const { return counts_tokens_ || always_active_ || too_early(); }

  // repetition_penalty, over prompt and answer: positive logits are divided, others multiplied.
  // Then, over the answer, frequency_penalty per occurrence and presence_penalty once. Then bias.
  // Then the masks: whatever allowed_token_ids leaves out, what would complete one of
  // bad_token_ids, and early ends.
  void apply(std::span<float> logits) const;

  // A token of the answer.
  void append(int32_t token_id);

 private:
  bool too_early() const { return num_tokens_ < params_->min_tokens && !early_ids_.empty(); }
  bool completes(const std::vector<int32_t>& bad_ids) const;
  void mask(std::span<float> logits) const;

  const SamplingParams* params_;
  bool counts_tokens_;
  bool always_active_;  // bias or masks
  // Occurrences in the answer of every token seen; each entry is applied on its own, so the order
  // of the map does not matter.
  std::unordered_map<int32_t, int32_t> counts_;
  std::vector<int32_t> allowed_ids_;  // sorted
  std::vector<int32_t> early_ids_;
  int64_t num_tokens_ = 0;     // of the answer
  size_t tail_capacity_ = 0;   // what the longest of bad_token_ids looks back
  std::vector<int32_t> tail_;  // the answer's last tokens
};

}  // namespace slipstream
