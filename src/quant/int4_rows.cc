#include "quant/int4_rows.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "core/half.h"

namespace slipstream {
namespace {

constexpr float kLargestF16 = 65504.0f;

uint16_t group_scale(const float* group) {
  float largest = 0.0f;
  for (int64_t i = 0; i < kInt4Group; ++i) largest = std::max(largest, std::fabs(group[i]));
  return f32_to_f16(std::min(largest / 7.0f, kLargestF16));
}

uint8_t nibble_of(float value, float scale) {
  if (scale == 0.0f) return 0;
  // A scale among f16's subnormals may be rounded far down; then the largest values are clipped.
  const float q = std::clamp(std::nearbyint(value / scale), -8.0f, 7.0f);
  return static_cast<uint8_t>(static_cast<int>(q) & 0xF);
}

}  // namespace

void quantize_int4_row(const float* row, int64_t num_cols, uint8_t* values, uint16_t* scales) {
  SLIPSTREAM_CHECK(fits_int4(num_cols), "INT4 rows are whole groups of 128 columns");
  for (int64_t start = 0; start < num_cols; start += kInt4Group) {
    const uint16_t stored = group_scale(row + start);
    const float scale = f16_to_f32(stored);
    scales[start / kInt4Group] = stored;
    for (int64_t col = start; col < start + kInt4Group; col += 2) {
      const uint8_t low = nibble_of(row[col], scale);
      const uint8_t high = nibble_of(row[col + 1], scale);
      values[col / 2] = static_cast<uint8_t>(low | (high << 4));
    }
  }
}

void dequantize_int4_row(const uint8_t* values, const uint16_t* scales, int64_t num_cols,
                         float* out) {
  SLIPSTREAM_CHECK(fits_int4(num_cols), "INT4 rows are whole groups of 128 columns");
  for (int64_t col = 0; col < num_cols; ++col) {
    out[col] = static_cast<float>(int4_at(values, col)) * f16_to_f32(scales[col / kInt4Group]);
  }
}

}  // namespace slipstream
