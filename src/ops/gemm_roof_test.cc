#include "ops/gemm_roof.h"

#include <gtest/gtest.h>

#include <vector>

namespace slipstream {
namespace {

TEST(GemmRoof, IsMeasuredOnTheMatrixGiven) {
  ThreadPool pool(1);
  const std::vector<float> values(64 * 32, 0.5f);
  const SourceMatrix matrix{reinterpret_cast<const std::byte*>(values.data()), QuantType::kF32, 64,
                            32};
  const auto rate = measure_gemm(*cpu_ops(CpuIsa::kAuto), pool, matrix, DType::kBF16, 8);
  ASSERT_TRUE(rate.ok()) << rate.status().message();
  EXPECT_GT(rate.value().median_tflops, 0.0);
  EXPECT_GE(rate.value().best_tflops, rate.value().median_tflops);
}

TEST(GemmRoof, FormatsWithoutARandomMatrixAreRefused) {
  ThreadPool pool(1);
  EXPECT_FALSE(measure_gemm(*cpu_ops(CpuIsa::kAuto), pool, "Q6_K").ok());
  EXPECT_FALSE(measure_gemm(*cpu_ops(CpuIsa::kAuto), pool, "bf17").ok());
}

TEST(GemmRoof, AFormatIsTheDenseTypeOrThatOfTheBlocks) {
  Weight weight;
  weight.type = QuantType::kQ4_1;
  weight.layout = WeightLayout::kCpuPanels;
  EXPECT_EQ(gemm_format(weight), "Q4_1");
  weight.layout = WeightLayout::kRows;
  weight.dtype = DType::kF8E4M3;
  EXPECT_EQ(gemm_format(weight), "fp8_e4m3");
  weight.dtype = DType::kI4;
  EXPECT_EQ(gemm_format(weight), "int4");
}

}  // namespace
}  // namespace slipstream
