// Sampler: draws one token from a row of logits. The definition for every backend.
//
// Gumbel-max: the token with the largest (logit - max) / temperature + g wins, the lowest id among
// equals, where g = -log(-log(u)) and u comes from Philox4x32-10 with key = seed and counter =
// (position, choice index, token id / 4, purpose), word token id % 4. The noise of a token
// therefore depends on the seed, the place in the sequence and the id alone: neither on the batch
// nor on which other tokens top-k, top-p and min-p leave. Temperature 0 is argmax, lowest id on
// ties. Log-probabilities are those of the raw logits.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <vector>

#include "base/status.h"
#include "sampling/logits_pipeline.h"
#include "sampling/logits_row.h"
#include "slipstream/request.h"

namespace slipstream {

// Last word of the Philox counter: streams of one seed that must not meet.
enum class RandomPurpose : uint32_t { kSample = 0 };

struct SampleRequest {
  const SamplingParams& params;
  const LogitsPipeline& pipeline;
  uint64_t seed = 0;
  int64_t position = 0;  // of the new token in its sequence
  uint32_t choice_idx = 0;
};

struct Sample {
  int32_t token_id = -1;
  std::optional<TokenLogprobs> logprobs;  // when params.logprobs asks for them
};

// Owns scratch only; one per thread.
class Sampler {
 public:
  // `logits` [vocab_size] are overwritten. An error when a logit is not a number or no token is
  // left; it concerns this request alone.
  Result<Sample> sample(std::span<float> logits, const SampleRequest& request);

  // Log-probabilities of `id`, the token that is there (prompts), and of the `num_top` best.
  Result<TokenLogprobs> logprobs(std::span<const float> logits, int32_t id, int32_t num_top);

 private:
  struct Candidate {
    int32_t id = 0;
    float scaled = 0.0f;  // (logit - max) / temperature, <= 0
  };

  // What the filters leave when that is too much to list.
  struct Kept {
    RowPlace last;
    float least_scaled = -std::numeric_limits<float>::infinity();
  };

  int32_t draw(std::span<const float> logits, const SampleRequest& request, float max);
  int32_t draw_from_list(const SampleRequest& request);
  int32_t draw_from_all(std::span<const float> logits, const SampleRequest& request, float max,
                        const Kept& kept);
  void list_best(std::span<const float> logits, int64_t count, float temperature, float max);
  bool list_top_p(std::span<const float> logits, const SamplingParams& params, float max);
  bool shorten(double wanted);
  Kept find_kept(std::span<const float> logits, const SamplingParams& params, float max);

  TopTokens top_tokens_;
  PlaceFinder places_;
  std::vector<float> raw_logits_;
  std::vector<Candidate> candidates_;
};

}  // namespace slipstream
