// INT4 rows: the values that define the format, and the quantiser's error against half a step.
#include "quant/int4_rows.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "core/half.h"

namespace slipstream {
namespace {

struct Int4Row {
  std::vector<uint8_t> values;
  std::vector<uint16_t> scales;
  std::vector<float> restored;
};

Int4Row round_trip(const std::vector<float>& row) {
  const auto num_cols = static_cast<int64_t>(row.size());
  Int4Row out;
  out.values.resize(static_cast<size_t>(int4_value_bytes(num_cols)));
  out.scales.resize(static_cast<size_t>(int4_num_scales(num_cols)));
  out.restored.resize(row.size());
  quantize_int4_row(row.data(), num_cols, out.values.data(), out.scales.data());
  dequantize_int4_row(out.values.data(), out.scales.data(), num_cols, out.restored.data());
  return out;
}

TEST(Int4Rows, OnlyWholeGroupsFit) {
  EXPECT_TRUE(fits_int4(128));
  EXPECT_TRUE(fits_int4(4096));
  EXPECT_FALSE(fits_int4(0));
  EXPECT_FALSE(fits_int4(64));
  EXPECT_FALSE(fits_int4(192));
  EXPECT_EQ(int4_row_bytes(4096), 2048 + 64);
}

TEST(Int4Rows, LowNibbleIsTheEvenColumnInTwosComplement) {
  std::vector<float> row(128, 0.0f);
  row[0] = 7.0f;
  row[1] = -7.0f;
  row[2] = -1.0f;
  row[127] = 3.0f;
  const Int4Row packed = round_trip(row);
  EXPECT_EQ(packed.scales[0], 0x3C00);  // 1
  EXPECT_EQ(packed.values[0], 0x97);
  EXPECT_EQ(packed.values[1], 0x0F);
  EXPECT_EQ(packed.values[63], 0x30);
  EXPECT_EQ(packed.restored, row);
}

TEST(Int4Rows, EveryNibbleIsReadAsItsValue) {
  std::vector<uint8_t> values(64, 0);
  for (int i = 0; i < 8; ++i) values[i] = static_cast<uint8_t>((2 * i) | ((2 * i + 1) << 4));
  const uint16_t scale = f32_to_f16(0.5f);
  std::vector<float> out(128);
  dequantize_int4_row(values.data(), &scale, 128, out.data());
  for (int i = 0; i < 16; ++i) EXPECT_EQ(out[i], 0.5f * static_cast<float>(i < 8 ? i : i - 16));
}

TEST(Int4Rows, TiesGoToTheEvenNumber) {
  std::vector<float> row(128, 0.0f);
  row[0] = 7.0f;
  row[1] = 0.5f;
  row[2] = 1.5f;
  row[3] = -2.5f;
  const Int4Row packed = round_trip(row);
  EXPECT_EQ(packed.restored[1], 0.0f);
  EXPECT_EQ(packed.restored[2], 2.0f);
  EXPECT_EQ(packed.restored[3], -2.0f);
}

TEST(Int4Rows, EachGroupHasItsOwnScaleAndAnErrorOfHalfAStep) {
  std::vector<float> row;
  for (int i = 0; i < 512; ++i) {
    const float amplitude = std::pow(10.0f, static_cast<float>(i / 128) - 2.0f);
    row.push_back(amplitude * std::sin(0.7f * static_cast<float>(i) + 0.2f));
  }
  const Int4Row packed = round_trip(row);
  for (size_t i = 0; i < row.size(); ++i) {
    const float scale = f16_to_f32(packed.scales[i / 128]);
    EXPECT_LE(std::fabs(packed.restored[i] - row[i]), 0.5001f * scale) << i;
  }
}

TEST(Int4Rows, AGroupOfZerosHasScaleZero) {
  std::vector<float> row(256, 0.0f);
  row[200] = 1.0f;
  const Int4Row packed = round_trip(row);
  EXPECT_EQ(packed.scales[0], 0);
  EXPECT_NE(packed.scales[1], 0);
  for (size_t i = 0; i < 64; ++i) EXPECT_EQ(packed.values[i], 0) << i;
}

TEST(Int4Rows, ScalesBeyondF16StayFinite) {
  std::vector<float> row(256, 0.0f);
  row[0] = 1e30f;
  row[1] = -1e30f;
  row[128] = 1e-30f;
  const Int4Row packed = round_trip(row);
  EXPECT_EQ(packed.restored[0], 7.0f * 65504.0f);
  EXPECT_EQ(packed.restored[1], -8.0f * 65504.0f);
  EXPECT_EQ(packed.restored[128], 0.0f);
}

}  // namespace
}  // namespace slipstream
