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

// Longer lists of candidates are not made: see Sampler::Kept.
constexpr int64_t kLongestList = 512;

// min_p times the best probability, which is at scaled = 0.
float least_scaled(const SamplingParams& params) { return std::log(params.min_p); }

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
  SLIPSTREAM_ASSIGN_OR_RETURN(float max, checked_max(logits));
  const SamplingParams& params = request.params;
  std::span<const float> raw = logits;
  if (request.pipeline.active()) {
    if (params.logprobs) {
      raw_logits_.assign(logits.begin(), logits.end());
      raw = raw_logits_;
    }
    request.pipeline.apply(logits);
    max = max_logit(logits);
  }
  if (!std::isfinite(max)) return failed("no token is left to choose from");

  Sample sample;
  sample.token_id =
      params.temperature == 0.0f ? find_logit(logits, max) : draw(logits, request, max);
  if (params.logprobs) {
    sample.logprobs = token_logprobs(raw, sample.token_id, *params.logprobs, top_tokens_);
  }
  return sample;
}

Result<TokenLogprobs> Sampler::logprobs(std::span<const float> logits, int32_t id,
                                        int32_t num_top) {
  SLIPSTREAM_RETURN_IF_ERROR(checked_max(logits).status());
  return token_logprobs(logits, id, num_top, top_tokens_);
}

int32_t Sampler::draw(std::span<const float> logits, const SampleRequest& request, float max) {
  const SamplingParams& params = request.params;
  const bool limits_k = params.top_k > 0 && params.top_k < std::ssize(logits);
  if (!limits_k && params.top_p >= 1.0f && params.min_p <= 0.0f) {
    return draw_from_all(logits, request, max, {});
  }
  candidates_.clear();
  bool listed = false;
  if (limits_k && params.top_k <= kLongestList) {
    list_best(logits, params.top_k, params.temperature, max);
    if (params.top_p < 1.0f) {
      double total = 0.0;
      for (const Candidate& c : candidates_) total += static_cast<double>(fast_exp(c.scaled));
      shorten(static_cast<double>(params.top_p) * total);
    }
    listed = true;
  } else if (!limits_k && params.top_p < 1.0f) {
    listed = list_top_p(logits, params, max);
  }
  if (!listed) return draw_from_all(logits, request, max, find_kept(logits, params, max));
  if (params.min_p > 0.0f) {
    const float least = least_scaled(params);
    std::erase_if(candidates_, [&](const Candidate& c) { return c.scaled < least; });
  }
  return draw_from_list(request);
}

int32_t Sampler::draw_from_list(const SampleRequest& request) {
  Noise noise(request);
  Best best;
  for (const Candidate& candidate : candidates_) {
    best.offer(candidate.id, candidate.scaled + gumbel(noise.word(candidate.id)));
  }
  SLIPSTREAM_CHECK(best.id >= 0, "every filter leaves the best token");
  return best.id;
}

// Noise costs far more than a comparison, so tokens that cannot win are left out: first the
// likely ones set a score, then only words large enough to beat it from further down count. A
// u below 1 - exp(-g) gives noise below g. All bounds are loosened against rounding.
int32_t Sampler::draw_from_all(std::span<const float> logits, const SampleRequest& request,
                               float max, const Kept& kept) {
  constexpr float kNear = 4.0f;
  constexpr float kSlack = 0.01f;
  const float temperature = request.params.temperature;
  const auto least_u = [](float least_gumbel) {
    return 1.0 - std::exp(-static_cast<double>(least_gumbel)) - 1e-6;
  };
  Noise noise(request);
  Best best;
  const auto offer = [&](int32_t token_id, float logit, uint32_t word) {
    const float scaled = (logit - max) / temperature;
    if (scaled < kept.least_scaled || !kept.last.covers(logit, token_id)) return;
    best.offer(token_id, scaled + gumbel(word));
  };
  const float near_logit = max - kNear * temperature;
  double near_u = 0.0;
  float near_score = best.score;
  for (size_t id = 0; id < logits.size(); ++id) {
    if (logits[id] < near_logit) continue;
    const auto token_id = static_cast<int32_t>(id);
    const uint32_t word = noise.word(token_id);
    if (static_cast<double>(uniform_open(word)) < near_u) continue;
    offer(token_id, logits[id], word);
    if (best.score == near_score) continue;
    near_score = best.score;
    near_u = least_u(best.score - kSlack);
  }
  SLIPSTREAM_CHECK(best.id >= 0, "every filter leaves the best token");
  const float least_gumbel = best.score + kNear - kSlack;
  if (least_gumbel > kMaxGumbel) return best.id;
  const float far_logit = max + (best.score - kMaxGumbel - kSlack) * temperature;
  const double far_u = least_u(least_gumbel);
  for (size_t id = 0; id < logits.size(); ++id) {
    if (logits[id] < far_logit || logits[id] >= near_logit) continue;
    const auto token_id = static_cast<int32_t>(id);
    const uint32_t word = noise.word(token_id);
    if (static_cast<double>(uniform_open(word)) < far_u) continue;
    offer(token_id, logits[id], word);
  }
  return best.id;
}

void Sampler::list_best(std::span<const float> logits, int64_t count, float temperature,
                        float max) {
  candidates_.clear();
  for (const int32_t id : top_tokens_.select(logits, count)) {
    candidates_.push_back({id, (logits[static_cast<size_t>(id)] - max) / temperature});
  }
}

// Keeps the shortest best-first list whose probability reaches top_p. Few tokens usually hold the
// mass, so short lists are tried; false when they do not reach it.
bool Sampler::list_top_p(std::span<const float> logits, const SamplingParams& params, float max) {
  const double wanted =
      static_cast<double>(params.top_p) * sum_exp(logits, max, params.temperature);
  for (const int64_t count : {int64_t{64}, kLongestList}) {
    list_best(logits, count, params.temperature, max);
    if (shorten(wanted)) return true;
  }
  return false;
}

// Ends the list of candidates where their mass reaches `wanted`; false when it does not.
bool Sampler::shorten(double wanted) {
  double sum = 0.0;
  for (size_t i = 0; i < candidates_.size(); ++i) {
    sum += static_cast<double>(fast_exp(candidates_[i].scaled));
    if (sum < wanted) continue;
    candidates_.resize(i + 1);
    return true;
  }
  return false;
}

Sampler::Kept Sampler::find_kept(std::span<const float> logits, const SamplingParams& params,
                                 float max) {
  Kept kept;
  if (params.top_k > 0 && params.top_k < std::ssize(logits)) {
    kept.last = places_.nth(logits, params.top_k);
  }
  if (params.top_p < 1.0f) {
    kept.last = places_.mass(logits, {max, params.temperature, kept.last, params.top_p});
  }
  if (params.min_p > 0.0f) kept.least_scaled = least_scaled(params);
  return kept;
}

}  // namespace slipstream
