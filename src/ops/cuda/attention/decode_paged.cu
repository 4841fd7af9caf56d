// out = softmax(scale q K^T) V for single query tokens, over KV pages. What a token gets depends on
// its own context alone, not on the batch.
//
// Grid (splits, kv heads, queries), 4 warps. A CTA serves the query heads that share one KV head
// (at most 16, the rows of an mma) over split_len positions; its warps take blocks of 16 positions
// in turn, each through its own ring of shared memory, so no barrier runs inside the loop. Scores
// and outputs are m16n8k16 mma with f32 accumulators; E4M3 pages become halves in registers, which
// is exact. Bytes: every K and V byte once. Bound: memory. Reference: ops/cpu/ref attention.
#include "ops/cuda/attention/decode_paged.h"

#include "ops/cuda/attention/page_tile.cuh"
#include "ops/cuda/common/launch.cuh"
#include "ops/cuda/common/ptx.cuh"

namespace slipstream::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kStages = 2;

template <KvType kType, int kHeadDim>
using Tile = PageTile<kType, kHeadDim, kPageSize>;
template <KvType kType, int kHeadDim>
constexpr int kWarpBytes = 2 * Tile<kType, kHeadDim>::kBytes * kStages;

// q^T as B fragments: 8 heads a block. The order of dimensions within a k-step is the one in which
// the K fragments come out of shared memory.
template <KvType kType, int kHeadDim, int kHeadBlocks>
struct QueryFragments {
  uint32_t b[kHeadBlocks][kHeadDim / 16][2];

  __device__ __forceinline__ void load(const __nv_bfloat16* q, int num_rows, int lane) {
    const int pair = lane & 3;
#pragma unroll
    for (int block = 0; block < kHeadBlocks; ++block) {
      const int row = (lane >> 2) + 8 * block;
#pragma unroll
      for (int step = 0; step < kHeadDim / 16; ++step) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int dim = kType == KvType::kE4M3 ? 16 * step + 4 * pair + 2 * half
                                                 : 16 * step + 8 * half + 2 * pair;
          uint32_t value = 0;
          if (row < num_rows) {
            const auto two = *reinterpret_cast<const __nv_bfloat162*>(q + row * kHeadDim + dim);
            if constexpr (kType == KvType::kE4M3) {
              const float2 wide = __bfloat1622float2(two);
              value = pack_half2(wide.x, wide.y);
            } else {
              value = *reinterpret_cast<const uint32_t*>(&two);
            }
          }
          b[block][step][half] = value;
        }
      }
    }
  }
};

// s[block]: scores [16 positions, 8 heads] as an accumulator.
template <KvType kType, int kHeadDim, int kHeadBlocks>
__device__ __forceinline__ void score_tile(const QueryFragments<kType, kHeadDim, kHeadBlocks>& q,
                                           uint32_t k_smem, int lane, float (&s)[kHeadBlocks][4]) {
  using T = Tile<kType, kHeadDim>;
  const int position = (lane & 7) + ((lane >> 3) & 1) * 8;
  const int chunk_of_lane = lane >> 4;
#pragma unroll
  for (auto& block : s) block[0] = block[1] = block[2] = block[3] = 0.0f;
#pragma unroll
  for (int chunk = 0; chunk < T::kChunks; chunk += 2) {
    uint32_t r[4];  // (positions 0-7, chunk), (8-15, chunk), (0-7, chunk + 1), (8-15, chunk + 1)
    ldmatrix_x4(r, k_smem + T::offset(position, T::pair_chunk(chunk, chunk_of_lane)));
    if constexpr (kType == KvType::kE4M3) {
#pragma unroll
      for (int j = 0; j < 2 && chunk + j < T::kChunks; ++j) {
        const uint32_t a[4] = {half2_from_e4m3x2(r[2 * j]), half2_from_e4m3x2(r[2 * j + 1]),
                               half2_from_e4m3x2(r[2 * j] >> 16),
                               half2_from_e4m3x2(r[2 * j + 1] >> 16)};
#pragma unroll
        for (int block = 0; block < kHeadBlocks; ++block) {
          mma<kType>(s[block], a, q.b[block][chunk + j][0], q.b[block][chunk + j][1]);
        }
      }
    } else {
#pragma unroll
      for (int block = 0; block < kHeadBlocks; ++block) {
        mma<kType>(s[block], r, q.b[block][chunk / 2][0], q.b[block][chunk / 2][1]);
      }
    }
  }
}

