// Attention of a KV head's queries to pages, by one warp: a running softmax.
//
// Scores by multiply-accumulate, positions as rows and query heads as columns, a query as two bf16
// that add up to it; outputs by fused multiply-adds, dimensions over lanes.
#pragma once

#include "megakernel/shared_map.cuh"
#include "megakernel/words.cuh"

namespace slipstream::megakernel {

// A warp's running softmax over pages.
template <typename Model>
class PageSums {
  using Map = typename Model::Map;
  static constexpr int kHeadDim = Model::kHeadDim;
  static constexpr int kHeads = Model::kHeads;

 public:
  // Of `valid` positions, K and V bf16 [position][head_dim] in shared memory. Rows beyond them are
  // not read, for nobody has written them.
  __device__ __forceinline__ void add(const Place& at, uint32_t my_weights, uint32_t keys,
                                      uint32_t values, int valid) {
    const int row = static_cast<int>(at.lane >> 2);
    const uint32_t row0 = keys + min(row, valid - 1) * kHeadDim * 2;
    const uint32_t row1 = keys + min(row + 8, valid - 1) * kHeadDim * 2;
    float factors[kHeads];
#pragma unroll
    for (int group = 0; group < Map::kGroups; ++group) {
      float c[4] = {0.0f, 0.0f, 0.0f, 0.0f};
      const uint32_t queries = at.smem + Map::q + (group * 8 + row) * kHeadDim * 2;
#pragma unroll
      for (int j = 0; j < kHeadDim / 32; ++j) {
        const uint32_t col = j * 64 + (at.lane & 3) * 16;
        const uint4 k0 = lds128(row0 + col);
        const uint4 k1 = lds128(row1 + col);
        const uint4 q = lds128(queries + col);
        mma_bf16(c, k0.x, k1.x, k0.y, k1.y, q.x, q.y);
        mma_bf16(c, k0.z, k1.z, k0.w, k1.w, q.z, q.w);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) c[i] += __shfl_xor_sync(~0u, c[i], 2);
      if (row >= valid) c[0] = c[1] = kNone;
      if (row + 8 >= valid) c[2] = c[3] = kNone;
      float most0 = fmaxf(c[0], c[2]);
      float most1 = fmaxf(c[1], c[3]);
#pragma unroll
      for (int step = 4; step < 32; step *= 2) {
        most0 = fmaxf(most0, __shfl_xor_sync(~0u, most0, step));
        most1 = fmaxf(most1, __shfl_xor_sync(~0u, most1, step));
      }
      most0 = fmaxf(max_[group][0], most0);
      most1 = fmaxf(max_[group][1], most1);
      const float factor0 = exp2_approx(max_[group][0] - most0);
      const float factor1 = exp2_approx(max_[group][1] - most1);
      max_[group][0] = most0, max_[group][1] = most1;
      c[0] = exp2_approx(c[0] - most0), c[2] = exp2_approx(c[2] - most0);
      c[1] = exp2_approx(c[1] - most1), c[3] = exp2_approx(c[3] - most1);
      float sum0 = c[0] + c[2];
      float sum1 = c[1] + c[3];
#pragma unroll
      for (int step = 4; step < 32; step *= 2) {
        sum0 += __shfl_xor_sync(~0u, sum0, step);
        sum1 += __shfl_xor_sync(~0u, sum1, step);
      }
      sum_[group][0] = sum_[group][0] * factor0 + sum0;
      sum_[group][1] = sum_[group][1] * factor1 + sum1;
      const uint32_t col = my_weights + group * 16 + (at.lane & 3) * 8;
      if ((at.lane & 3) < 2) {
        sts64(col + row * Map::kWeightRow, __float_as_uint(c[0]), __float_as_uint(c[1]));
        sts64(col + (row + 8) * Map::kWeightRow, __float_as_uint(c[2]), __float_as_uint(c[3]));
        if (row == 0) {
          sts64(col + kBlockTokens * Map::kWeightRow, __float_as_uint(factor0),
                __float_as_uint(factor1));
        }
      }
    }
    __syncwarp();
#pragma unroll
    for (int group = 0; group < Map::kGroups; ++group) {
      const uint4 w = lds128(my_weights + kBlockTokens * Map::kWeightRow + group * 16);
      const uint32_t of_head[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (group * 4 + i < kHeads) factors[group * 4 + i] = __uint_as_float(of_head[i]);
      }
    }
#pragma unroll
    for (int head = 0; head < kHeads; ++head) {
#pragma unroll
      for (int i = 0; i < 4; ++i) out_[head][i] *= factors[head];
    }
    if (at.lane < kDimLanes * kTokenShares) {
#pragma unroll 2
      for (int t = at.lane / kDimLanes; t < valid; t += kTokenShares) {
        const uint2 v = lds64(values + t * kHeadDim * 2 + (at.lane % kDimLanes) * 8);
        const float f[4] = {bf16_low(v.x), bf16_high(v.x), bf16_low(v.y), bf16_high(v.y)};
#pragma unroll
        for (int group = 0; group < Map::kGroups; ++group) {
          const uint4 w = lds128(my_weights + t * Map::kWeightRow + group * 16);
          const uint32_t of_head[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            if (group * 4 + j >= kHeads) break;
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              out_[group * 4 + j][i] += __uint_as_float(of_head[j]) * f[i];
            }
          }
        }
      }
    }
    __syncwarp();
  }

  // To outputs [head][head_dim] and stats [head]{maximum, sum}, float.
  __device__ __forceinline__ void store(const Place& at, uint32_t outputs, uint32_t stats) {
#pragma unroll
    for (int head = 0; head < kHeads; ++head) {
      if (kTokenShares == 2) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          out_[head][i] += __shfl_xor_sync(~0u, out_[head][i], 16);
        }
      }
      if (at.lane < kDimLanes) {
        sts128(outputs + (head * kHeadDim + at.lane * 4) * 4, out_[head][0], out_[head][1],
               out_[head][2], out_[head][3]);
      }
    }
    if (at.lane < 2) {
#pragma unroll
      for (int group = 0; group < Map::kGroups; ++group) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int head = group * 4 + static_cast<int>(at.lane) * 2 + i;
          if (head < kHeads) {
            sts64(stats + head * 8, __float_as_uint(max_[group][i]),
                  __float_as_uint(sum_[group][i]));
          }
        }
      }
    }
  }

  static constexpr float kNone = -1e30f;

 private:
  static constexpr int kDimLanes = kHeadDim / 4;
  static constexpr int kTokenShares = 32 / kDimLanes >= 2 ? 2 : 1;
  float max_[Map::kGroups][2];
  float sum_[Map::kGroups][2];
  float out_[kHeads][4];

 public:
  __device__ __forceinline__ PageSums() {
#pragma unroll
    for (int group = 0; group < Map::kGroups; ++group) {
      max_[group][0] = max_[group][1] = kNone;
      sum_[group][0] = sum_[group][1] = 0.0f;
    }
#pragma unroll
    for (int head = 0; head < kHeads; ++head) {
#pragma unroll
      for (int i = 0; i < 4; ++i) out_[head][i] = 0.0f;
    }
  }
};

}  // namespace slipstream::megakernel
