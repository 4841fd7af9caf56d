// The GPU's tokens against the Sampler's, for the same logits, seeds and places. Skipped without a
// GPU.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "base/random.h"
#include "engine/device_sampling_test_util.h"
#include "ops/ops.h"
#include "sampling/sampler.h"

namespace slipstream {
namespace {

SamplingParams make_params(size_t idx) {
  constexpr std::array kTopK = {0, 1, 2, 40, 512, 5000};
  constexpr std::array kTopP = {1.0f, 0.95f, 0.5f, 0.01f, 0.999f};
  constexpr std::array kTemperature = {1.0f, 0.1f, 0.7f, 3.0f};
  SamplingParams params;
  params.top_k = kTopK[idx % kTopK.size()];
  params.top_p = kTopP[idx / 2 % kTopP.size()];
  params.min_p = idx % 7 == 3 ? 0.05f : 0.0f;
  params.temperature = idx % 29 == 0 ? 0.0f : kTemperature[idx / 3 % kTemperature.size()];
  return params;
}

class DeviceSampling : public testing::TestWithParam<int64_t> {
 protected:
  static constexpr int64_t kRows = 240;

  void SetUp() override {
    std::string why;
    if (!gpu_.open(kRows, GetParam(), 0, &why)) GTEST_SKIP() << why;
  }
  std::vector<int32_t> draw(const std::vector<float>& logits, std::span<const SampleRow> rows) {
    return gpu_.draw(logits, rows);
  }

  GpuDraws gpu_;
};

INSTANTIATE_TEST_SUITE_P(Vocabularies, DeviceSampling,
                         testing::Values(1000, 4099, 49'152, 151'936));

TEST_P(DeviceSampling, GivesTheTokensOfTheSampler) {
  const int64_t vocab_size = GetParam();
  SplitMix64 random(static_cast<uint64_t>(vocab_size));
  std::vector<float> logits;
  std::vector<SampleRow> rows;
  std::vector<int32_t> wanted;
  Sampler sampler;
  const SamplingParams nothing;
  const LogitsPipeline no_pipeline(nothing, {});
  int num_changed = 0;
  for (int64_t row = 0; row < kRows; ++row) {
    const auto idx = static_cast<size_t>(row);
    const std::vector<float> made =
        make_row(vocab_size, static_cast<int>(row / 7 % kNumKinds), random);
    logits.insert(logits.end(), made.begin(), made.end());
    const SamplingParams params = make_params(idx);
    rows.push_back({.row = static_cast<int32_t>(row),
                    .temperature = params.temperature,
                    .seed = 77 + idx,
                    .position = static_cast<uint32_t>(3 * row),
                    .choice_idx = static_cast<uint32_t>(row % 2),
                    .top_k = params.top_k,
                    .top_p = params.top_p,
                    .min_p = params.min_p});
    const auto token_of = [&](const SamplingParams& with) {
      std::vector<float> copy = made;
      const auto sample = sampler.sample(copy, {.params = with,
                                                .pipeline = no_pipeline,
                                                .seed = rows.back().seed,
                                                .position = 3 * row,
                                                .choice_idx = rows.back().choice_idx});
      if (sample.ok()) return sample.value().token_id;
      return sample.status().message().starts_with("no token") ? kNoTokenLeft : -1;
    };
    wanted.push_back(token_of(params));
    SamplingParams unfiltered;
    unfiltered.temperature = params.temperature;
    if (token_of(unfiltered) != wanted.back()) ++num_changed;
  }
  const std::vector<int32_t> got = draw(logits, rows);
  ASSERT_EQ(got.size(), wanted.size());
  int num_moved = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    if (got[i] == wanted[i]) continue;
    // Rounding of a sum of probabilities may move the end of what top-p keeps by one token.
    EXPECT_LT(rows[i].top_p, 1.0f) << "row " << i << ": " << got[i] << " instead of " << wanted[i];
    ++num_moved;
  }
  EXPECT_LE(num_moved, 1);
  EXPECT_GT(num_changed, kRows / 4) << "the filters decide about most of these tokens";
}

TEST_P(DeviceSampling, RowsThatAreNoNumbersHaveNoToken) {
  const int64_t vocab_size = GetParam();
  std::vector<float> logits(static_cast<size_t>(3 * vocab_size), 0.5f);
  logits[5] = std::numeric_limits<float>::quiet_NaN();
  logits[static_cast<size_t>(vocab_size) + 9] = kInfinity;
  for (int64_t i = 0; i < vocab_size; ++i) {
    logits[static_cast<size_t>(2 * vocab_size + i)] = -kInfinity;
  }
  std::vector<SampleRow> rows;
  for (const int32_t top_k : {0, 40}) {
    for (const int32_t row : {0, 1, 2}) {
      rows.push_back({.row = row, .temperature = 1.0f, .top_k = top_k, .top_p = 0.9f});
    }
  }
  const std::vector<int32_t> each = {kBadLogits, kBadLogits, kNoTokenLeft};
  std::vector<int32_t> wanted = each;
  wanted.insert(wanted.end(), each.begin(), each.end());
  EXPECT_EQ(draw(logits, rows), wanted);
}

}  // namespace
}  // namespace slipstream
