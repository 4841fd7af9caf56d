// y[M, N] = x[M, K] W[N, K]^T for M <= 32 and INT4 rows of W: the time of reading W once; and
// W as bf16, for the GEMM that more tokens take.
//
// A block of 8 warps takes 16 or 32 rows; its warps take turns at the groups of 128 columns, so
// that what a block asks for at a time is contiguous, and their sums are added in one order at the
// end. Rows of W are the M of mma.sync, tokens its N. A lane's 16 bytes of a row are 32 columns in
// a place of their own: mma sums over k in any order, as long as x's columns are put into the same.
// The products are those of x and q; a group's sum is multiplied with its scale in f32. Weights do
// not depend on the kernel before, so the first of them are requested before waiting for it. x is
// read through L1 by every warp. Bytes: W once; x once for every block, from caches. Bound: memory.
// Reference: ops/cpu/ref linear over dequantize_int4_row.
#include <cuda_fp16.h>

#include "ops/cuda/common/launch.cuh"
#include "ops/cuda/common/ptx.cuh"
#include "ops/cuda/common/vec.cuh"
#include "ops/cuda/linear/skinny_int4.h"
#include "quant/int4_rows.h"

namespace slipstream::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kGroupBytes = static_cast<int>(int4_value_bytes(kInt4Group));

// Read once: past L1, which is x's.
__device__ __forceinline__ uint4 load_streamed_16(const void* from) {
  uint4 out;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(out.x), "=r"(out.y), "=r"(out.z), "=r"(out.w)
               : "l"(from));
  return out;
}

// Eight nibbles as bf16, exactly: columns (0, 4), (1, 5), (2, 6), (3, 7) of the word's. With the
// exponent of 128 in front, a nibble whose sign bit is turned is 128 + 8 + q.
__device__ __forceinline__ void bf16_from_int4x8(uint32_t word, uint32_t (&out)[4]) {
  const __nv_bfloat162 offset = __floats2bfloat162_rn(136.0f, 136.0f);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t raised = ((word >> (4 * i)) & 0x000F000Fu) ^ 0x43084308u;
    const __nv_bfloat162 pair = __hsub2(*reinterpret_cast<const __nv_bfloat162*>(&raised), offset);
    out[i] = *reinterpret_cast<const uint32_t*>(&pair);
  }
}

// Eight bf16 in the order of bf16_from_int4x8.
__device__ __forceinline__ void pairs_of_bf16x8(uint4 raw, uint32_t (&out)[4]) {
  out[0] = __byte_perm(raw.x, raw.z, 0x5410);
  out[1] = __byte_perm(raw.x, raw.z, 0x7632);
  out[2] = __byte_perm(raw.y, raw.w, 0x5410);
  out[3] = __byte_perm(raw.y, raw.w, 0x7632);
}

__device__ __forceinline__ uint32_t word_of(const uint4& words, int i) {
  return i == 0 ? words.x : i == 1 ? words.y : i == 2 ? words.z : words.w;
}

// What a lane holds of a group: of rows (lane / 4) and 8 below it, in each tile of 16.
template <int kRowTiles>
struct WeightGroup {
  uint4 values[kRowTiles][2];
  uint16_t scales[kRowTiles][2];
};

