// y = x W^T for few rows of x. See skinny.cu.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace slipstream::cuda {

constexpr int kSkinnyMaxTokens = 64;

struct SkinnyArgs {
  const void* x = nullptr;  // [num_tokens, num_cols] E4M3 or bf16, dense
  const void* w = nullptr;  // [num_rows, num_cols], same type, dense
  void* y = nullptr;        // bf16 [num_tokens, num_rows], row stride y_stride
  int64_t y_stride = 0;
  const float* x_scale = nullptr;  // [num_tokens]; E4M3 only
  const float* w_scale = nullptr;  // [num_rows]; E4M3 only
  int num_tokens = 0;              // 1 .. kSkinnyMaxTokens
  int num_rows = 0;                // a multiple of 16
  int num_cols = 0;                // a multiple of 128 bytes
  // skinny_workspace_bytes(); the counters at its start are zero before and after.
  void* workspace = nullptr;
};

size_t skinny_workspace_bytes(int num_sms);
cudaError_t skinny_e4m3(const SkinnyArgs& args, int num_sms, cudaStream_t stream);
cudaError_t skinny_bf16(const SkinnyArgs& args, int num_sms, cudaStream_t stream);

}  // namespace slipstream::cuda
