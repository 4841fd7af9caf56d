// Products with INT4 rows (quant/int4_rows.h). See skinny_int4.cu.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace slipstream::cuda {

constexpr int kSkinnyInt4MaxTokens = 32;

// Rows of any number, of num_cols columns, a multiple of 128.
struct Int4Matrix {
  const void* values = nullptr;      // nibbles [num_rows, num_cols / 2]
  const uint16_t* scales = nullptr;  // f16 [num_rows, num_cols / 128]
  int64_t num_rows = 0;
  int64_t num_cols = 0;
};

struct SkinnyInt4Args {
  const void* x = nullptr;  // bf16 [num_tokens, num_cols], dense
  Int4Matrix w;
  void* y = nullptr;  // bf16 [num_tokens, w.num_rows], row stride y_stride
  int64_t y_stride = 0;
  int num_tokens = 0;  // 1 .. kSkinnyInt4MaxTokens
};

// y = x W^T.
cudaError_t skinny_int4(const SkinnyInt4Args& args, cudaStream_t stream);

// out[num_rows, num_cols] = W, rounded to bf16.
cudaError_t dequantize_int4(const Int4Matrix& w, void* out, cudaStream_t stream);

}  // namespace slipstream::cuda