// kAhead groups are under way for each warp.
template <int kTokenBlocks, int kRowTiles, int kAhead>
__global__ void __launch_bounds__(kThreads, kTokenBlocks > 2 ? 1 : 2)
    skinny_int4_kernel(const __grid_constant__ SkinnyInt4Args args) {
  constexpr int kRows = 16 * kRowTiles;
  constexpr int kSums = kRowTiles * kTokenBlocks * 4;  // of a lane
  __shared__ float shares[kWarps][kSums][32];
  const int warp = threadIdx.x >> 5;
  const int lane = threadIdx.x & 31;
  const int64_t first_row = int64_t{blockIdx.x} * kRows;
  const int num_groups = static_cast<int>(args.w.num_cols / kInt4Group);

  // A tile that ends beyond the matrix reads its last row again.
  const unsigned char* values[kRowTiles][2];
  const uint16_t* scales[kRowTiles][2];
#pragma unroll
  for (int tile = 0; tile < kRowTiles; ++tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t row = min(first_row + tile * 16 + half * 8 + (lane >> 2), args.w.num_rows - 1);
      values[tile][half] = static_cast<const unsigned char*>(args.w.values) +
                           row * (args.w.num_cols / 2) + (lane & 3) * 16;
      scales[tile][half] = args.w.scales + row * num_groups;
    }
  }
  const auto load_group = [&](int group, WeightGroup<kRowTiles>& to) {
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        to.values[tile][half] = load_streamed_16(values[tile][half] + int64_t{group} * kGroupBytes);
        to.scales[tile][half] = __ldg(scales[tile][half] + group);
      }
    }
  };

  WeightGroup<kRowTiles> ahead[kAhead];
#pragma unroll
  for (int i = 0; i < kAhead; ++i) {
    const int group = warp + i * kWarps;
    if (group < num_groups) load_group(group, ahead[i]);
  }
  begin_after_previous();  // weights need not wait for the kernel before

  float acc[kRowTiles][kTokenBlocks][4] = {};
  const auto* const x = static_cast<const __nv_bfloat16*>(args.x);
  const auto add_group = [&](int group, const WeightGroup<kRowTiles>& w) {
    float sums[kRowTiles][kTokenBlocks][4] = {};
    const int64_t first_col = group * kInt4Group + (lane & 3) * 32;
#pragma unroll
    for (int word = 0; word < 4; ++word) {
      uint32_t b[kTokenBlocks][4];
#pragma unroll
      for (int block = 0; block < kTokenBlocks; ++block) {
        const int token = block * 8 + (lane >> 2);
        uint4 raw = make_uint4(0, 0, 0, 0);
        if (token < args.num_tokens) {
          raw = *reinterpret_cast<const uint4*>(x + token * args.w.num_cols + first_col + word * 8);
        }
        pairs_of_bf16x8(raw, b[block]);
      }
#pragma unroll
      for (int tile = 0; tile < kRowTiles; ++tile) {
        uint32_t upper[4];
        uint32_t lower[4];
        bf16_from_int4x8(word_of(w.values[tile][0], word), upper);
        bf16_from_int4x8(word_of(w.values[tile][1], word), lower);
#pragma unroll
        for (int block = 0; block < kTokenBlocks; ++block) {
          mma_bf16(sums[tile][block], upper[0], lower[0], upper[1], lower[1], b[block][0],
                   b[block][1]);
          mma_bf16(sums[tile][block], upper[2], lower[2], upper[3], lower[3], b[block][2],
                   b[block][3]);
        }
      }
    }
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile) {
      const float upper = __half2float(__ushort_as_half(w.scales[tile][0]));
      const float lower = __half2float(__ushort_as_half(w.scales[tile][1]));
#pragma unroll
      for (int block = 0; block < kTokenBlocks; ++block) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          acc[tile][block][e] += (e < 2 ? upper : lower) * sums[tile][block][e];
        }
      }
    }
  };
  for (int first = warp; first < num_groups; first += kAhead * kWarps) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int group = first + i * kWarps;
      if (group >= num_groups) break;
      add_group(group, ahead[i]);
      const int next = group + kAhead * kWarps;
      if (next < num_groups) load_group(next, ahead[i]);
    }
  }

