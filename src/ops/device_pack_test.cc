// How the GPU stores what FP8 checkpoints hold. Skipped without a GPU.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/e4m3.h"
#include "core/half.h"
#include "ops/device_ops_test_util.h"

namespace slipstream {
namespace {

constexpr int64_t kRows = 272;  // neither is a multiple of a block
constexpr int64_t kCols = 400;

class DevicePack : public DeviceOpsTest {
 protected:
  void SetUp() override {
    open(DType::kF8E4M3);
    for (int64_t i = 0; i < kRows; ++i) scales_.push_back(0.001f * static_cast<float>(i + 1));
    codes_ = random_matrix(QuantType::kE4M3, kRows, kCols, 5);
    source_ = {codes_.data(), QuantType::kE4M3, kRows, kCols};
    source_.scales = {reinterpret_cast<const std::byte*>(scales_.data()), QuantType::kF32, 1,
                      kCols};
  }

  std::vector<float> source_row(int64_t row) const {
    std::vector<float> values(kCols);
    dequantize_row(source_, row, values.data());
    return values;
  }

  std::vector<float> scales_;
  std::vector<std::byte> codes_;
  SourceMatrix source_;
};

TEST_F(DevicePack, E4M3WithAScalePerRowOrTensorLiesThereAsInTheFile) {
  for (const int64_t rows_per_scale : {int64_t{1}, kRows}) {
    source_.scales.rows_per_scale = rows_per_scale;
    const Weight weight = packed(source_, WeightRole::kLinear);
    ASSERT_EQ(weight.dtype, DType::kF8E4M3);
    EXPECT_EQ(read<std::byte>(weight.payload, kRows * kCols), codes_);
    const std::vector<float> scales = read<float>(weight.row_scales, kRows);
    for (int64_t row = 0; row < kRows; ++row) {
      EXPECT_EQ(scales[static_cast<size_t>(row)],
                scales_[static_cast<size_t>(row / rows_per_scale)]);
    }
  }
}

TEST_F(DevicePack, E4M3WithAScalePerBlockIsRoundedOnceMore) {
  source_.scales.rows_per_scale = source_.scales.cols_per_scale = 128;
  const Weight weight = packed(source_, WeightRole::kLinear);
  ASSERT_EQ(weight.dtype, DType::kF8E4M3);
  const std::vector<uint8_t> codes = read<uint8_t>(weight.payload, kRows * kCols);
  const std::vector<float> scales = read<float>(weight.row_scales, kRows);
  for (int64_t row = 0; row < kRows; ++row) {
    const std::vector<float> want = source_row(row);
    float largest = 0.0f;
    for (const float value : want) largest = std::max(largest, std::fabs(value));
    for (int64_t col = 0; col < kCols; ++col) {
      const auto at = static_cast<size_t>(row * kCols + col);
      const float got = e4m3_to_f32(codes[at]) * scales[static_cast<size_t>(row)];
      const float wanted = want[static_cast<size_t>(col)];
      // Half a step of three bits, or of the smallest values.
      ASSERT_NEAR(got, wanted, std::fabs(wanted) / 16.0f + largest / 448.0f / 1024.0f);
    }
  }
}

TEST_F(DevicePack, WhatIsNotToBeQuantisedIsBf16) {
  for (const WeightRole role : {WeightRole::kUnquantizedLinear, WeightRole::kVocabulary}) {
    const Weight weight = packed(source_, role);
    ASSERT_EQ(weight.dtype, DType::kBF16);
    const std::vector<uint16_t> got = read<uint16_t>(weight.payload, kRows * kCols);
    for (int64_t row = 0; row < kRows; ++row) {
      const std::vector<float> want = source_row(row);
      for (int64_t col = 0; col < kCols; ++col) {
        ASSERT_EQ(got[static_cast<size_t>(row * kCols + col)],
                  f32_to_bf16(want[static_cast<size_t>(col)]));
      }
    }
  }
}

}  // namespace
}  // namespace slipstream