// o[block][tile]: output [16 dimensions, 8 heads] per tile, += V^T p.
template <KvType kType, int kHeadDim, int kHeadBlocks>
__device__ __forceinline__ void value_tile(const uint32_t (&p)[kHeadBlocks][2], uint32_t v_smem,
                                           int lane, float (&o)[kHeadBlocks][kHeadDim / 16][4]) {
  using T = Tile<kType, kHeadDim>;
  const int chunk_of_lane = lane >> 4;
  const int position = (lane & 7) + ((lane >> 3) & 1) * 8;
#pragma unroll
  for (int chunk = 0; chunk < T::kChunks; chunk += 2) {
    uint32_t r[4];  // as in score_tile, transposed
    ldmatrix_x4_trans(r, v_smem + T::offset(position, T::pair_chunk(chunk, chunk_of_lane)));
    if constexpr (kType == KvType::kE4M3) {
      // Every register holds two neighbouring dimensions of two positions: sort them apart.
#pragma unroll
      for (int j = 0; j < 2 && chunk + j < T::kChunks; ++j) {
        const uint32_t even = __byte_perm(r[2 * j], r[2 * j + 1], 0x6420);
        const uint32_t odd = __byte_perm(r[2 * j], r[2 * j + 1], 0x7531);
        const uint32_t a[4] = {half2_from_e4m3x2(even), half2_from_e4m3x2(odd),
                               half2_from_e4m3x2(even >> 16), half2_from_e4m3x2(odd >> 16)};
#pragma unroll
        for (int block = 0; block < kHeadBlocks; ++block) {
          mma<kType>(o[block][chunk + j], a, p[block][0], p[block][1]);
        }
      }
    } else {
      const uint32_t a[4] = {r[0], r[2], r[1], r[3]};
#pragma unroll
      for (int block = 0; block < kHeadBlocks; ++block) {
        mma<kType>(o[block][chunk / 2], a, p[block][0], p[block][1]);
      }
    }
  }
}

// The dimension that row `group` (upper: group + 8) of output tile `tile` stands for.
template <KvType kType>
__device__ __forceinline__ int dim_of(int tile, int upper, int lane) {
  const int group = lane >> 2;
  if constexpr (kType == KvType::kE4M3) return 16 * tile + 2 * group + upper;
  return 16 * tile + 8 * upper + group;
}

__device__ __forceinline__ DecodeQuery load_query(const DecodeQuery* query) {
  const int4 words = *reinterpret_cast<const int4*>(query);
  return {words.x, words.y, words.z, words.w};
}

