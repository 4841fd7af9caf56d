// out = softmax(scale q K^T) V, causal, for chunks of prompts over KV pages.
//
// Grid (tiles, kv heads), 8 warps of 16 rows; a row is a (token, head) pair of one KV head's group,
// so that every K and V tile serves the whole group. KV comes in tiles of 64 positions (32 for
// heads of 256) through two stages of shared memory; scores stay in registers and become the A
// operand of the second product. E4M3 pages become halves in registers. FLOPs: 4 x rows x positions
// x head_dim. Bound: compute (mma.sync). Reference: ops/cpu/ref attention.
#include "ops/cuda/attention/prefill_paged.h"

#include "ops/cuda/attention/page_tile.cuh"
#include "ops/cuda/common/launch.cuh"
#include "ops/cuda/common/ptx.cuh"

namespace slipstream::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * 32;
constexpr int kStages = 2;
// Positions of a tile. Wide heads leave no registers for more scores.
template <int kHeadDim>
constexpr int kTilePositions = kHeadDim > 128 ? 32 : 64;

template <KvType kType, int kHeadDim>
using Tile = PageTile<kType, kHeadDim, kTilePositions<kHeadDim>>;

template <KvType kType, int kHeadDim>
__global__ void __launch_bounds__(kThreads)
    prefill_attention_kernel(const __grid_constant__ PrefillAttentionArgs args) {
  using T = Tile<kType, kHeadDim>;
  constexpr int kTile = kTilePositions<kHeadDim>;
  extern __shared__ __align__(128) unsigned char smem[];
  begin_after_previous();
  const PrefillTile tile = load_tile(args.tiles + blockIdx.x);
  const int kv_head = blockIdx.y;
  const int warp = threadIdx.x >> 5;
  const int lane = threadIdx.x & 31;
  const int pair = lane & 3;
  const int group_size = args.num_heads / args.num_kv_heads;
  const int num_tokens = tile.num_tokens;
  const int position_begin = tile.first_position;
  const int kv_end = position_begin + num_tokens;  // positions any row sees
  const int kv_begin =
      args.window > 0 ? max(0, position_begin - args.window + 1) / kTile * kTile : 0;

  // The two rows of this lane: row -> token row of the batch, head, position.
  int64_t q_offset[2];
  int64_t out_offset[2];
  int row_position[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = warp * 16 + (lane >> 2) + 8 * r;
    const int token = row / group_size;
    const int head = kv_head * group_size + row % group_size;
    const bool valid = token < num_tokens;
    const int64_t batch_row = tile.first_row + (valid ? token : 0);
    q_offset[r] = batch_row * args.q_stride + int64_t{head} * kHeadDim;
    out_offset[r] = valid ? batch_row * args.out_stride + int64_t{head} * kHeadDim : -1;
    row_position[r] = valid ? position_begin + token : -1;
  }

  const int32_t* const table = args.block_table + tile.seq * args.block_table_stride;
  const auto* const k_pages = static_cast<const unsigned char*>(args.k_pages);
  const auto* const v_pages = static_cast<const unsigned char*>(args.v_pages);
  const int64_t block_bytes = int64_t{args.num_kv_heads} * kPageSize * T::kRowBytes;
  const int64_t head_bytes = int64_t{kv_head} * kPageSize * T::kRowBytes;
  const uint32_t ring = smem_address(smem);

  auto fetch = [&](int begin, int stage) {
    if (begin < kv_end) {
      const uint32_t k_smem = ring + static_cast<uint32_t>(stage * 2 * T::kBytes);
#pragma unroll
      for (int i = threadIdx.x; i < T::kBytes / 16; i += kThreads) {
        const int in_tile = i / T::kChunks;
        const int position = begin + in_tile;
        const bool valid = position < kv_end;
        const int64_t block = table[(valid ? position : begin) / kPageSize];
        const int64_t from = block * block_bytes + head_bytes +
                             (position % kPageSize) * T::kRowBytes + (i % T::kChunks) * 16;
        const uint32_t to = T::offset(in_tile, i % T::kChunks);
        cp_async_16_or_zero(k_smem + to, k_pages + from, valid);
        cp_async_16_or_zero(k_smem + T::kBytes + to, v_pages + from, valid);
      }
    }
    cp_async_commit();
  };
  fetch(kv_begin, 0);

  // Q as A fragments; dimensions in the order in which K fragments come out of shared memory.
  uint32_t q[kHeadDim / 16][4];
#pragma unroll
  for (int step = 0; step < kHeadDim / 16; ++step) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int half = i >> 1;
      const int dim = kType == KvType::kE4M3 ? 16 * step + 4 * pair + 2 * half
                                             : 16 * step + 8 * half + 2 * pair;
      const auto two = *reinterpret_cast<const __nv_bfloat162*>(
          static_cast<const __nv_bfloat16*>(args.q) + q_offset[i & 1] + dim);
      if constexpr (kType == KvType::kE4M3) {
        const float2 wide = __bfloat1622float2(two);
        q[step][i] = pack_half2(wide.x, wide.y);
      } else {
        q[step][i] = *reinterpret_cast<const uint32_t*>(&two);
      }
    }
  }
  const float k_scale = args.k_scale != nullptr ? args.k_scale[kv_head] : 1.0f;
  const float score_scale = args.scale * k_scale * kLog2e;

  float o[kHeadDim / 8][4];
