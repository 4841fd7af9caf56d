// Sums and maxima over a block, in one fixed order.
#pragma once

#include <cstdint>

namespace slipstream::cuda {

struct Sum {
  static __device__ __forceinline__ float apply(float a, float b) { return a + b; }
};
struct Max {
  static __device__ __forceinline__ float apply(float a, float b) { return fmaxf(a, b); }
};

template <typename Op>
__device__ __forceinline__ float warp_reduce(float value) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    value = Op::apply(value, __shfl_xor_sync(~0u, value, step));
  }
  return value;
}

// Every thread gets the result. `shares` [32] is shared memory; a barrier must lie between two uses
// of the same.
template <typename Op>
__device__ __forceinline__ float block_reduce(float value, float* shares) {
  value = warp_reduce<Op>(value);
  const int warp = threadIdx.x >> 5;
  const int num_warps = static_cast<int>(blockDim.x) >> 5;
  if ((threadIdx.x & 31) == 0) shares[warp] = value;
  __syncthreads();
  float total = shares[0];
  for (int i = 1; i < num_warps; ++i) total = Op::apply(total, shares[i]);
  return total;
}

}  // namespace slipstream::cuda
