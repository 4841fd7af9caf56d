// cuBLASLt, loaded at run time: the GEMM for batches that the own kernels do not take.
//
// One binary runs with and without CUDA's libraries, so nothing links against them. One thread.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <memory>
#include <string>

#include "base/status.h"
#include "core/dtype.h"

namespace slipstream::cuda {

struct GemmShape {
  int64_t num_tokens = 0;       // M
  int64_t num_rows = 0;         // N, rows of w
  int64_t num_cols = 0;         // K
  DType input = DType::kBF16;   // of x and w: bf16 or fp8_e4m3
  DType output = DType::kBF16;  // bf16 or f32
  int64_t y_stride = 0;         // elements from row to row of y
  bool operator==(const GemmShape&) const = default;
};

struct GemmOperands {
  const void* x = nullptr;         // [M, K] dense
  const void* w = nullptr;         // [N, K] dense
  void* y = nullptr;               // [M, N]
  const float* x_scale = nullptr;  // [M]; fp8 only
  const float* w_scale = nullptr;  // [N]; fp8 only
};

class CublasLt {
 public:
  // Looks beside the binary, where the loader looks, and in CUDA's usual places.
  static Result<std::unique_ptr<CublasLt>> open();
  virtual ~CublasLt() = default;
  // y = x w^T. The algorithm of a shape is chosen once, by measurement when `measure` is set.
  virtual Status gemm(const GemmShape& shape, const GemmOperands& operands,
                      cudaStream_t stream) = 0;
  virtual std::string version() const = 0;
};

}  // namespace slipstream::cuda
