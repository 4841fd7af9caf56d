// out = softmax(scale q K^T) V, causal, for chunks of prompts over KV pages: heads of 64 and 128.
//
// A block a multiprocessor, which takes (tile, KV head) pairs in turn; two warpgroups of 64 rows
// each compute, a third brings K and V in tiles of 128 positions through two stages of shared
// memory, running ahead into the next pair. A row is a (token, head) pair of one KV
// head's group. Scores stay in registers and become the A operand of the second product, which
// runs together with the next tile's scores while the other warpgroup takes exponentials. E4M3
// pages become halves on the way to shared memory. FLOPs: 4 x rows x positions x head_dim. Bound:
// compute (wgmma), exponentials. Reference: ops/cpu/ref attention.
#include "ops/cuda/attention/page_tile.cuh"
#include "ops/cuda/attention/prefill_paged.h"
#include "ops/cuda/common/launch.cuh"
#include "ops/cuda/common/ptx.cuh"
#include "ops/cuda/common/wgmma.cuh"

namespace slipstream::cuda {
namespace {

constexpr int kGroupThreads = 128;  // of a warpgroup
constexpr int kThreads = 3 * kGroupThreads;
constexpr int kGroupRows = 64;
constexpr int kTile = 128;  // positions
constexpr int kStages = 2;
// Of a thread, once the block runs: together what it was given, 168 a thread.
constexpr int kLoaderRegisters = 88;
constexpr int kComputeRegisters = 208;
static_assert(kLoaderRegisters + 2 * kComputeRegisters == 3 * 168);
static_assert(kPrefillRows == 2 * kGroupRows);

// Shared memory: Q, then stages of K and V, each in parts of 64 dimensions; then barriers.
template <int kHeadDim>
struct Layout {
  static constexpr int kParts = kHeadDim / 64;
  static constexpr int kPartBytes = kTile * kSwizzleRowBytes;
  static constexpr int kTileBytes = kParts * kPartBytes;
  static constexpr int kQPartBytes = kPrefillRows * kSwizzleRowBytes;
  static constexpr int kQBytes = kParts * kQPartBytes;
  static constexpr int kBarriers = kQBytes + kStages * 2 * kTileBytes;
  static constexpr int kBytes = kBarriers + kStages * 4 * 8 + kSwizzleAtomBytes;  // to align
};

struct Barriers {
  uint32_t first;
  __device__ __forceinline__ uint32_t k_full(int stage) const { return first + stage * 32; }
  __device__ __forceinline__ uint32_t v_full(int stage) const { return first + stage * 32 + 8; }
  __device__ __forceinline__ uint32_t k_empty(int stage) const { return first + stage * 32 + 16; }
  __device__ __forceinline__ uint32_t v_empty(int stage) const { return first + stage * 32 + 24; }
};

// Calls f(tile, kv_head, kv_begin, kv_end) for the block's pairs, the next tile read ahead.
template <typename F>
__device__ __forceinline__ void for_each_pair(const PrefillAttentionArgs& args, F&& f) {
  const int num_pairs = args.num_tiles * args.num_kv_heads;
  int pair = static_cast<int>(blockIdx.x);
  PrefillTile next = load_tile(args.tiles + pair / args.num_kv_heads);
  for (; pair < num_pairs; pair += static_cast<int>(gridDim.x)) {
    const PrefillTile tile = next;
    const int next_pair = pair + static_cast<int>(gridDim.x);
    if (next_pair < num_pairs) next = load_tile(args.tiles + next_pair / args.num_kv_heads);
    const int kv_begin =
        args.window > 0 ? max(0, tile.first_position - args.window + 1) / kTile * kTile : 0;
    f(tile, pair % args.num_kv_heads, kv_begin, tile.first_position + tile.num_tokens);
  }
}

// Which of the stages is next, and which of its phases.
struct StageCounter {
  int stage = 0;
  int parity = 0;
  __device__ __forceinline__ void advance() {
    stage = (stage + 1) % kStages;
    if (stage == 0) parity ^= 1;
  }
};

// Brings the tiles of one page array, K or V, to shared memory; all threads of the loading
// warpgroup.
template <KvType kType, int kHeadDim>
struct PageLoader {
  using L = Layout<kHeadDim>;
  static constexpr int kRowBytes = PageTile<kType, kHeadDim, kPageSize>::kRowBytes;
  static constexpr int kRowChunks = kRowBytes / 16;
  static constexpr int kPerThread = kTile * kRowChunks / kGroupThreads;

