// A block a row: its largest value first where E4M3 is wanted, then the values. The source is read
// twice, the second time from the L2 cache. Bytes: the source once, the result once. Bound: memory,
// behind a copy over PCIe that is slower. Reference: quantize_row and round_row of pack.cc.
#include <cuda_fp16.h>

#include "ops/cuda/common/reduce.cuh"
#include "ops/cuda/common/vec.cuh"
#include "ops/cuda/convert.h"

namespace slipstream::cuda {
namespace {

constexpr int kThreads = 256;

template <typename T>
struct StoredRows {
  const T* rows;
  int64_t num_cols;
  struct Row {
    const T* values;
    __device__ __forceinline__ float operator()(int64_t column) const {
      return static_cast<float>(values[column]);
    }
  };
  __device__ __forceinline__ Row row(int64_t index) const { return {rows + index * num_cols}; }
};

// The bf16 that SplitMix64 of base/random.h makes at `column`, which it can do in any order: its
// state only counts.
struct RandomRows {
  uint64_t seed;
  float limit;
  uint64_t first_col;
  static __device__ __forceinline__ uint64_t next(uint64_t state) {
    uint64_t z = state + 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  struct Row {
    uint64_t state;
    float limit;
    __device__ __forceinline__ float operator()(int64_t column) const {
      const uint64_t bits = next(state + static_cast<uint64_t>(column) * 0x9E3779B97F4A7C15u);
      const float symmetric = static_cast<float>(bits >> 40) * (2.0f / 16777216.0f) - 1.0f;
      return __bfloat162float(__float2bfloat16(symmetric * limit));
    }
  };
  __device__ __forceinline__ Row row(int64_t index) const {
    return {next(seed + static_cast<uint64_t>(index)) + first_col * 0x9E3779B97F4A7C15u, limit};
  }
};

template <typename Source, bool kFp8>
__global__ void __launch_bounds__(kThreads)
    convert_kernel(Source source, int64_t num_cols, RowOutput out) {
  __shared__ float shares[32];
  const int64_t index = blockIdx.x;
  const auto row = source.row(index);
  if constexpr (kFp8) {
    float largest = 0.0f;
    for (int64_t i = threadIdx.x; i < num_cols; i += kThreads) {
      largest = fmaxf(largest, fabsf(row(i)));
    }
    largest = block_reduce<Max>(largest, shares);
    const float scale = largest > 0.0f ? largest / kE4m3Max : 1.0f;
    auto* const to = static_cast<__nv_fp8_storage_t*>(out.values) + index * num_cols;
    for (int64_t i = threadIdx.x; i < num_cols; i += kThreads) {
      to[i] = __nv_cvt_float_to_fp8(row(i) / scale, __NV_SATFINITE, __NV_E4M3);
    }
    if (threadIdx.x == 0) out.row_scales[index] = scale;
  } else {
    auto* const to = static_cast<__nv_bfloat16*>(out.values) + index * num_cols;
    for (int64_t i = threadIdx.x; i < num_cols; i += kThreads) to[i] = __float2bfloat16(row(i));
  }
}

template <typename Source>
cudaError_t launch(const Source& source, int64_t num_rows, int64_t num_cols, const RowOutput& out,
                   cudaStream_t stream) {
  if (num_rows == 0) return cudaSuccess;
  const auto grid = static_cast<unsigned>(num_rows);
  if (out.row_scales != nullptr) {
    convert_kernel<Source, true><<<grid, kThreads, 0, stream>>>(source, num_cols, out);
  } else {
    convert_kernel<Source, false><<<grid, kThreads, 0, stream>>>(source, num_cols, out);
  }
  return cudaGetLastError();
}

template <typename T>
StoredRows<T> stored(const ConvertArgs& args) {
  return {static_cast<const T*>(args.rows), args.num_cols};
}

}  // namespace

cudaError_t convert_rows(const ConvertArgs& args, RowOutput out, cudaStream_t stream) {
  switch (args.type) {
    case FloatType::kF32:
      return launch(stored<float>(args), args.num_rows, args.num_cols, out, stream);
    case FloatType::kF16:
      return launch(stored<__half>(args), args.num_rows, args.num_cols, out, stream);
    case FloatType::kBF16:
      return launch(stored<__nv_bfloat16>(args), args.num_rows, args.num_cols, out, stream);
  }
  return cudaErrorInvalidValue;
}

cudaError_t random_rows(const RandomArgs& args, RowOutput out, cudaStream_t stream) {
  const RandomRows rows{args.seed, args.limit, static_cast<uint64_t>(args.first_col)};
  return launch(rows, args.num_rows, args.num_cols, out, stream);
}

}  // namespace slipstream::cuda
