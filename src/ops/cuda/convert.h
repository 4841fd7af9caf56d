// Rows of a file's matrix as the GPU's products take them. See convert.cu.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace slipstream::cuda {

enum class FloatType : uint8_t { kF32, kF16, kBF16 };

struct ConvertArgs {
  const void* rows = nullptr;  // [num_rows, num_cols] dense, of `type`
  FloatType type = FloatType::kBF16;
  int64_t num_rows = 0;
  int64_t num_cols = 0;
};

// Where rows of weights go, dense. E4M3 with row_scales, INT4 rows of quant/int4_rows.h with
// group_scales, bf16 with neither.
struct WeightRows {
  void* values = nullptr;
  float* row_scales = nullptr;       // [num_rows], what a row's largest value needs
  uint16_t* group_scales = nullptr;  // f16 [num_rows, num_cols / 128]
};

cudaError_t convert_rows(const ConvertArgs& args, WeightRows out, cudaStream_t stream);

struct RandomArgs {
  uint64_t seed = 0;
  int64_t num_rows = 0;
  int64_t num_cols = 0;
  float limit = 1.0f;  // values lie in [-limit, limit)
  int64_t first_col = 0;
};

// The same for the rows that Ops::pack_random describes, without a source.
cudaError_t random_rows(const RandomArgs& args, WeightRows out, cudaStream_t stream);

}  // namespace slipstream::cuda