#pragma unroll
  for (auto& block : o) block[0] = block[1] = block[2] = block[3] = 0.0f;
  float row_max[2] = {-INFINITY, -INFINITY};
  float row_sum[2] = {0.0f, 0.0f};
  const int matrix_row = (lane & 7) + ((lane >> 3) & 1) * 8;
  const int matrix_chunk = lane >> 4;

  int stage = 0;
  for (int begin = kv_begin; begin < kv_end; begin += kTile) {
    cp_async_wait<0>();
    __syncthreads();
    fetch(begin + kTile, stage ^ 1);
    const uint32_t k_smem = ring + static_cast<uint32_t>(stage * 2 * T::kBytes);
    const uint32_t v_smem = k_smem + T::kBytes;
    stage ^= 1;

    float s[kTile / 8][4];
#pragma unroll
    for (auto& block : s) block[0] = block[1] = block[2] = block[3] = 0.0f;
#pragma unroll
    for (int chunk = 0; chunk < T::kChunks; chunk += 2) {
#pragma unroll
      for (int rows = 0; rows < kTile / 16; ++rows) {
        uint32_t r[4];  // (positions 0-7, chunk), (8-15, chunk), (0-7, chunk + 1), (8-15, ...)
        ldmatrix_x4(r,
                    k_smem + T::offset(rows * 16 + matrix_row, T::pair_chunk(chunk, matrix_chunk)));
        if constexpr (kType == KvType::kE4M3) {
#pragma unroll
          for (int j = 0; j < 2 && chunk + j < T::kChunks; ++j) {
            mma<kType>(s[2 * rows], q[chunk + j], half2_from_e4m3x2(r[2 * j]),
                       half2_from_e4m3x2(r[2 * j] >> 16));
            mma<kType>(s[2 * rows + 1], q[chunk + j], half2_from_e4m3x2(r[2 * j + 1]),
                       half2_from_e4m3x2(r[2 * j + 1] >> 16));
          }
        } else {
          mma<kType>(s[2 * rows], q[chunk / 2], r[0], r[2]);
          mma<kType>(s[2 * rows + 1], q[chunk / 2], r[1], r[3]);
        }
      }
    }

    const bool edge = begin + kTile > position_begin ||
                      (args.window > 0 && begin <= position_begin + num_tokens - args.window);
    float new_max[2] = {row_max[0], row_max[1]};
#pragma unroll
    for (int block = 0; block < kTile / 8; ++block) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float x = s[block][i] * score_scale;
        if (args.softcap > 0.0f) x = args.softcap * kLog2e * tanhf(x / (args.softcap * kLog2e));
        if (edge) {
          const int position = begin + block * 8 + 2 * pair + (i & 1);
          const int own = row_position[i >> 1];
          if (position > own || (args.window > 0 && position <= own - args.window)) x = -INFINITY;
        }
        s[block][i] = x;
        new_max[i >> 1] = fmaxf(new_max[i >> 1], x);
      }
    }
    float base[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      new_max[r] = fmaxf(new_max[r], __shfl_xor_sync(~0u, new_max[r], 1));
      new_max[r] = fmaxf(new_max[r], __shfl_xor_sync(~0u, new_max[r], 2));
      base[r] = new_max[r] == -INFINITY ? 0.0f : new_max[r];
      const float factor = exp2_approx(row_max[r] - base[r]);  // 0 before the first position
      row_max[r] = new_max[r];
      row_sum[r] *= factor;
#pragma unroll
      for (auto& block : o) {
        block[2 * r] *= factor;
        block[2 * r + 1] *= factor;
      }
    }
