// Ops over rows of activations: norms, gated activation, quantisation, gathers. See rowwise.cu.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace slipstream::cuda {

// Where the input of a linear op goes: bf16, or E4M3 with one scale a row (value = scale * stored).
struct RowOutput {
  void* values = nullptr;       // [num_rows, num_cols], dense
  float* row_scales = nullptr;  // [num_rows] with E4M3; null: bf16
};

// x is [num_rows, num_cols] bf16, dense; num_cols a multiple of 8.
struct RmsNormArgs {
  const void* x = nullptr;
  void* residual = nullptr;       // not null: residual += x first, and its rows are normed
  const float* weight = nullptr;  // [num_cols]
  float eps = 0.0f;
  int num_rows = 0;
  int num_cols = 0;  // at most 32768
  RowOutput out;
};
cudaError_t rms_norm(const RmsNormArgs& args, cudaStream_t stream);

// out[M, n] = silu(gate_up[:, :n]) * gate_up[:, n:]
cudaError_t silu_mul(const void* gate_up, int num_rows, int num_cols, RowOutput out,
                     cudaStream_t stream);

// E4M3 of x, a scale a row.
cudaError_t quantize_rows(const void* x, int num_rows, int num_cols, RowOutput out,
                          cudaStream_t stream);

// y[M, n] += bias[n]; y is bf16 with rows `stride` elements apart.
cudaError_t add_bias(void* y, int64_t stride, const float* bias, int num_rows, int num_cols,
                     cudaStream_t stream);

// out[r] = table[ids[r]]; rows of row_bytes, a multiple of 16.
cudaError_t gather_rows(const void* table, const int32_t* ids, int num_rows, int64_t row_bytes,
                        void* out, cudaStream_t stream);

}  // namespace slipstream::cuda