  const unsigned char* head;  // the KV head's place in the first page
  const int32_t* table;
  int64_t block_bytes;
  int kv_end;

  __device__ __forceinline__ const unsigned char* source(int position, int chunk) const {
    return head + table[position / kPageSize] * block_bytes + (position % kPageSize) * kRowBytes +
           chunk * 16;
  }
  // 16-bit pages: copies under way when this returns.
  __device__ __forceinline__ void copy(int begin, uint32_t to) const {
#pragma unroll 4
    for (int i = 0; i < kPerThread; ++i) {
      const int idx = i * kGroupThreads + (threadIdx.x % kGroupThreads);
      const int row = idx / kRowChunks;
      const int chunk = idx % kRowChunks;
      const bool valid = begin + row < kv_end;
      cp_async_16_or_zero(to + (chunk / 8) * L::kPartBytes + swizzled(row, chunk % 8),
                          source(valid ? begin + row : begin, chunk), valid);
    }
  }
  // E4M3 pages: 16 values a thread at a time, in registers until store().
  __device__ __forceinline__ void load(int begin, uint4 (&values)[kPerThread]) const {
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
      const int idx = i * kGroupThreads + (threadIdx.x % kGroupThreads);
      const int row = idx / kRowChunks;
      values[i] = make_uint4(0, 0, 0, 0);
      if (begin + row < kv_end) {
        values[i] = __ldg(reinterpret_cast<const uint4*>(source(begin + row, idx % kRowChunks)));
      }
    }
  }
  __device__ __forceinline__ void store(const uint4 (&values)[kPerThread], uint32_t to) const {
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
      const int idx = i * kGroupThreads + (threadIdx.x % kGroupThreads);
      const int row = idx / kRowChunks;
      const uint32_t words[4] = {values[i].x, values[i].y, values[i].z, values[i].w};
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int chunk = 2 * (idx % kRowChunks) + half;
        const uint32_t a = words[2 * half];
        const uint32_t b = words[2 * half + 1];
        store_shared_16(to + (chunk / 8) * L::kPartBytes + swizzled(row, chunk % 8),
                        make_uint4(half2_from_e4m3x2(a), half2_from_e4m3x2(a >> 16),
                                   half2_from_e4m3x2(b), half2_from_e4m3x2(b >> 16)));
      }
    }
  }
};

template <KvType kType, int kHeadDim>
__device__ __forceinline__ void load_tiles(const PrefillAttentionArgs& args, uint32_t smem,
                                           const Barriers& barriers) {
  using L = Layout<kHeadDim>;
  using Loader = PageLoader<kType, kHeadDim>;
  constexpr int64_t kPageBytes = int64_t{kPageSize} * Loader::kRowBytes;
  StageCounter at{0, 1};  // the stages are empty at first
  for_each_pair(args, [&](const PrefillTile& tile, int kv_head, int kv_begin, int kv_end) {
    Loader k{static_cast<const unsigned char*>(args.k_pages) + kv_head * kPageBytes,
             args.block_table + tile.seq * args.block_table_stride,
             int64_t{args.num_kv_heads} * kPageBytes, kv_end};
    Loader v = k;
    v.head = static_cast<const unsigned char*>(args.v_pages) + kv_head * kPageBytes;
    for (int begin = kv_begin; begin < kv_end; begin += kTile, at.advance()) {
      const uint32_t k_smem =
          smem + L::kQBytes + static_cast<uint32_t>(at.stage * 2 * L::kTileBytes);
      const uint32_t v_smem = k_smem + L::kTileBytes;
      if constexpr (kType == KvType::kE4M3) {
        uint4 values[Loader::kPerThread];
        k.load(begin, values);
        barrier_wait(barriers.k_empty(at.stage), at.parity);
        k.store(values, k_smem);
        fence_for_wgmma();
        barrier_arrive(barriers.k_full(at.stage));
        v.load(begin, values);
        barrier_wait(barriers.v_empty(at.stage), at.parity);
        v.store(values, v_smem);
      } else {
        barrier_wait(barriers.k_empty(at.stage), at.parity);
        k.copy(begin, k_smem);
        cp_async_commit();
        barrier_wait(barriers.v_empty(at.stage), at.parity);
        v.copy(begin, v_smem);
        cp_async_commit();
        cp_async_wait<1>();
        fence_for_wgmma();
        barrier_arrive(barriers.k_full(at.stage));
        cp_async_wait<0>();
      }
      fence_for_wgmma();
      barrier_arrive(barriers.v_full(at.stage));
    }
  });
}

