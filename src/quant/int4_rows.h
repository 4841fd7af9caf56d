// INT4 rows: the symmetric 4-bit form of dense matrices, value = q * scale with q in -8..7 and one
// f16 scale for every 128 columns of a row. Plain host code that defines the format of
// docs/quant.md; pure functions, for any thread.
#pragma once

#include <cstddef>
#include <cstdint>

namespace slipstream {

constexpr int64_t kInt4Group = 128;  // columns of a row that share a scale

// Only whole groups: a matrix with another number of columns has no INT4 form.
constexpr bool fits_int4(int64_t num_cols) { return num_cols > 0 && num_cols % kInt4Group == 0; }

constexpr int64_t int4_value_bytes(int64_t num_cols) { return num_cols / 2; }
constexpr int64_t int4_num_scales(int64_t num_cols) { return num_cols / kInt4Group; }
// Of values and scales.
constexpr int64_t int4_row_bytes(int64_t num_cols) {
  return int4_value_bytes(num_cols) + int4_num_scales(num_cols) * 2;
}

// Two's complement; the low nibble of a byte is the even column.
constexpr int int4_at(const uint8_t* values, int64_t col) {
  const int nibble = (values[col / 2] >> (col % 2 * 4)) & 0xF;
  return nibble < 8 ? nibble : nibble - 16;
}

// values[num_cols / 2] and scales[num_cols / 128] (f16 bits) of row[num_cols], finite values.
// A scale is the group's largest magnitude / 7, rounded to f16 and at most its largest number,
// before q = value / scale is rounded to the nearest, ties to even. A scale of 0 makes every q of
// its group 0.
void quantize_int4_row(const float* row, int64_t num_cols, uint8_t* values, uint16_t* scales);

// out[num_cols] = exact values: a q times an f16 always fits a float.
void dequantize_int4_row(const uint8_t* values, const uint16_t* scales, int64_t num_cols,
                         float* out);

}  // namespace slipstream
