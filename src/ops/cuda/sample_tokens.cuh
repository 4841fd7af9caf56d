// How a block goes through the logits of a row, or through some of them.
#pragma once

#include <cstdint>

namespace slipstream::cuda {

constexpr int kSampleThreads = 512;

// Ids 0, 1, ... with a row's logits, or some of them.
struct Tokens {
  const float* values = nullptr;
  const int32_t* ids = nullptr;  // null: all
  int32_t count = 0;

  __device__ __forceinline__ int32_t id(int32_t i) const { return ids != nullptr ? ids[i] : i; }
};

// Calls f(id, value) for this thread's share of the tokens, several loads at a time.
template <typename F>
__device__ __forceinline__ void for_each_token(const Tokens& tokens, const F& f) {
  int32_t done = 0;
  if (tokens.ids == nullptr && reinterpret_cast<uintptr_t>(tokens.values) % 16 == 0) {
    constexpr int kUnroll = 2;
    const auto* const vecs = reinterpret_cast<const float4*>(tokens.values);
    const int32_t num_vecs = tokens.count / 4;
    for (int32_t vec0 = static_cast<int32_t>(threadIdx.x); vec0 < num_vecs;
         vec0 += kUnroll * kSampleThreads) {
      float4 loaded[kUnroll];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        if (vec0 + u * kSampleThreads < num_vecs) loaded[u] = vecs[vec0 + u * kSampleThreads];
      }
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        const int32_t vec = vec0 + u * kSampleThreads;
        if (vec >= num_vecs) break;
        f(4 * vec, loaded[u].x);
        f(4 * vec + 1, loaded[u].y);
        f(4 * vec + 2, loaded[u].z);
        f(4 * vec + 3, loaded[u].w);
      }
    }
    done = 4 * num_vecs;
  }
  for (int32_t i = done + static_cast<int32_t>(threadIdx.x); i < tokens.count;
       i += kSampleThreads) {
    f(tokens.id(i), tokens.values[i]);
  }
}

}  // namespace slipstream::cuda