using Scores = float[kTile / 8][4];  // of this lane's two rows

__device__ __forceinline__ void cap_scores(Scores& s, float softcap, float scale) {
  const float inner = scale / softcap;
#pragma unroll
  for (auto& block : s) {
#pragma unroll
    for (float& x : block) x = softcap * tanhf(x * inner);
  }
}

// Positions from `begin` on that a row does not see: those after its own, and before its window.
__device__ __forceinline__ void mask_scores(Scores& s, int begin, const int (&row_position)[2],
                                            int window) {
#pragma unroll
  for (int block = 0; block < kTile / 8; ++block) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int position = begin + block * 8 + (i & 1);
      const int own = row_position[i >> 1];
      if (position > own || (window > 0 && position <= own - window)) s[block][i] = -INFINITY;
    }
  }
}

// Q's 64 rows of a warpgroup to shared memory; rows beyond the tile's are zero.
template <KvType kType, int kHeadDim>
__device__ __forceinline__ void load_queries(const PrefillAttentionArgs& args,
                                             const PrefillTile& tile, int kv_head, int warpgroup,
                                             int thread, uint32_t smem) {
  constexpr int kRowChunks = kHeadDim / 8;
  const int group_size = args.num_heads / args.num_kv_heads;
#pragma unroll
  for (int i = thread; i < kGroupRows * kRowChunks; i += kGroupThreads) {
    const int row = warpgroup * kGroupRows + i / kRowChunks;
    const int chunk = i % kRowChunks;
    const int token = row / group_size;
    uint4 value = make_uint4(0, 0, 0, 0);
    if (token < tile.num_tokens) {
      const int head = kv_head * group_size + row % group_size;
      value = *reinterpret_cast<const uint4*>(static_cast<const __nv_bfloat16*>(args.q) +
                                              int64_t{tile.first_row + token} * args.q_stride +
                                              head * kHeadDim + chunk * 8);
      if constexpr (kType == KvType::kE4M3) value = half8_from_bf16x8(value);
    }
    store_shared_16(smem + (chunk / 8) * Layout<kHeadDim>::kQPartBytes + swizzled(row, chunk % 8),
                    value);
  }
}

