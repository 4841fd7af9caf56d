// rope_frequencies against values worked out by hand from each scaling's published formula.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "model/spec.h"

namespace slipstream {
namespace {

void expect_near(const std::vector<float>& actual, const std::vector<double>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    EXPECT_NEAR(actual[i], expected[i], 1e-6 * expected[i]) << "pair " << i;
  }
}

// theta 10^4 over 8 dimensions: one decimal per pair.
RopeConfig rope_of(int rotary_dim) {
  RopeConfig rope;
  rope.theta = 10000.0;
  rope.rotary_dim = rotary_dim;
  return rope;
}
RopeConfig decimal_rope() { return rope_of(8); }

TEST(Rope, PlainFrequenciesArePowersOfTheta) {
  expect_near(rope_frequencies(decimal_rope()).inv_freq, {1.0, 0.1, 0.01, 0.001});
  EXPECT_EQ(rope_frequencies(decimal_rope()).attention_factor, 1.0f);
}

TEST(Rope, LinearDividesEveryFrequency) {
  RopeConfig rope = decimal_rope();
  rope.scaling = RopeScaling::kLinear;
  rope.factor = 4.0;
  expect_near(rope_frequencies(rope).inv_freq, {0.25, 0.025, 0.0025, 0.00025});
}

TEST(Rope, Llama3KeepsShortWavelengthsDividesLongOnesAndBlendsBetween) {
  RopeConfig rope = decimal_rope();
  rope.scaling = RopeScaling::kLlama3;
  rope.factor = 8.0;
  rope.low_freq_factor = 1.0;
  rope.high_freq_factor = 4.0;
  rope.original_max_position_embeddings = 128;
  // Turns within 128 positions: 20.4 (kept), 2.04 (blended), 0.204 and 0.0204 (divided).
  const double wavelength = 2.0 * std::numbers::pi / 0.1;
  const double smooth = (128.0 / wavelength - 1.0) / (4.0 - 1.0);
  const double blended = (1.0 - smooth) * 0.1 / 8.0 + smooth * 0.1;
  expect_near(rope_frequencies(rope).inv_freq, {1.0, blended, 0.01 / 8.0, 0.001 / 8.0});
}

TEST(Rope, YarnRampsBetweenWholeDimensionsAndScalesAttention) {
  RopeConfig rope = rope_of(16);
  rope.scaling = RopeScaling::kYarn;
  rope.factor = 4.0;
  rope.original_max_position_embeddings = 256;
  rope.attention_factor = 0.1 * std::log(4.0) + 1.0;
  // 16 ln(256 / (32 * 2 pi)) / (2 ln 10^4) = 0.21 -> 0; 16 ln(256 / 2 pi) / (2 ln 10^4) = 3.2 -> 4.
  std::vector<double> expected;
  for (int pair = 0; pair < 8; ++pair) {
    const double ramp = std::min(pair / 4.0, 1.0);
    expected.push_back(std::pow(10.0, -pair / 2.0) * (1.0 - ramp + ramp / 4.0));
  }
  const RopeFrequencies frequencies = rope_frequencies(rope);
  expect_near(frequencies.inv_freq, expected);
  EXPECT_NEAR(frequencies.attention_factor, 1.1386294, 1e-6);
}

TEST(Rope, YarnWithoutTruncationRampsBetweenFractions) {
  RopeConfig rope = rope_of(16);
  rope.scaling = RopeScaling::kYarn;
  rope.factor = 4.0;
  rope.beta_fast = 16.0;
  rope.beta_slow = 2.0;
  rope.truncate = false;
  rope.original_max_position_embeddings = 256;
  const double low = 16.0 * std::log(256.0 / (16.0 * 2.0 * std::numbers::pi)) / 2.0 / std::log(1e4);
  const double high = 16.0 * std::log(256.0 / (2.0 * 2.0 * std::numbers::pi)) / 2.0 / std::log(1e4);
  std::vector<double> expected;
  for (int pair = 0; pair < 8; ++pair) {
    const double ramp = std::clamp((pair - low) / (high - low), 0.0, 1.0);
    expected.push_back(std::pow(10.0, -pair / 2.0) * (1.0 - ramp + ramp / 4.0));
  }
  expect_near(rope_frequencies(rope).inv_freq, expected);
}

// A ramp of no width must not divide by zero.
TEST(Rope, YarnWithEqualBetasStaysFinite) {
  RopeConfig rope = decimal_rope();
  rope.scaling = RopeScaling::kYarn;
  rope.factor = 2.0;
  rope.beta_fast = rope.beta_slow = 1.0;
  rope.truncate = false;
  rope.original_max_position_embeddings = 1;
  for (const float frequency : rope_frequencies(rope).inv_freq) {
    EXPECT_TRUE(std::isfinite(frequency) && frequency > 0.0f);
  }
}

// GGUF stores Llama 3.1's scaling as divisors.
TEST(Rope, FactorsOfTheFileDivide) {
  RopeConfig rope = decimal_rope();
  rope.freq_factors = {1.0f, 2.0f, 4.0f, 8.0f};
  expect_near(rope_frequencies(rope).inv_freq, {1.0, 0.05, 0.0025, 0.000125});
}

}  // namespace
}  // namespace slipstream
