// The one list of weight formats: a row per format, in QuantType order.
#include <strings.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "base/check.h"
#include "base/checked_math.h"
#include "core/e4m3.h"
#include "core/half.h"
#include "quant/format.h"
#include "quant/gguf_blocks.h"

namespace slipstream {
namespace {

void dequantize_f32(const std::byte* block, float* out) { std::memcpy(out, block, sizeof(float)); }

void quantize_f32(const float* in, std::byte* block) { std::memcpy(block, in, sizeof(float)); }

uint16_t load_u16(const std::byte* bytes) {
  uint16_t bits;
  std::memcpy(&bits, bytes, sizeof(bits));
  return bits;
}

void dequantize_f16(const std::byte* block, float* out) { *out = f16_to_f32(load_u16(block)); }

void quantize_f16(const float* in, std::byte* block) {
  const uint16_t bits = f32_to_f16(*in);
  std::memcpy(block, &bits, sizeof(bits));
}

void dequantize_bf16(const std::byte* block, float* out) { *out = bf16_to_f32(load_u16(block)); }

void quantize_bf16(const float* in, std::byte* block) {
  const uint16_t bits = f32_to_bf16(*in);
  std::memcpy(block, &bits, sizeof(bits));
}

void dequantize_e4m3(const std::byte* block, float* out) {
  *out = e4m3_to_f32(static_cast<uint8_t>(*block));
}

void quantize_e4m3(const float* in, std::byte* block) {
  *block = static_cast<std::byte>(f32_to_e4m3(*in));
}

constexpr std::array kFormats = {
    QuantFormat{QuantType::kF32, "F32", 0, 1, 4, dequantize_f32, quantize_f32},
    QuantFormat{QuantType::kF16, "F16", 1, 1, 2, dequantize_f16, quantize_f16},
    QuantFormat{QuantType::kBF16, "BF16", 30, 1, 2, dequantize_bf16, quantize_bf16},
    QuantFormat{QuantType::kQ8_0, "Q8_0", 8, 32, 34, dequantize_q8_0, quantize_q8_0},
    QuantFormat{QuantType::kQ4_0, "Q4_0", 2, 32, 18, dequantize_q4_0, quantize_q4_0},
    QuantFormat{QuantType::kQ4_1, "Q4_1", 3, 32, 20, dequantize_q4_1, quantize_q4_1},
    QuantFormat{QuantType::kQ5_0, "Q5_0", 6, 32, 22, dequantize_q5_0, quantize_q5_0},
    QuantFormat{QuantType::kQ5_1, "Q5_1", 7, 32, 24, dequantize_q5_1, quantize_q5_1},
    QuantFormat{QuantType::kQ4_K, "Q4_K", 12, 256, 144, dequantize_q4_k, nullptr},
    QuantFormat{QuantType::kQ5_K, "Q5_K", 13, 256, 176, dequantize_q5_k, nullptr},
    QuantFormat{QuantType::kQ6_K, "Q6_K", 14, 256, 210, dequantize_q6_k, nullptr},
    QuantFormat{QuantType::kE4M3, "F8_E4M3", kNoGgmlType, 1, 1, dequantize_e4m3, quantize_e4m3},
};

constexpr bool in_type_order() {
  for (size_t i = 0; i < kFormats.size(); ++i) {
    if (static_cast<size_t>(kFormats[i].type) != i) return false;
  }
  return true;
}
static_assert(in_type_order(), "quant_format() indexes the table by QuantType");

constexpr std::array<float, 256> make_e4m3_values() {
  std::array<float, 256> values{};
  for (int code = 0; code < 256; ++code) {
    values[static_cast<size_t>(code)] = e4m3_to_f32(static_cast<uint8_t>(code));
  }
  return values;
}
constexpr std::array<float, 256> kE4m3Values = make_e4m3_values();

void dequantize_e4m3_row(const SourceMatrix& matrix, int64_t row, float* out) {
  const std::byte* codes = matrix.data + row * matrix.row_bytes();
  const int64_t step = matrix.scales.data != nullptr ? matrix.scales.cols_per_scale : matrix.cols;
  for (int64_t begin = 0; begin < matrix.cols; begin += step) {
    const float scale = scale_at(matrix, row, begin);
    const int64_t end = std::min(begin + step, matrix.cols);
    for (int64_t col = begin; col < end; ++col) {
      out[col] = kE4m3Values[static_cast<size_t>(codes[col])] * scale;
    }
  }
}

}  // namespace

std::span<const QuantFormat> quant_formats() { return kFormats; }

const QuantFormat& quant_format(QuantType type) {
  const auto idx = static_cast<size_t>(type);
  SLIPSTREAM_CHECK(idx < kFormats.size(), "not a QuantType");
  return kFormats[idx];
}

const QuantFormat* find_quant_format(int ggml_type) {
  if (ggml_type == kNoGgmlType) return nullptr;
  for (const QuantFormat& format : kFormats) {
    if (format.ggml_type == ggml_type) return &format;
  }
  return nullptr;
}

const QuantFormat* find_quant_format(std::string_view name) {
  for (const QuantFormat& format : kFormats) {
    const std::string_view known = format.name;
    if (known.size() == name.size() && ::strncasecmp(known.data(), name.data(), name.size()) == 0) {
      return &format;
    }
  }
  return nullptr;
}

void dequantize_row(const SourceMatrix& matrix, int64_t row, float* out) {
  SLIPSTREAM_CHECK(row >= 0 && row < matrix.rows, "row outside the matrix");
  const QuantFormat& format = quant_format(matrix.type);
  const std::byte* block = matrix.data + row * matrix.row_bytes();
  // One element per block: plain loops, so that a compiler can vectorise the conversion.
  switch (matrix.type) {
    case QuantType::kF32:
      std::memcpy(out, block, static_cast<size_t>(matrix.row_bytes()));
      return;
    case QuantType::kF16:
      for (int64_t col = 0; col < matrix.cols; ++col) dequantize_f16(block + 2 * col, out + col);
      return;
    case QuantType::kBF16:
      for (int64_t col = 0; col < matrix.cols; ++col) dequantize_bf16(block + 2 * col, out + col);
      return;
    case QuantType::kE4M3:
      dequantize_e4m3_row(matrix, row, out);
      return;
    default:
      break;
  }
  for (int64_t col = 0; col < matrix.cols; col += format.block_elements) {
    format.dequantize_block(block, out + col);
    block += format.block_bytes;
  }
}

float scale_at(const SourceMatrix& matrix, int64_t row, int64_t col) {
  const ScaleGrid& grid = matrix.scales;
  if (grid.data == nullptr) return 1.0f;
  const QuantFormat& format = quant_format(grid.type);
  const int64_t per_row = div_up<int64_t>(matrix.cols, grid.cols_per_scale);
  const int64_t idx = row / grid.rows_per_scale * per_row + col / grid.cols_per_scale;
  float scale = 0.0f;
  format.dequantize_block(grid.data + idx * format.block_bytes, &scale);
  return scale;
}

int64_t num_scales(const SourceMatrix& matrix) {
  const ScaleGrid& grid = matrix.scales;
  if (grid.data == nullptr) return 0;
  return div_up<int64_t>(matrix.rows, grid.rows_per_scale) *
         div_up<int64_t>(matrix.cols, grid.cols_per_scale);
}

}  // namespace slipstream