// The 64 rows of a computing warpgroup.
template <KvType kType, int kHeadDim>
__device__ __forceinline__ void compute_rows(const PrefillAttentionArgs& args, uint32_t smem,
                                             const Barriers& barriers) {
  using L = Layout<kHeadDim>;
  constexpr bool kIsBf16 = kType == KvType::kBF16;
  const int warpgroup = static_cast<int>(threadIdx.x) / kGroupThreads - 1;
  const int thread = static_cast<int>(threadIdx.x) % kGroupThreads;
  const int warp = thread / 32;
  const int lane = thread % 32;
  const int pair = lane & 3;
  const int group_size = args.num_heads / args.num_kv_heads;
  const uint32_t q_smem = smem + static_cast<uint32_t>(warpgroup * kGroupRows * kSwizzleRowBytes);
  const auto sync = [&] {
    asm volatile("bar.sync %0, %1;" ::"r"(1 + warpgroup), "n"(kGroupThreads) : "memory");
  };
  StageCounter at;
  for_each_pair(args, [&](const PrefillTile& tile, int kv_head, int kv_begin, int kv_end) {
    sync();  // the warpgroup has read the Q before
    load_queries<kType, kHeadDim>(args, tile, kv_head, warpgroup, thread, smem);
    fence_for_wgmma();
    sync();
    int row_position[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int token = (warpgroup * kGroupRows + warp * 16 + (lane >> 2) + 8 * r) / group_size;
      row_position[r] = token < tile.num_tokens ? tile.first_position + token : -1;
    }
    const float scale = args.scale * (args.k_scale != nullptr ? args.k_scale[kv_head] : 1.0f);
    // What scores are multiplied with where they are not capped, which scales them.
    const float log2_scale = (args.softcap > 0.0f ? 1.0f : scale) * kLog2e;
    float o[kHeadDim / 8][4];
#pragma unroll
    for (auto& block : o) block[0] = block[1] = block[2] = block[3] = 0.0f;
    float row_max[2] = {-INFINITY, -INFINITY};
    float row_sum[2] = {0.0f, 0.0f};
    for (int begin = kv_begin; begin < kv_end; begin += kTile, at.advance()) {
      const uint32_t k_smem =
          smem + L::kQBytes + static_cast<uint32_t>(at.stage * 2 * L::kTileBytes);
      const uint32_t v_smem = k_smem + L::kTileBytes;
      Scores s;
      barrier_wait(barriers.k_full(at.stage), at.parity);
      wgmma_fence();
#pragma unroll
      for (int step = 0; step < kHeadDim / 16; ++step) {
        const int part = step / 4;
        const uint32_t within = static_cast<uint32_t>(step % 4 * 32);
        wgmma_tiles<kIsBf16>(s, tile_descriptor(q_smem + part * L::kQPartBytes + within, 16),
                             tile_descriptor(k_smem + part * L::kPartBytes + within, 16), step > 0);
      }
      wgmma_commit();
      wgmma_wait<0>();  // of these scores, and of the values before them
      if (lane == 0) {
        barrier_arrive(barriers.k_empty(at.stage));
        if (begin > kv_begin) barrier_arrive(barriers.v_empty((at.stage + 1) % kStages));
      }

      if (args.softcap > 0.0f) cap_scores(s, args.softcap, scale);
      const bool edge =
          begin + kTile > tile.first_position ||
          (args.window > 0 && begin <= tile.first_position + tile.num_tokens - args.window);
      if (edge) mask_scores(s, begin + 2 * pair, row_position, args.window);
      float new_max[2] = {row_max[0], row_max[1]};
#pragma unroll
      for (int block = 0; block < kTile / 8; ++block) {
#pragma unroll
        for (int i = 0; i < 4; ++i) new_max[i >> 1] = fmaxf(new_max[i >> 1], s[block][i]);
      }
      float base[2];  // in units of log2
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        new_max[r] = fmaxf(new_max[r], __shfl_xor_sync(~0u, new_max[r], 1));
        new_max[r] = fmaxf(new_max[r], __shfl_xor_sync(~0u, new_max[r], 2));
        base[r] = new_max[r] == -INFINITY ? 0.0f : new_max[r] * log2_scale;
        const float factor = exp2_approx(row_max[r] * log2_scale - base[r]);  // 0 at first
        row_max[r] = new_max[r];
        row_sum[r] *= factor;
#pragma unroll
        for (auto& block : o) {
          block[2 * r] *= factor;
          block[2 * r + 1] *= factor;
        }
      }
      uint32_t p[kTile / 16][4];
#pragma unroll
      for (int step = 0; step < kTile / 16; ++step) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float(&block)[4] = s[2 * step + half];
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            block[i] = exp2_approx(block[i] * log2_scale - base[i >> 1]);
          }
          row_sum[0] += block[0] + block[1];
          row_sum[1] += block[2] + block[3];
          p[step][2 * half] =
              kIsBf16 ? pack_bf162(block[0], block[1]) : pack_half2(block[0], block[1]);
          p[step][2 * half + 1] =
              kIsBf16 ? pack_bf162(block[2], block[3]) : pack_half2(block[2], block[3]);
        }
      }
      barrier_wait(barriers.v_full(at.stage), at.parity);
      wgmma_fence();
