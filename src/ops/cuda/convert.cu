// A block a row. E4M3: the row's largest value first, then the values; the source is read twice,
// the second time from the L2 cache. INT4: a warp takes a group of 128 columns, a lane four of
// them. Bytes: the source once, the result once. Bound: memory, behind a copy over PCIe that is
// slower. Reference: quantize_row and round_row of pack.cc; quantize_int4_row, whose bits these
// are.
#include <cuda_fp16.h>

#include "ops/cuda/common/reduce.cuh"
#include "ops/cuda/common/vec.cuh"
#include "ops/cuda/convert.h"
#include "quant/int4_rows.h"

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

// Divisions and roundings are those of the host, one by one.
template <typename Source>
__global__ void __launch_bounds__(kThreads)
    convert_int4_kernel(Source source, int64_t num_cols, WeightRows out) {
  constexpr float kLargestF16 = 65504.0f;
  constexpr int kValues = 4;
  static_assert(kInt4Group == 32 * kValues);
  const int lane = threadIdx.x & 31;
  const int64_t index = blockIdx.x;
  const int64_t num_groups = num_cols / kInt4Group;
  const auto row = source.row(index);
  auto* const values = static_cast<uint16_t*>(out.values) + index * (num_cols / kValues);
  for (int64_t group = threadIdx.x >> 5; group < num_groups; group += kThreads / 32) {
    float value[kValues];
    float largest = 0.0f;
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
      value[i] = row(group * kInt4Group + lane * kValues + i);
      largest = fmaxf(largest, fabsf(value[i]));
    }
    largest = warp_reduce<Max>(largest);
    const __half stored = __float2half_rn(fminf(largest / 7.0f, kLargestF16));
    const float scale = __half2float(stored);
    uint32_t nibbles = 0;
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
      const float q = scale == 0.0f ? 0.0f : fminf(fmaxf(rintf(value[i] / scale), -8.0f), 7.0f);
      nibbles |= (static_cast<uint32_t>(static_cast<int>(q)) & 0xFu) << (4 * i);
    }
    values[group * 32 + lane] = static_cast<uint16_t>(nibbles);
    if (lane == 0) out.group_scales[index * num_groups + group] = __half_as_ushort(stored);
  }
}

template <typename Source, bool kFp8>
__global__ void __launch_bounds__(kThreads)
    convert_kernel(Source source, int64_t num_cols, WeightRows out) {
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
cudaError_t launch(const Source& source, int64_t num_rows, int64_t num_cols, const WeightRows& out,
                   cudaStream_t stream) {
  if (num_rows == 0) return cudaSuccess;
  const auto grid = static_cast<unsigned>(num_rows);
  if (out.group_scales != nullptr) {
    convert_int4_kernel<Source><<<grid, kThreads, 0, stream>>>(source, num_cols, out);
  } else if (out.row_scales != nullptr) {
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

cudaError_t convert_rows(const ConvertArgs& args, WeightRows out, cudaStream_t stream) {
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

cudaError_t random_rows(const RandomArgs& args, WeightRows out, cudaStream_t stream) {
  const RandomRows rows{args.seed, args.limit, static_cast<uint64_t>(args.first_col)};
  return launch(rows, args.num_rows, args.num_cols, out, stream);
}

}  // namespace slipstream::cuda
