#include "bench/serial_roof.h"

#include <gtest/gtest.h>

namespace slipstream {
namespace {

// Qwen3-8B in FP8 with bf16 pages; its LM head in bf16.
ModelInfo qwen3_8b() {
  ModelInfo model;
  constexpr int64_t kLayers = 6'945'767'424;
  constexpr int64_t kHead = int64_t{151'936} * 4096;
  model.flops = {.per_token = 2 * kLayers,
                 .per_logits = 2 * kHead,
                 .per_position = int64_t{4} * 32 * 128 * 36,
                 .layers_format = "fp8_e4m3",
                 .head_format = "bf16"};
  model.bytes_per_token = kLayers + 2 * kHead;
  model.kv_bytes_per_token = int64_t{2} * 36 * 8 * 128 * 2;
  return model;
}

RoofRates h100() { return {3000.0, {{"fp8_e4m3", 1402.6}, {"bf16", 794.5}}}; }

// Published for one H100 at these rates: 17.8 requests/s of 128/1024 at 256, 49 of 1024/128.
TEST(SerialRoof, GivesThePublishedCeilings) {
  const double decode = serial_roof_tok_s(qwen3_8b(), {128, 1024, 256}, h100());
  EXPECT_NEAR(decode / 1024.0, 17.8, 0.3);
  const double prefill = serial_roof_tok_s(qwen3_8b(), {1024, 128, 256}, h100());
  EXPECT_NEAR(prefill / 128.0, 49.0, 2.0);
}

TEST(SerialRoof, EveryRateCounts) {
  const double whole = serial_roof_tok_s(qwen3_8b(), {128, 128, 512}, h100());
  for (RoofRates slower : {RoofRates{1500.0, h100().gemm_tflops},
                           RoofRates{3000.0, {{"fp8_e4m3", 700.0}, {"bf16", 794.5}}},
                           RoofRates{3000.0, {{"fp8_e4m3", 1402.6}, {"bf16", 400.0}}}}) {
    EXPECT_LT(serial_roof_tok_s(qwen3_8b(), {128, 128, 512}, slower), whole);
    EXPECT_GT(serial_roof_tok_s(qwen3_8b(), {128, 128, 512}, slower), whole / 2.0);
  }
}

TEST(SerialRoof, IsUnknownWithoutARate) {
  EXPECT_EQ(serial_roof_tok_s(qwen3_8b(), {128, 128, 1}, {3000.0, {{"bf16", 794.5}}}), 0.0);
  EXPECT_EQ(serial_roof_tok_s(qwen3_8b(), {128, 128, 1}, {0.0, h100().gemm_tflops}), 0.0);
  EXPECT_EQ(serial_roof_tok_s(ModelInfo(), {128, 128, 1}, h100()), 0.0);
}

}  // namespace
}  // namespace slipstream