template <KvType kType, int kHeadDim, int kHeadBlocks>
__global__ void __launch_bounds__(kWarps * 32)
    decode_attention_kernel(const __grid_constant__ DecodeAttentionArgs args) {
  using T = Tile<kType, kHeadDim>;
  extern __shared__ __align__(128) unsigned char smem[];
  const int split = blockIdx.x;
  const int kv_head = blockIdx.y;
  const DecodeQuery query = load_query(args.queries + blockIdx.z);
  const int64_t row = query.row;
  const int warp = threadIdx.x >> 5;
  const int lane = threadIdx.x & 31;
  const int seq_len = query.seq_len;
  const int first = args.window > 0 && seq_len > args.window ? seq_len - args.window : 0;
  const int begin = split * args.split_len;
  const int end = min(seq_len, begin + args.split_len);
  if (end <= begin) {  // this context has fewer splits
    begin_after_previous();
    return;
  }
  const int num_rows = args.num_heads / args.num_kv_heads;

  const int first_tile = max(begin, first) / kPageSize + warp;
  const int end_tile = (end + kPageSize - 1) / kPageSize;
  const int32_t* const table = args.block_table + query.seq * args.block_table_stride;
  const auto* const k_head = static_cast<const unsigned char*>(args.k_pages);
  const auto* const v_head = static_cast<const unsigned char*>(args.v_pages);
  const int64_t block_bytes = int64_t{args.num_kv_heads} * T::kBytes;
  const uint32_t ring =
      smem_address(smem) + static_cast<uint32_t>(warp * kWarpBytes<kType, kHeadDim>);

  // The block of a tile is looked up one fetch ahead: its address never waits for the table.
  int32_t next_block = first_tile < end_tile ? table[first_tile] : 0;
  auto fetch = [&](int tile, int stage) {
    const int32_t block = next_block;
    if (tile + kWarps < end_tile) next_block = table[tile + kWarps];
    if (tile < end_tile) {
      const int64_t source = block * block_bytes + int64_t{kv_head} * T::kBytes;
      const uint32_t k_smem = ring + static_cast<uint32_t>(stage * 2 * T::kBytes);
#pragma unroll
      for (int i = lane; i < T::kBytes / 16; i += 32) {
        const uint32_t at = T::offset(i / T::kChunks, i % T::kChunks);
        cp_async_16(k_smem + at, k_head + source + i * 16);
        // Positions past the end hold whatever was there: their weight is 0, and 0 x NaN is not.
        cp_async_16_or_zero(k_smem + T::kBytes + at, v_head + source + i * 16,
                            tile * kPageSize + i / T::kChunks < end);
      }
    }
    cp_async_commit();
  };

  // Pages of earlier steps need not wait for the kernel before, which writes this step's.
  static_assert(kStages == 2);
  const bool is_old = (first_tile + 1) * kPageSize <= query.old_len;
  if (is_old) fetch(first_tile, 0);
  begin_after_previous();
  if (!is_old) fetch(first_tile, 0);

  QueryFragments<kType, kHeadDim, kHeadBlocks> q;
  q.load(static_cast<const __nv_bfloat16*>(args.q) + row * args.q_stride +
             int64_t{kv_head} * num_rows * kHeadDim,
         num_rows, lane);
  const float k_scale = args.k_scale != nullptr ? args.k_scale[kv_head] : 1.0f;
  const float score_scale = args.scale * k_scale * kLog2e;

  float o[kHeadBlocks][kHeadDim / 16][4];
#pragma unroll
  for (auto& block : o) {
#pragma unroll
    for (auto& tile : block) tile[0] = tile[1] = tile[2] = tile[3] = 0.0f;
  }
  // Of heads 2 * pair and 2 * pair + 1 of a block; maxima in units of log2.
  float head_max[kHeadBlocks][2];
  float head_sum[kHeadBlocks][2];  // of this lane's positions
#pragma unroll
  for (int block = 0; block < kHeadBlocks; ++block) {
    head_max[block][0] = head_max[block][1] = -INFINITY;
    head_sum[block][0] = head_sum[block][1] = 0.0f;
  }

  int stage = 0;
  for (int tile = first_tile; tile < end_tile; tile += kWarps) {
    cp_async_wait<kStages - 2>();
    __syncwarp();
    const int next_stage = stage == 0 ? kStages - 1 : stage - 1;
    fetch(tile + (kStages - 1) * kWarps, next_stage);
    const uint32_t k_smem = ring + static_cast<uint32_t>(stage * 2 * T::kBytes);

    float s[kHeadBlocks][4];  // positions group, group + 8; heads 2 * pair, 2 * pair + 1
    score_tile<kType, kHeadDim, kHeadBlocks>(q, k_smem, lane, s);
    const bool edge = (tile + 1) * kPageSize > end || tile * kPageSize < first;
    const int position0 = tile * kPageSize + (lane >> 2);
    uint32_t p[kHeadBlocks][2];
#pragma unroll
    for (int block = 0; block < kHeadBlocks; ++block) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float x = s[block][i] * score_scale;
        if (args.softcap > 0.0f) x = args.softcap * kLog2e * tanhf(x / (args.softcap * kLog2e));
        const int position = position0 + 8 * (i >> 1);
        if (edge && (position >= end || position < first)) x = -INFINITY;
        s[block][i] = x;
      }
      // A lane's own maximum first: most tiles raise none, and then nobody needs the exchange.
      const float max0 = fmaxf(s[block][0], s[block][2]);
      const float max1 = fmaxf(s[block][1], s[block][3]);
      const bool grew = max0 > head_max[block][0] || max1 > head_max[block][1];
      if (__any_sync(~0u, grew)) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          float max = h == 0 ? max0 : max1;
#pragma unroll
          for (int step = 4; step < 32; step *= 2) {
            max = fmaxf(max, __shfl_xor_sync(~0u, max, step));
          }
          max = fmaxf(max, head_max[block][h]);
          const float factor =
              head_max[block][h] == -INFINITY ? 0.0f : exp2_approx(head_max[block][h] - max);
          head_max[block][h] = max;
          head_sum[block][h] *= factor;
#pragma unroll
          for (auto& accumulators : o[block]) {
            accumulators[h] *= factor;
            accumulators[2 + h] *= factor;
          }
        }
      }
      // Where every position so far is masked there is no maximum yet.
      const float base0 = head_max[block][0] == -INFINITY ? 0.0f : head_max[block][0];
      const float base1 = head_max[block][1] == -INFINITY ? 0.0f : head_max[block][1];
      const float p00 = exp2_approx(s[block][0] - base0);
      const float p01 = exp2_approx(s[block][1] - base1);
      const float p10 = exp2_approx(s[block][2] - base0);
      const float p11 = exp2_approx(s[block][3] - base1);
      head_sum[block][0] += p00 + p10;
      head_sum[block][1] += p01 + p11;
      // [position, head] becomes [head, position], the B fragment of the next product.
      const uint32_t low = kType == KvType::kE4M3 ? pack_half2(p00, p01) : pack_bf162(p00, p01);
      const uint32_t high = kType == KvType::kE4M3 ? pack_half2(p10, p11) : pack_bf162(p10, p11);
      p[block][0] = movmatrix_trans(low);
      p[block][1] = movmatrix_trans(high);
    }
    value_tile<kType, kHeadDim, kHeadBlocks>(p, k_smem + T::kBytes, lane, o);
    stage = stage + 1 == kStages ? 0 : stage + 1;
  }
  cp_async_wait<0>();

  // The warps' shares, merged in order through shared memory: [warp][head][head_dim + 2].
  __syncthreads();
  constexpr int kStride = kHeadDim + 4;
  auto* const shares = reinterpret_cast<float*>(smem);