#pragma unroll
    for (int step = 0; step < kTile / 16; ++step) {
      uint32_t p[4];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float(&block)[4] = s[2 * step + half];
#pragma unroll
        for (int i = 0; i < 4; ++i) block[i] = exp2_approx(block[i] - base[i >> 1]);
        row_sum[0] += block[0] + block[1];
        row_sum[1] += block[2] + block[3];
        if constexpr (kType == KvType::kE4M3) {
          p[2 * half] = pack_half2(block[0], block[1]);
          p[2 * half + 1] = pack_half2(block[2], block[3]);
        } else {
          p[2 * half] = pack_bf162(block[0], block[1]);
          p[2 * half + 1] = pack_bf162(block[2], block[3]);
        }
      }
#pragma unroll
      for (int chunk = 0; chunk < T::kChunks; chunk += 2) {
        uint32_t r[4];
        ldmatrix_x4_trans(
            r, v_smem + T::offset(step * 16 + matrix_row, T::pair_chunk(chunk, matrix_chunk)));
        if constexpr (kType == KvType::kE4M3) {
#pragma unroll
          for (int j = 0; j < 2 && chunk + j < T::kChunks; ++j) {
            const uint32_t even = __byte_perm(r[2 * j], r[2 * j + 1], 0x6420);
            const uint32_t odd = __byte_perm(r[2 * j], r[2 * j + 1], 0x7531);
            mma<kType>(o[2 * (chunk + j)], p, half2_from_e4m3x2(even),
                       half2_from_e4m3x2(even >> 16));
            mma<kType>(o[2 * (chunk + j) + 1], p, half2_from_e4m3x2(odd),
                       half2_from_e4m3x2(odd >> 16));
          }
        } else {
          mma<kType>(o[chunk], p, r[0], r[1]);
          mma<kType>(o[chunk + 1], p, r[2], r[3]);
        }
      }
    }
  }
  cp_async_wait<0>();

  const float v_scale = args.v_scale != nullptr ? args.v_scale[kv_head] : 1.0f;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    row_sum[r] += __shfl_xor_sync(~0u, row_sum[r], 1);
    row_sum[r] += __shfl_xor_sync(~0u, row_sum[r], 2);
    if (out_offset[r] < 0) continue;
    const float factor = row_sum[r] > 0.0f ? v_scale / row_sum[r] : 0.0f;
    auto* const out = static_cast<__nv_bfloat16*>(args.out) + out_offset[r];
#pragma unroll
    for (int block = 0; block < kHeadDim / 8; ++block) {
      const float x = o[block][2 * r] * factor;
      const float y = o[block][2 * r + 1] * factor;
      if constexpr (kType == KvType::kE4M3) {
        const int dim = 16 * (block / 2) + 4 * pair + (block & 1);
        out[dim] = __float2bfloat16(x);
        out[dim + 2] = __float2bfloat16(y);
      } else {
        *reinterpret_cast<__nv_bfloat162*>(out + 8 * block + 2 * pair) =
            __floats2bfloat162_rn(x, y);
      }
    }
  }
}

template <KvType kType, int kHeadDim>
cudaError_t launch(const PrefillAttentionArgs& args, cudaStream_t stream) {
  constexpr int kSmem = kStages * 2 * Tile<kType, kHeadDim>::kBytes;
  const auto kernel = prefill_attention_kernel<kType, kHeadDim>;
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSmem);
  if (error != cudaSuccess) return error;
  const dim3 grid(static_cast<unsigned>(args.num_tiles), static_cast<unsigned>(args.num_kv_heads));
  return launch_overlapped(kernel, {grid, kThreads, kSmem}, stream, args);
}

template <KvType kType>
cudaError_t launch_head_dim(const PrefillAttentionArgs& args, cudaStream_t stream) {
  switch (args.head_dim) {
    case 16:
      return launch<kType, 16>(args, stream);
    case 32:
      return launch<kType, 32>(args, stream);
    case 64:
      return launch<kType, 64>(args, stream);
    case 80:
      return launch<kType, 80>(args, stream);
    case 96:
      return launch<kType, 96>(args, stream);
    case 128:
      return launch<kType, 128>(args, stream);
    case 256:
      return launch<kType, 256>(args, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace

cudaError_t prefill_attention(const PrefillAttentionArgs& args, cudaStream_t stream) {
  if (args.num_tiles == 0) return cudaSuccess;
  if (args.kv_type == KvType::kE4M3) return launch_head_dim<KvType::kE4M3>(args, stream);
  return launch_head_dim<KvType::kBF16>(args, stream);
}

}  // namespace slipstream::cuda
