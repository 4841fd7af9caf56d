#include "sampling/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/check.h"
#include "base/random.h"

namespace slipstream {
namespace {

// uniform_open() never exceeds 1 - 2^-24, so no Gumbel noise exceeds 24 ln 2 = 16.636.
constexpr float kMaxGumbel = 16.64f;

float gumbel(uint32_t word) {
  // In double and rounded once: the float is then the same with any good libm.
  const double u = static_cast<double>(uniform_open(word));
  return static_cast<float>(-std::log(-std::log(u)));
}

class Noise {
 public:
  explicit Noise(const SampleRequest& request)
      : seed_(request.seed),
        counter_{static_cast<uint32_t>(request.position), request.choice_idx, 0,
                 static_cast<uint32_t>(RandomPurpose::kSample)} {}

  uint32_t word(int32_t token_id) {
    const uint32_t group = static_cast<uint32_t>(token_id) / 4;
    if (!valid_ || group != counter_[2]) {
      counter_[2] = group;
      words_ = philox4x32_10(counter_, seed_);
      valid_ = true;
    }
    return words_[static_cast<uint32_t>(token_id) % 4];
  }

 private:
  uint64_t seed_;
  PhiloxWords counter_;
  PhiloxWords words_{};
  bool valid_ = false;
};

struct Best {
  int32_t id = -1;
  float score = -std::numeric_limits<float>::infinity();

  void offer(int32_t other_id, float other_score) {
    if (other_score > score || (other_score == score && other_id < id)) {
      id = other_id;
      score = other_score;
    }
  }
};

}  // namespace

Result<Sample> Sampler::sample(std::span<float> logits, const SampleRequest& request) {
  SLIPSTREAM_RETURN_IF_ERROR(check_logits(logits));
  const SamplingParams& params = request.params;
  std::span<const float> raw = logits;
  if (request.pipeline.active()) {
    if (params.logprobs) {
      raw_logits_.assign(logits.begin(), logits.end());
      raw = raw_logits_;
    }
    request.pipeline.apply(logits);
  }
  const float max = max_logit(logits);
  if (!std::isfinite(max)) return failed("no token is left to choose from");

  Sample sample;
  sample.token_id = params.temperature == 0.0f ? argmax(logits) : draw(logits, request, max);
  if (params.logprobs) {
    sample.logprobs = token_logprobs(raw, sample.token_id, *params.logprobs, top_tokens_);
  }
  return sample;
}

Result<TokenLogprobs> Sampler::logprobs(std::span<const float> logits, int32_t id,
                                        int32_t num_top) {
  SLIPSTREAM_RETURN_IF_ERROR(check_logits(logits));
  return token_logprobs(logits, id, num_top, top_tokens_);
}

int32_t Sampler::draw(std::span<const float> logits, const SampleRequest& request, float max) {
  const SamplingParams& params = request.params;
  const auto vocab_size = static_cast<int64_t>(logits.size());
  const bool limits_k = params.top_k > 0 && params.top_k < vocab_size;
  if (!limits_k && params.top_p >= 1.0f && params.min_p <= 0.0f) {
    return draw_from_all(logits, request, max);
  }
  candidates_.clear();
  if (limits_k) keep_top_k(logits, params, max);
  if (params.top_p < 1.0f) keep_top_p(logits, params, max);
  if (params.min_p > 0.0f) keep_min_p(logits, params, max);

  Noise noise(request);
  Best best;
  for (const Candidate& candidate : candidates_) {
    best.offer(candidate.id, candidate.scaled + gumbel(noise.word(candidate.id)));
  }
  SLIPSTREAM_CHECK(best.id >= 0, "every filter leaves the best token");
  return best.id;
}

// Noise costs far more than a comparison, so tokens that cannot win are left out: first the
// likely ones set a score, then only words large enough to beat it from further down count.
int32_t Sampler::draw_from_all(std::span<const float> logits, const SampleRequest& request,
                               float max) {
  constexpr float kNear = 4.0f;
  const float temperature = request.params.temperature;
  Noise noise(request);
  Best best;
  const float near_logit = max - kNear * temperature;
  for (size_t id = 0; id < logits.size(); ++id) {
    if (logits[id] < near_logit) continue;
    const auto token_id = static_cast<int32_t>(id);
    best.offer(token_id, (logits[id] - max) / temperature + gumbel(noise.word(token_id)));
  }
  // A token further down needs noise of at least `least_gumbel`; u below 1 - exp(-least_gumbel)
  // gives less. Both bounds are loosened against rounding.
  const float least_gumbel = best.score + kNear - 0.01f;
  if (least_gumbel > kMaxGumbel) return best.id;
  const float far_logit = max + (best.score - kMaxGumbel - 0.01f) * temperature;
  const double least_u = 1.0 - std::exp(-static_cast<double>(least_gumbel)) - 1e-6;
  for (size_t id = 0; id < logits.size(); ++id) {
    if (logits[id] < far_logit || logits[id] >= near_logit) continue;
    const auto token_id = static_cast<int32_t>(id);
    const uint32_t word = noise.word(token_id);
    if (static_cast<double>(uniform_open(word)) < least_u) continue;
    best.offer(token_id, (logits[id] - max) / temperature + gumbel(word));
  }
  return best.id;
}

void Sampler::keep_top_k(std::span<const float> logits, const SamplingParams& params, float max) {
  for (const int32_t id : top_tokens_.select(logits, params.top_k)) {
    const float logit = logits[static_cast<size_t>(id)];
    candidates_.push_back({id, (logit - max) / params.temperature});
  }
}

// Keeps the shortest best-first list whose probability reaches top_p of what top-k left.
void Sampler::keep_top_p(std::span<const float> logits, const SamplingParams& params, float max) {
  const auto reaches = [&](double wanted) {
    double sum = 0.0;
    for (size_t i = 0; i < candidates_.size(); ++i) {
      sum += static_cast<double>(fast_exp(candidates_[i].scaled));
      if (sum < wanted) continue;
      candidates_.resize(i + 1);
      return true;
    }
    return false;
  };
  if (!candidates_.empty()) {
    double total = 0.0;
    for (const Candidate& c : candidates_) total += static_cast<double>(fast_exp(c.scaled));
    reaches(static_cast<double>(params.top_p) * total);
    return;
  }
  // Few tokens usually hold the mass, so the list grows only until it does.
  const double wanted =
      static_cast<double>(params.top_p) * sum_exp(logits, max, params.temperature);
  const auto vocab_size = static_cast<int64_t>(logits.size());
  for (int64_t count = std::min<int64_t>(64, vocab_size);;) {
    candidates_.clear();
    for (const int32_t id : top_tokens_.select(logits, count)) {
      const float logit = logits[static_cast<size_t>(id)];
      candidates_.push_back({id, (logit - max) / params.temperature});
    }
    if (reaches(wanted) || count == vocab_size) return;
    count = std::min(count * 8, vocab_size);
  }
}

// Drops tokens below min_p times the best probability, which is at scaled = 0.
void Sampler::keep_min_p(std::span<const float> logits, const SamplingParams& params, float max) {
  const float least = std::log(params.min_p);
  if (!candidates_.empty()) {
    std::erase_if(candidates_, [&](const Candidate& c) { return c.scaled < least; });
    return;
  }
  for (size_t id = 0; id < logits.size(); ++id) {
    const float scaled = (logits[id] - max) / params.temperature;
    if (scaled >= least) candidates_.push_back({static_cast<int32_t>(id), scaled});
  }
}

}  // namespace slipstream