#pragma unroll
  for (int tile = 0; tile < kRowTiles; ++tile) {
#pragma unroll
    for (int block = 0; block < kTokenBlocks; ++block) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        shares[warp][(tile * kTokenBlocks + block) * 4 + e][lane] = acc[tile][block][e];
      }
    }
  }
  __syncthreads();
  auto* const y = static_cast<__nv_bfloat16*>(args.y);
  for (int i = threadIdx.x; i < kRows * 8 * kTokenBlocks; i += kThreads) {
    const int row = i % kRows;
    const int token = i / kRows;
    if (token >= args.num_tokens || first_row + row >= args.w.num_rows) continue;
    // Where mma leaves it: its row's lanes, two tokens each; rows from 8 on are its upper half.
    const int sum = ((row / 16) * kTokenBlocks + token / 8) * 4 + (row % 16) / 8 * 2 + token % 2;
    const int of_lane = (row % 8) * 4 + token % 8 / 2;
    float total = shares[0][sum][of_lane];
#pragma unroll
    for (int other = 1; other < kWarps; ++other) total += shares[other][sum][of_lane];
    y[token * args.y_stride + first_row + row] = __float2bfloat16(total);
  }
}

template <int kTokenBlocks, int kRowTiles, int kAhead>
cudaError_t launch(const SkinnyInt4Args& args, cudaStream_t stream) {
  constexpr int kRows = 16 * kRowTiles;
  const auto blocks = static_cast<unsigned>((args.w.num_rows + kRows - 1) / kRows);
  return launch_overlapped(skinny_int4_kernel<kTokenBlocks, kRowTiles, kAhead>,
                           {blocks, kThreads, 0}, stream, args);
}

// A thread makes 8 columns of a word, kWords times.
constexpr int kWords = 4;

__global__ void __launch_bounds__(kThreads)
    dequantize_int4_kernel(const Int4Matrix w, uint4* __restrict__ out) {
  constexpr int kWordsOfGroup = static_cast<int>(kInt4Group) / 8;
  const auto* const values = static_cast<const uint32_t*>(w.values);
  const int64_t num_words = w.num_rows * w.num_cols / 8;
  const int64_t first = int64_t{blockIdx.x} * (kThreads * kWords) + threadIdx.x;
  uint32_t words[kWords];
  float scales[kWords];
#pragma unroll
  for (int i = 0; i < kWords; ++i) {
    const int64_t at = min(first + i * kThreads, num_words - 1);
    words[i] = __ldg(values + at);
    // A row is whole groups, so groups are numbered through all rows.
    scales[i] = __half2float(__ushort_as_half(__ldg(w.scales + at / kWordsOfGroup)));
  }
  begin_after_previous();  // `out` may be what the kernel before reads
#pragma unroll
  for (int i = 0; i < kWords; ++i) {
    const int64_t at = first + i * kThreads;
    if (at >= num_words) return;
    uint32_t pairs[4];
    bf16_from_int4x8(words[i], pairs);
    Floats8 row;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      row.v[j] = __uint_as_float(pairs[j] << 16) * scales[i];
      row.v[j + 4] = __uint_as_float(pairs[j] & 0xffff0000u) * scales[i];
    }
    out[at] = pack_bf16x8(row);
  }
}

}  // namespace

cudaError_t skinny_int4(const SkinnyInt4Args& args, cudaStream_t stream) {
  if (args.num_tokens < 1 || args.num_tokens > kSkinnyInt4MaxTokens ||
      !fits_int4(args.w.num_cols) || args.w.num_rows < 1) {
    return cudaErrorInvalidValue;
  }
  if (args.num_tokens <= 8) return launch<1, 1, 4>(args, stream);
  if (args.num_tokens <= 16) return launch<2, 1, 4>(args, stream);
  return launch<4, 2, 2>(args, stream);
}

cudaError_t dequantize_int4(const Int4Matrix& w, void* out, cudaStream_t stream) {
  if (!fits_int4(w.num_cols) || w.num_rows < 1) return cudaErrorInvalidValue;
  const int64_t num_words = w.num_rows * w.num_cols / 8;
  const auto blocks =
      static_cast<unsigned>((num_words + kThreads * kWords - 1) / (kThreads * kWords));
  return launch_overlapped(dequantize_int4_kernel, {blocks, kThreads, 0}, stream, w,
                           static_cast<uint4*>(out));
}

}  // namespace slipstream::cuda
