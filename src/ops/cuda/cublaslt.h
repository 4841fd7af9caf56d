// cuBLASLt, loaded at run time: the GEMM for batches that the own kernels do not take.
//
// One binary runs with and without CUDA's libraries, so nothing links against them. One thread.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <memory>
#include <string>

#include "base/status.h"
#include "ops/gemm_choices.h"

namespace slipstream::cuda {

struct GemmOperands {
  const void* x = nullptr;         // [M, K] dense
  const void* w = nullptr;         // [N, K] dense
  void* y = nullptr;               // [M, N]
  const float* x_scale = nullptr;  // [M]; fp8 only
  const float* w_scale = nullptr;  // [N]; fp8 only
};

class CublasLt {
 public:
  // Looks beside the binary, where the loader looks, and in CUDA's usual places. `cache_folder`
  // keeps what is measured, for this GPU, driver and library; empty: nothing is kept.
  // `deterministic`: a row of y is the same for every M.
  static Result<std::unique_ptr<CublasLt>> open(const std::string& cache_folder,
                                                bool deterministic);
  virtual ~CublasLt() = default;
  // y = x w^T. The first time that a shape comes, its algorithm is chosen: where the library offers
  // several, by measuring them with these operands, so `stream` must not be recording then.
  virtual Status gemm(const GemmShape& shape, const GemmOperands& operands,
                      cudaStream_t stream) = 0;
};

}  // namespace slipstream::cuda
