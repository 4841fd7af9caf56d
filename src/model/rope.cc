// The frequencies of rotary position embedding under each kind of context extension. Applying them
// is the ops' business (rope_table, rope).
#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/check.h"
#include "model/spec.h"

namespace slipstream {
namespace {

constexpr double kTwoPi = 2.0 * std::numbers::pi;

// Llama 3.1: wavelengths that fit the original context many times stay, those that do not fit it
// once are divided by `factor`, and the band between is blended.
double llama3_frequency(const RopeConfig& rope, double frequency) {
  const auto context = static_cast<double>(rope.original_max_position_embeddings);
  const double turns = context * frequency / kTwoPi;
  const double keep = std::clamp(
      (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor), 0.0, 1.0);
  return frequency * (keep + (1.0 - keep) / rope.factor);
}

// YaRN (Peng et al., 2023): a linear ramp over dimensions between those that turn `beta_fast` and
// `beta_slow` times within the original context.
struct YarnRamp {
  double low = 0.0;
  double high = 0.0;
};

YarnRamp yarn_ramp(const RopeConfig& rope) {
  const auto context = static_cast<double>(rope.original_max_position_embeddings);
  const auto dimension_that_turns = [&](double turns) {
    return rope.rotary_dim * std::log(context / (turns * kTwoPi)) / (2.0 * std::log(rope.theta));
  };
  YarnRamp ramp{dimension_that_turns(rope.beta_fast), dimension_that_turns(rope.beta_slow)};
  if (rope.truncate) ramp = {std::floor(ramp.low), std::ceil(ramp.high)};
  return {std::max(ramp.low, 0.0), std::min(ramp.high, rope.rotary_dim - 1.0)};
}

double yarn_frequency(const RopeConfig& rope, const YarnRamp& ramp, int pair_idx,
                      double frequency) {
  const double span = std::max(ramp.high - ramp.low, 0.001);  // no division by zero
  const double interpolate = std::clamp((pair_idx - ramp.low) / span, 0.0, 1.0);
  return frequency * (1.0 - interpolate + interpolate / rope.factor);
}

}  // namespace

RopeFrequencies rope_frequencies(const RopeConfig& rope) {
  SLIPSTREAM_CHECK(rope.rotary_dim > 0 && rope.rotary_dim % 2 == 0, "families check rotary_dim");
  const int num_pairs = rope.rotary_dim / 2;
  SLIPSTREAM_CHECK(rope.freq_factors.empty() || std::ssize(rope.freq_factors) == num_pairs,
                   "families check the factors' size");
  const YarnRamp ramp = rope.scaling == RopeScaling::kYarn ? yarn_ramp(rope) : YarnRamp{};
  RopeFrequencies result;
  for (int pair_idx = 0; pair_idx < num_pairs; ++pair_idx) {
    double frequency = std::pow(rope.theta, -2.0 * pair_idx / rope.rotary_dim);
    switch (rope.scaling) {
      case RopeScaling::kNone:
        break;
      case RopeScaling::kLinear:
        frequency /= rope.factor;
        break;
      case RopeScaling::kLlama3:
        frequency = llama3_frequency(rope, frequency);
        break;
      case RopeScaling::kYarn:
        frequency = yarn_frequency(rope, ramp, pair_idx, frequency);
        break;
    }
    if (!rope.freq_factors.empty()) {
      frequency /= static_cast<double>(rope.freq_factors[static_cast<size_t>(pair_idx)]);
    }
    result.inv_freq.push_back(static_cast<float>(frequency));
  }
  if (rope.scaling == RopeScaling::kYarn) {
    result.attention_factor = static_cast<float>(rope.attention_factor);
  }
  return result;
}

}  // namespace slipstream