#pragma unroll
  for (int block = 0; block < kHeadBlocks; ++block) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float sum = head_sum[block][h];
#pragma unroll
      for (int step = 4; step < 32; step *= 2) sum += __shfl_xor_sync(~0u, sum, step);
      const int row = 8 * block + 2 * (lane & 3) + h;
      if (row >= num_rows) continue;
      float* const share = shares + (warp * num_rows + row) * kStride;
#pragma unroll
      for (int tile = 0; tile < kHeadDim / 16; ++tile) {
        share[dim_of<kType>(tile, 0, lane)] = o[block][tile][h];
        share[dim_of<kType>(tile, 1, lane)] = o[block][tile][2 + h];
      }
      if ((lane >> 2) == 0) {
        share[kHeadDim] = head_max[block][h];
        share[kHeadDim + 1] = sum;
      }
    }
  }
  __syncthreads();
  const float v_scale = args.v_scale != nullptr ? args.v_scale[kv_head] : 1.0f;
  for (int i = threadIdx.x; i < num_rows * kHeadDim; i += kWarps * 32) {
    const int head_row = i / kHeadDim;
    const int dim = i % kHeadDim;
    float max = -INFINITY;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      max = fmaxf(max, shares[(w * num_rows + head_row) * kStride + kHeadDim]);
    }
    float sum = 0.0f;
    float value = 0.0f;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float* const share = shares + (w * num_rows + head_row) * kStride;
      const float factor = share[kHeadDim] == -INFINITY ? 0.0f : exp2_approx(share[kHeadDim] - max);
      sum += share[kHeadDim + 1] * factor;
      value += share[dim] * factor;
    }
    value = sum > 0.0f ? value / sum * v_scale : 0.0f;
    const int head = kv_head * num_rows + head_row;
    if (args.max_splits == 1) {
      static_cast<__nv_bfloat16*>(args.out)[row * args.out_stride + head * kHeadDim + dim] =
          __float2bfloat16(value);
    } else {
      float* const partial =
          args.partials +
          ((int64_t{blockIdx.z} * args.num_heads + head) * args.max_splits + split) *
              (kHeadDim + 1);
      partial[dim] = value;
      if (dim == 0) partial[kHeadDim] = sum > 0.0f ? max + log2f(sum) : -INFINITY;
    }
  }
}

