#include "quant/finite.h"

#include <cstddef>
#include <cstring>

#include "quant/gguf_blocks.h"

namespace slipstream {
namespace {

// Where floats lie: `count` of them at `first`, `stride` bytes apart, in every block.
template <typename Bits>
bool all_finite(const std::byte* first, int64_t count, int64_t stride, Bits exponent) {
  bool finite = true;
  for (int64_t idx = 0; idx < count; ++idx) {
    Bits bits;
    std::memcpy(&bits, first + idx * stride, sizeof(bits));
    finite &= (bits & exponent) != exponent;
  }
  return finite;
}

// E4M3 has no infinities, and one NaN of either sign.
bool no_e4m3_nan(const std::byte* codes, int64_t count) {
  bool finite = true;
  for (int64_t idx = 0; idx < count; ++idx) {
    finite &= (codes[idx] & std::byte{0x7F}) != std::byte{0x7F};
  }
  return finite;
}

constexpr uint16_t kF16Exponent = 0x7C00;
constexpr uint16_t kBF16Exponent = 0x7F80;
constexpr uint32_t kF32Exponent = 0x7F800000;

bool row_is_finite(QuantType type, const std::byte* row, int64_t num_blocks) {
  const auto scales = [row, num_blocks, type](size_t offset) {
    return all_finite(row + offset, num_blocks, quant_format(type).block_bytes, kF16Exponent);
  };
  switch (type) {
    case QuantType::kF32:
      return all_finite(row, num_blocks, 4, kF32Exponent);
    case QuantType::kF16:
      return all_finite(row, num_blocks, 2, kF16Exponent);
    case QuantType::kBF16:
      return all_finite(row, num_blocks, 2, kBF16Exponent);
    case QuantType::kQ8_0:
      return scales(offsetof(BlockQ8_0, d));
    case QuantType::kQ4_0:
      return scales(offsetof(BlockQ4_0, d));
    case QuantType::kQ5_0:
      return scales(offsetof(BlockQ5_0, d));
    case QuantType::kQ4_1:
      return scales(offsetof(BlockQ4_1, d)) && scales(offsetof(BlockQ4_1, m));
    case QuantType::kQ5_1:
      return scales(offsetof(BlockQ5_1, d)) && scales(offsetof(BlockQ5_1, m));
    case QuantType::kQ4_K:
      return scales(offsetof(BlockQ4_K, d)) && scales(offsetof(BlockQ4_K, dmin));
    case QuantType::kQ5_K:
      return scales(offsetof(BlockQ5_K, d)) && scales(offsetof(BlockQ5_K, dmin));
    case QuantType::kQ6_K:
      return scales(offsetof(BlockQ6_K, d));
    case QuantType::kE4M3:
      return no_e4m3_nan(row, num_blocks);
  }
  return false;
}

}  // namespace

int64_t first_non_finite_row(const SourceMatrix& matrix) {
  const int64_t num_blocks = matrix.cols / quant_format(matrix.type).block_elements;
  for (int64_t row = 0; row < matrix.rows; ++row) {
    const std::byte* bytes = matrix.data + row * matrix.row_bytes();
    if (!row_is_finite(matrix.type, bytes, num_blocks)) return row;
  }
  return -1;
}

}  // namespace slipstream