#pragma unroll
      for (int step = 0; step < kTile / 16; ++step) {
        wgmma_registers<kIsBf16>(
            o, p[step],
            tile_descriptor(v_smem + static_cast<uint32_t>(step * 2 * kSwizzleAtomBytes),
                            L::kPartBytes),
            true);
      }
      wgmma_commit();
    }
    wgmma_wait<0>();
    if (lane == 0) barrier_arrive(barriers.v_empty((at.stage + kStages - 1) % kStages));

    const float v_scale = args.v_scale != nullptr ? args.v_scale[kv_head] : 1.0f;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      row_sum[r] += __shfl_xor_sync(~0u, row_sum[r], 1);
      row_sum[r] += __shfl_xor_sync(~0u, row_sum[r], 2);
      if (row_position[r] < 0) continue;
      const int row = warpgroup * kGroupRows + warp * 16 + (lane >> 2) + 8 * r;
      const int head = kv_head * group_size + row % group_size;
      const float factor = row_sum[r] > 0.0f ? v_scale / row_sum[r] : 0.0f;
      auto* const out = static_cast<__nv_bfloat16*>(args.out) +
                        int64_t{tile.first_row + row / group_size} * args.out_stride +
                        head * kHeadDim + 2 * pair;
#pragma unroll
      for (int block = 0; block < kHeadDim / 8; ++block) {
        *reinterpret_cast<__nv_bfloat162*>(out + 8 * block) =
            __floats2bfloat162_rn(o[block][2 * r] * factor, o[block][2 * r + 1] * factor);
      }
    }
  });
}

template <KvType kType, int kHeadDim>
__global__ void __launch_bounds__(kThreads, 1)
    prefill_warpgroups_kernel(const __grid_constant__ PrefillAttentionArgs args) {
  extern __shared__ unsigned char unaligned[];
  const uint32_t smem =
      (smem_address(unaligned) + kSwizzleAtomBytes - 1) / kSwizzleAtomBytes * kSwizzleAtomBytes;
  const Barriers barriers{smem + Layout<kHeadDim>::kBarriers};
  if (threadIdx.x == 0) {
    constexpr int kComputeWarps = 8;
    for (int stage = 0; stage < kStages; ++stage) {
      barrier_init(barriers.k_full(stage), kGroupThreads);
      barrier_init(barriers.v_full(stage), kGroupThreads);
      barrier_init(barriers.k_empty(stage), kComputeWarps);
      barrier_init(barriers.v_empty(stage), kComputeWarps);
    }
  }
  __syncthreads();
  begin_after_previous();
  if (threadIdx.x < kGroupThreads) {
    give_registers<kLoaderRegisters>();
    load_tiles<kType, kHeadDim>(args, smem, barriers);
  } else {
    take_registers<kComputeRegisters>();
    compute_rows<kType, kHeadDim>(args, smem, barriers);
  }
}

template <KvType kType, int kHeadDim>
cudaError_t launch(const PrefillAttentionArgs& args, int num_sms, cudaStream_t stream) {
  constexpr int kSmem = Layout<kHeadDim>::kBytes;
  const auto kernel = prefill_warpgroups_kernel<kType, kHeadDim>;
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSmem);
  if (error != cudaSuccess) return error;
  const int num_pairs = args.num_tiles * args.num_kv_heads;
  const auto grid = static_cast<unsigned>(num_pairs < num_sms ? num_pairs : num_sms);
  return launch_overlapped(kernel, {grid, kThreads, kSmem}, stream, args);
}

}  // namespace

cudaError_t prefill_attention_warpgroups(const PrefillAttentionArgs& args, int num_sms,
                                         cudaStream_t stream) {
  if (args.num_tiles == 0) return cudaSuccess;
  const bool is_e4m3 = args.kv_type == KvType::kE4M3;
  if (args.head_dim == 64) {
    return is_e4m3 ? launch<KvType::kE4M3, 64>(args, num_sms, stream)
                   : launch<KvType::kBF16, 64>(args, num_sms, stream);
  }
  if (args.head_dim == 128) {
    return is_e4m3 ? launch<KvType::kE4M3, 128>(args, num_sms, stream)
                   : launch<KvType::kBF16, 128>(args, num_sms, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace slipstream::cuda
