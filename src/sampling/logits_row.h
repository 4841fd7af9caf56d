// Pure functions over one row of logits: what every part of sampling is made of.
//
// Sums run in one fixed order, so a row gives the same bits whatever is around it. NaN and
// infinities are the caller's to exclude first (check_logits); a masked token is -infinity.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "slipstream/request.h"

namespace slipstream {

// An error when a logit is NaN or +infinity.
Status check_logits(std::span<const float> logits);

// The largest logit; -infinity when every token is masked.
float max_logit(std::span<const float> logits);

// The lowest id that has the largest logit.
int32_t argmax(std::span<const float> logits);

// sum exp((x - max) / temperature), max being the largest logit.
double sum_exp(std::span<const float> logits, float max, float temperature);

// For x <= 88, within 2 units in the last place; x below -87 gives about 1e-38. Same bits on every
// machine.
float fast_exp(float x);

// Finds the best tokens of a row without sorting it. Owns scratch; one per thread.
class TopTokens {
 public:
  // The `count` best ids, best first; of equal logits the lower id first. Valid until the next
  // call.
  std::span<const int32_t> select(std::span<const float> logits, int64_t count);

 private:
  std::vector<float> block_max_;
  std::vector<int32_t> ids_;
};

// Log-probability of `id` and of the `num_top` best tokens under softmax(logits).
TokenLogprobs token_logprobs(std::span<const float> logits, int32_t id, int32_t num_top,
                             TopTokens& top_tokens);

}  // namespace slipstream
