// How a tile of K or V pages lies in shared memory, and the product that its type takes.
#pragma once

#include "ops/cuda/attention/paged_attention.h"
#include "ops/cuda/attention/prefill_paged.h"
#include "ops/cuda/common/ptx.cuh"

namespace slipstream::cuda {

constexpr int kPageSize = 16;  // positions of a KV block
constexpr float kLog2e = 1.4426950408889634f;

template <KvType kType, int kHeadDim, int kPositions>
struct PageTile {
  static constexpr int kRowBytes = kHeadDim * (kType == KvType::kE4M3 ? 1 : 2);
  static constexpr int kChunks = kRowBytes / 16;  // of 16 bytes in a row
  static constexpr int kBytes = kPositions * kRowBytes;
  // Rows of 8 successive positions must fall into different banks: those that start at the same
  // bank take their chunks in another order, within groups that a row holds a whole number of.
  static constexpr int kGroup = kChunks % 8 == 0   ? 8
                                : kChunks % 4 == 0 ? 4
                                : kChunks % 2 == 0 ? 2
                                                   : 1;
  static __device__ __forceinline__ uint32_t offset(int position, int chunk) {
    const int turn = position / (8 / kGroup) & (kGroup - 1);
    return static_cast<uint32_t>(position * kRowBytes + ((chunk ^ turn) << 4));
  }
  // Chunks are read in pairs; the last of an odd number is read twice, and its twin not used.
  static __device__ __forceinline__ int pair_chunk(int chunk, int second) {
    return chunk + (chunk + 1 < kChunks ? second : 0);
  }
};

__device__ __forceinline__ PrefillTile load_tile(const PrefillTile* tile) {
  const int4 words = __ldg(reinterpret_cast<const int4*>(tile));
  return {words.x, words.y, words.z, words.w};
}

// E4M3 pages become halves, exactly.
template <KvType kType>
__device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                    uint32_t b1) {
  if constexpr (kType == KvType::kE4M3) {
    mma_f16(d, a[0], a[1], a[2], a[3], b0, b1);
  } else {
    mma_bf16(d, a[0], a[1], a[2], a[3], b0, b1);
  }
}

}  // namespace slipstream::cuda