// Merges the splits of a query in order. Grid (heads, queries), head_dim threads.
__global__ void merge_splits_kernel(const __grid_constant__ DecodeAttentionArgs args) {
  begin_after_previous();
  const int head = blockIdx.x;
  const DecodeQuery query = load_query(args.queries + blockIdx.y);
  const int64_t row = query.row;
  const int dim = threadIdx.x;
  const int head_dim = args.head_dim;
  const int num_splits = (query.seq_len + args.split_len - 1) / args.split_len;
  const float* const partials = args.partials + (int64_t{blockIdx.y} * args.num_heads + head) *
                                                    args.max_splits * (head_dim + 1);
  float max = -INFINITY;
  for (int split = 0; split < num_splits; ++split) {
    max = fmaxf(max, partials[split * (head_dim + 1) + head_dim]);
  }
  float sum = 0.0f;
  float value = 0.0f;
  for (int split = 0; split < num_splits; ++split) {
    const float lse = partials[split * (head_dim + 1) + head_dim];
    const float weight = lse == -INFINITY ? 0.0f : exp2_approx(lse - max);
    sum += weight;
    value += weight * partials[split * (head_dim + 1) + dim];
  }
  static_cast<__nv_bfloat16*>(args.out)[row * args.out_stride + head * head_dim + dim] =
      __float2bfloat16(sum > 0.0f ? value / sum : 0.0f);
}

template <KvType kType, int kHeadDim, int kHeadBlocks>
cudaError_t launch(const DecodeAttentionArgs& args, cudaStream_t stream) {
  using T = Tile<kType, kHeadDim>;
  const int ring_bytes = kWarps * kWarpBytes<kType, kHeadDim>;
  const int num_rows = args.num_heads / args.num_kv_heads;
  const int share_bytes = kWarps * num_rows * (kHeadDim + 4) * 4;
  const int smem_bytes = ring_bytes > share_bytes ? ring_bytes : share_bytes;
  const auto kernel = decode_attention_kernel<kType, kHeadDim, kHeadBlocks>;
  cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, smem_bytes);
  if (error != cudaSuccess) return error;
  const dim3 grid(static_cast<unsigned>(args.max_splits), static_cast<unsigned>(args.num_kv_heads),
                  static_cast<unsigned>(args.num_queries));
  const auto smem = static_cast<size_t>(smem_bytes);
  error = launch_overlapped(kernel, {grid, kWarps * 32, smem}, stream, args);
  if (error != cudaSuccess || args.max_splits == 1) return error;
  const dim3 merge_grid(static_cast<unsigned>(args.num_heads),
                        static_cast<unsigned>(args.num_queries));
  return launch_overlapped(merge_splits_kernel, {merge_grid, kHeadDim}, stream, args);
}

template <KvType kType, int kHeadDim>
cudaError_t launch_rows(const DecodeAttentionArgs& args, cudaStream_t stream) {
  const int num_rows = args.num_heads / args.num_kv_heads;
  if (num_rows <= 8) return launch<kType, kHeadDim, 1>(args, stream);
  if (num_rows <= 16) return launch<kType, kHeadDim, 2>(args, stream);
  return cudaErrorInvalidValue;
}

template <KvType kType>
cudaError_t launch_head_dim(const DecodeAttentionArgs& args, cudaStream_t stream) {
  switch (args.head_dim) {
    case 16:
      return launch_rows<kType, 16>(args, stream);
    case 32:
      return launch_rows<kType, 32>(args, stream);
    case 64:
      return launch_rows<kType, 64>(args, stream);
    case 80:
      return launch_rows<kType, 80>(args, stream);
    case 96:
      return launch_rows<kType, 96>(args, stream);
    case 128:
      return launch_rows<kType, 128>(args, stream);
    case 256:
      return launch_rows<kType, 256>(args, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace

cudaError_t decode_attention(const DecodeAttentionArgs& args, cudaStream_t stream) {
  if (args.kv_type == KvType::kE4M3) return launch_head_dim<KvType::kE4M3>(args, stream);
  return launch_head_dim<KvType::kBF16>(args, stream);
}

}  // namespace slipstream::cuda
