// Element types of dense tensors. Block-quantised weights are described by quant/format.h.
#pragma once

#include <cstddef>
#include <cstdint>

namespace slipstream {

enum class DType : uint8_t { kF32, kF16, kBF16, kI32, kI64, kU8, kI8, kF64, kF8E4M3, kI4 };

// 0 of kI4, of which two share a byte: see dtype_row_bytes.
constexpr size_t dtype_bytes(DType dtype) {
  switch (dtype) {
    case DType::kF64:
    case DType::kI64:
      return 8;
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kF16:
    case DType::kBF16:
      return 2;
    case DType::kU8:
    case DType::kI8:
    case DType::kF8E4M3:
      return 1;
    case DType::kI4:
      return 0;
  }
  return 0;
}

// Of `count` values that lie one after the other; an even number of kI4.
constexpr int64_t dtype_row_bytes(DType dtype, int64_t count) {
  return dtype == DType::kI4 ? count / 2 : count * static_cast<int64_t>(dtype_bytes(dtype));
}

constexpr const char* dtype_name(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "f32";
    case DType::kF16:
      return "f16";
    case DType::kBF16:
      return "bf16";
    case DType::kI32:
      return "i32";
    case DType::kI64:
      return "i64";
    case DType::kU8:
      return "u8";
    case DType::kI8:
      return "i8";
    case DType::kF64:
      return "f64";
    case DType::kF8E4M3:
      return "fp8_e4m3";
    case DType::kI4:
      return "int4";
  }
  return "?";
}

}  // namespace slipstream
