// Rules of the core layer: half conversions are exact and round to nearest even.
#include <gtest/gtest.h>

#include <cmath>

#include "core/e4m3.h"
#include "core/half.h"
#include "core/tensor.h"

namespace slipstream {
namespace {

TEST(Half, EveryF16SurvivesTheRoundTrip) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float value = f16_to_f32(half);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(f16_to_f32(f32_to_f16(value))));
    } else {
      EXPECT_EQ(f32_to_f16(value), half);
    }
  }
}

TEST(Half, F16RoundsToNearestEven) {
  EXPECT_EQ(f32_to_f16(1.0f + 0x1p-11f), 0x3C00);             // tie, even below
  EXPECT_EQ(f32_to_f16(1.0f + 3 * 0x1p-11f), 0x3C02);         // tie, even above
  EXPECT_EQ(f32_to_f16(1.0f + 0x1p-11f + 0x1p-20f), 0x3C01);  // above the tie
  EXPECT_EQ(f32_to_f16(65519.0f), 0x7BFF);
  EXPECT_EQ(f32_to_f16(65520.0f), 0x7C00);
  EXPECT_EQ(f32_to_f16(0x1p-25f), 0x0000);  // tie to zero
  EXPECT_EQ(f32_to_f16(0x1.8p-25f), 0x0001);
}

TEST(Half, Bf16RoundsToNearestEven) {
  EXPECT_EQ(f32_to_bf16(1.0f), 0x3F80);
  EXPECT_EQ(f32_to_bf16(1.0f + 0x1p-8f), 0x3F80);
  EXPECT_EQ(f32_to_bf16(1.0f + 3 * 0x1p-8f), 0x3F82);
  EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(NAN))));
}

TEST(E4m3, EveryValueSurvivesTheRoundTrip) {
  for (uint32_t bits = 0; bits < 256; ++bits) {
    const auto code = static_cast<uint8_t>(bits);
    const float value = e4m3_to_f32(code);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(e4m3_to_f32(f32_to_e4m3(value))));
    } else {
      EXPECT_EQ(f32_to_e4m3(value), code) << value;
    }
  }
}

TEST(E4m3, RoundsToNearestEvenAndSaturates) {
  EXPECT_EQ(e4m3_to_f32(0x7E), 448.0f);
  EXPECT_EQ(e4m3_to_f32(0x01), 0x1p-9f);
  EXPECT_EQ(f32_to_e4m3(1.0f + 1.0f / 16), f32_to_e4m3(1.0f));             // tie, even below
  EXPECT_EQ(f32_to_e4m3(1.0f + 3.0f / 16), f32_to_e4m3(1.0f + 2.0f / 8));  // tie, even above
  EXPECT_EQ(f32_to_e4m3(1e9f), 0x7E);
  EXPECT_EQ(f32_to_e4m3(-INFINITY), 0xFE);
  EXPECT_EQ(f32_to_e4m3(0x1p-10f), 0x00);  // tie to zero
  EXPECT_EQ(f32_to_e4m3(0x1.8p-10f), 0x01);
}

TEST(TensorView, ColumnsAndRowsShareTheParentsStride) {
  Buffer buffer(6 * 4 * sizeof(float));
  for (int i = 0; i < 24; ++i) buffer.as<float>()[i] = static_cast<float>(i);
  const TensorView view = TensorView::contiguous(buffer.data(), DType::kF32, {6, 4});
  const TensorView part = view.rows(2, 3).columns(1, 2);
  EXPECT_EQ(part.dim(0), 3);
  EXPECT_EQ(part.dim(1), 2);
  EXPECT_EQ(part.f32_row(1)[0], 13.0f);
  EXPECT_EQ(part.shape_text(), "[3, 2]");
}

}  // namespace
}  // namespace slipstream
