// Weight formats. A QuantFormat is one row of the table in formats.cc: how many elements share a
// block, how many bytes a block takes, and the exact dequantisation that defines the format.
//
// A Weight is a matrix in such a format: all that `linear` and `embed` accept.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/status.h"
#include "core/tensor.h"
#include "quant/int4_rows.h"

namespace slipstream {

enum class QuantType : uint8_t {
  kF32,
  kF16,
  kBF16,
  kQ8_0,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ4_K,
  kQ5_K,
  kQ6_K,
  kE4M3,
};

constexpr int kNoGgmlType = -1;

struct QuantFormat {
  QuantType type;
  const char* name;    // "Q4_1", as `inspect` and --format spell it
  int ggml_type;       // type id in a GGUF file, or kNoGgmlType
  int block_elements;  // consecutive elements of a row that share a block
  int block_bytes;
  // out[block_elements] = exact value of one block, in float.
  void (*dequantize_block)(const std::byte* block, float* out);
  // Inverse with round-to-nearest; null when the format is read-only here.
  void (*quantize_block)(const float* in, std::byte* block);

  double bytes_per_weight() const {
    return static_cast<double>(block_bytes) / static_cast<double>(block_elements);
  }
};

// All formats, in QuantType order.
std::span<const QuantFormat> quant_formats();
const QuantFormat& quant_format(QuantType type);
const QuantFormat* find_quant_format(int ggml_type);          // null: not supported
const QuantFormat* find_quant_format(std::string_view name);  // case-insensitive; null: unknown

// What stored E4M3 values are multiplied by, in float: a scale for every rectangle of
// rows_per_scale x cols_per_scale, row-major, cut off at the matrix's edges; borrowed. Without data
// every scale is 1.
struct ScaleGrid {
  const std::byte* data = nullptr;
  QuantType type = QuantType::kF32;  // or F16, BF16
  int64_t rows_per_scale = 0;
  int64_t cols_per_scale = 0;
};

// A matrix as a file stores it: `rows` rows of `cols` elements, row-major blocks, borrowed.
struct SourceMatrix {
  const std::byte* data = nullptr;
  QuantType type = QuantType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;       // a multiple of the format's block_elements
  ScaleGrid scales = {};  // of kE4M3
  int64_t row_bytes() const {
    const QuantFormat& format = quant_format(type);
    return cols / format.block_elements * format.block_bytes;
  }
  int64_t bytes() const { return rows * row_bytes(); }
};

// out[cols] = exact float values of one row.
void dequantize_row(const SourceMatrix& matrix, int64_t row, float* out);

// Of the rectangle that holds the element.
float scale_at(const SourceMatrix& matrix, int64_t row, int64_t col);
// Scales in the grid, row-major.
int64_t num_scales(const SourceMatrix& matrix);

// How `payload` is laid out. Each backend streams its own layout; `kSource` is the file's.
// `kRows`: dense rows in device memory, of `dtype`.
enum class WeightLayout : uint8_t { kSource, kCpuPanels, kRows };

// A weight matrix ready for one backend: y[m, rows] = x[m, cols] * W^T.
struct Weight {
  QuantType type = QuantType::kF32;
  WeightLayout layout = WeightLayout::kSource;
  int64_t rows = 0;  // output features
  int64_t cols = 0;  // input features
  const std::byte* payload = nullptr;
  int64_t payload_bytes = 0;  // bytes of `payload` streamed per use; group_scales come on top
  DType dtype = DType::kF32;  // of kRows: bf16, fp8_e4m3 with row_scales, int4 with group_scales
  const float* row_scales = nullptr;       // [rows], value = scale x stored
  const uint16_t* group_scales = nullptr;  // f16 [rows, cols / 128]; see quant/int4_rows.h
  ScaleGrid scales = {};                   // of kSource, in scales_owner
  std::shared_ptr<Buffer> scales_owner;
  std::shared_ptr<Buffer> owner;  // null when the payload is borrowed from a mapped file; shared
                                  // because tied embeddings use one matrix twice

  bool empty() const { return payload == nullptr; }
  int64_t num_group_scales() const {
    return group_scales == nullptr ? 0 : rows * int4_num_scales(cols);
  }
  // Values and the scales of groups. Those of rows are too few to count.
  int64_t streamed_bytes() const {
    return payload_bytes + num_group_scales() * static_cast<int64_t>(sizeof(uint16_t));
  }
};

}  // namespace slipstream
