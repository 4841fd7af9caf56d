// Pure functions over one row of logits: what every part of sampling is made of.
//
// Sums run in one fixed order, so a row gives the same bits whatever is around it. NaN and
// infinities are the caller's to exclude first (checked_max); a masked token is -infinity.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "base/status.h"
#include "slipstream/request.h"

namespace slipstream {

// The largest logit; -infinity when every token is masked. An error when a logit is NaN or
// +infinity.
Result<float> checked_max(std::span<const float> logits);

// The same of a row that was checked.
float max_logit(std::span<const float> logits);

// The lowest id that has this logit; one must.
int32_t find_logit(std::span<const float> logits, float logit);

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

// A place in the best-first order of a row (of equal logits the lower id first): that of token
// `id`. Behind every token unless set.
struct RowPlace {
  float logit = -std::numeric_limits<float>::infinity();
  int32_t id = std::numeric_limits<int32_t>::max();

  // Whether the token is at this place or before it.
  bool covers(float other_logit, int32_t other_id) const {
    return other_logit > logit || (other_logit == logit && other_id <= id);
  }
};

// Finds where the best tokens of a row end, in time linear in the row however many they are. Owns
// scratch; one per thread.
class PlaceFinder {
 public:
  // Of the `count`-th best token; count >= 1.
  RowPlace nth(std::span<const float> logits, int64_t count);

  struct Mass {
    float max = 0.0f;  // the largest logit
    float temperature = 1.0f;
    RowPlace within;  // tokens behind it have no mass
    float share = 1.0f;
  };
  // Of the first token at which the best ones together have `share` of the mass
  // exp((x - max) / temperature); never behind `within`.
  RowPlace mass(std::span<const float> logits, const Mass& mass);

 private:
  struct Entry {
    uint32_t key = 0;
    int32_t id = 0;
    float weight = 0.0f;
  };
  RowPlace find(std::span<const float> logits, double wanted);
  double narrow(int shift, double wanted, double sum);

  std::vector<float> weights_;  // [vocab_size]
  std::vector<double> buckets_;
  std::vector<Entry> entries_;
};

// Log-probability of `id` and of the `num_top` best tokens under softmax(logits).
TokenLogprobs token_logprobs(std::span<const float> logits, int32_t id, int32_t num_top,
                             TopTokens& top_tokens);

}  // namespace slipstream
