// y[M, N] = x[M, K] W[N, K]^T for M <= 64: the time of reading W once.
//
// The matrix is cut into tiles of 128 rows by slabs of 128 bytes of K; a persistent grid of two
// CTAs an SM takes an equal, contiguous share of all slabs, whatever the shape (stream-K). A tile
// whose slabs went to several CTAs is summed in f32 by the last of them to finish, in the order of
// K, so the result does not depend on timing. Slabs of W and x pass through a ring of shared memory
// filled by cp.async; W rows are the M of mma.sync, tokens its N. Weights do not depend on the
// kernel before, so their first slabs are requested before waiting for it. Bound: memory.
// Reference: ops/cpu/ref linear.
#include "ops/cuda/common/launch.cuh"
#include "ops/cuda/common/ptx.cuh"
#include "ops/cuda/linear/skinny.h"

namespace slipstream::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kTileRows = 128;
constexpr int kSlabBytes = 128;
constexpr int kWBytes = kTileRows * kSlabBytes;
constexpr int kCtasPerSm = 2;
constexpr int kMaxTiles = 4096;  // counters in the workspace

// 16-byte chunk `chunk` of row `row`, swizzled so that 8 rows fall into different banks.
__device__ __forceinline__ uint32_t slab_offset(int row, int chunk) {
  return static_cast<uint32_t>(row * kSlabBytes + ((chunk ^ (row & 7)) << 4));
}

template <bool kFp8, int kTokenBlocks>
struct Shape {
  static constexpr int kTokens = 8 * kTokenBlocks;
  static constexpr int kXBytes = kTokens * kSlabBytes;
  static constexpr int kStageBytes = kWBytes + kXBytes;
  static constexpr int kStages = kTokenBlocks >= 8 ? 4 : kTokenBlocks >= 4 ? 5 : 6;
};

template <bool kFp8, int kTokenBlocks>
__global__ void __launch_bounds__(kThreads, kCtasPerSm)
    skinny_kernel(const __grid_constant__ SkinnyArgs args) {
  using S = Shape<kFp8, kTokenBlocks>;
  constexpr int kElementBytes = kFp8 ? 1 : 2;
  extern __shared__ __align__(128) unsigned char smem[];
  __shared__ bool is_last;
  const int warp = threadIdx.x >> 5;
  const int lane = threadIdx.x & 31;
  const int64_t row_bytes = int64_t{args.num_cols} * kElementBytes;
  const int slabs = static_cast<int>(row_bytes / kSlabBytes);
  const int tiles = (args.num_rows + kTileRows - 1) / kTileRows;
  const int64_t total = int64_t{tiles} * slabs;
  const int64_t begin = total * blockIdx.x / gridDim.x;
  const int64_t end = total * (blockIdx.x + 1) / gridDim.x;
  const auto* const w = static_cast<const unsigned char*>(args.w);
  const auto* const x = static_cast<const unsigned char*>(args.x);
  const uint32_t ring = smem_address(smem);

  auto fetch_w = [&](int64_t slab, int stage) {
    const int tile = static_cast<int>(slab / slabs);
    const int64_t k = (slab % slabs) * kSlabBytes;
    const uint32_t to = ring + static_cast<uint32_t>(stage * S::kStageBytes);
#pragma unroll
    for (int i = threadIdx.x; i < kWBytes / 16; i += kThreads) {
      const int row = i >> 3;
      const int source_row = min(tile * kTileRows + row, args.num_rows - 1);
      cp_async_16(to + slab_offset(row, i & 7), w + source_row * row_bytes + k + (i & 7) * 16);
    }
  };
  auto fetch_x = [&](int64_t slab, int stage) {
    const int64_t k = (slab % slabs) * kSlabBytes;
    const uint32_t to = ring + static_cast<uint32_t>(stage * S::kStageBytes + kWBytes);
#pragma unroll
    for (int i = threadIdx.x; i < S::kXBytes / 16; i += kThreads) {
      const int row = i >> 3;
      const int source_row = min(row, args.num_tokens - 1);
      cp_async_16(to + slab_offset(row, i & 7), x + source_row * row_bytes + k + (i & 7) * 16);
    }
  };

#pragma unroll
  for (int stage = 0; stage < S::kStages - 1; ++stage) {
    if (begin + stage < end) fetch_w(begin + stage, stage);
  }
  begin_after_previous();  // weights need not wait for the kernel before
#pragma unroll
  for (int stage = 0; stage < S::kStages - 1; ++stage) {
    if (begin + stage < end) fetch_x(begin + stage, stage);
    cp_async_commit();
  }

  float acc[2][kTokenBlocks][4];
  auto clear = [&] {
#pragma unroll
    for (auto& half : acc) {
#pragma unroll
      for (auto& block : half) block[0] = block[1] = block[2] = block[3] = 0.0f;
    }
  };
  clear();

  auto* const counters = static_cast<int*>(args.workspace);
  // [CTA][2 ends][warp][16 x kTokenBlocks accumulators][lane]: first and last tile of a share.
  float* const partials = reinterpret_cast<float*>(counters + kMaxTiles);
  constexpr int kPartial = 4 * 2 * kTokenBlocks * 4 * 32;
  auto owner = [&](int64_t slab) {  // the CTA whose share holds the slab
    int64_t cta = slab * gridDim.x / total;
    while (total * (cta + 1) / gridDim.x <= slab) ++cta;
    while (total * cta / gridDim.x > slab) --cta;
    return static_cast<int>(cta);
  };
  auto partial_of = [&](int cta, int tile) {
    // A share's first tile goes to slot 0; any other incomplete one is its last.
    const int first_tile = static_cast<int>((total * cta / gridDim.x) / slabs);
    return partials + (int64_t{cta} * 2 + (first_tile == tile ? 0 : 1)) * kPartial;
  };
  auto store_tile = [&](int tile) {
    auto* const y = static_cast<__nv_bfloat16*>(args.y);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int upper = 0; upper < 2; ++upper) {
        const int row = tile * kTileRows + warp * 32 + half * 16 + upper * 8 + (lane >> 2);
        if (row >= args.num_rows) continue;
        const float w_scale = kFp8 ? args.w_scale[row] : 1.0f;
#pragma unroll
        for (int block = 0; block < kTokenBlocks; ++block) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const int token = block * 8 + 2 * (lane & 3) + e;
            if (token >= args.num_tokens) continue;
            const float x_scale = kFp8 ? args.x_scale[token] : 1.0f;
            y[token * args.y_stride + row] =
                __float2bfloat16(acc[half][block][2 * upper + e] * w_scale * x_scale);
          }
        }
      }
    }
  };
  // The tile's slabs in [from, to) are summed here; others may hold the rest.
  auto finish_tile = [&](int64_t from, int64_t to) {
    const int tile = static_cast<int>(from / slabs);
    const int64_t tile_begin = int64_t{tile} * slabs;
    const int64_t tile_end = tile_begin + slabs;
    if (from == tile_begin && to == tile_end) {
      store_tile(tile);
      return;
    }
    float* const mine = partial_of(blockIdx.x, tile) + warp * (kPartial / 4) + lane;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int block = 0; block < kTokenBlocks; ++block) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          __stcg(mine + ((half * kTokenBlocks + block) * 4 + i) * 32, acc[half][block][i]);
        }
      }
    }
    const int first_cta = owner(tile_begin);
    const int last_cta = owner(tile_end - 1);
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
      is_last = atomicAdd(counters + tile, 1) == last_cta - first_cta;
      if (is_last) counters[tile] = 0;
    }
    __syncthreads();
    if (!is_last) return;
    __threadfence();
    clear();
    for (int cta = first_cta; cta <= last_cta; ++cta) {
      const float* const theirs = partial_of(cta, tile) + warp * (kPartial / 4) + lane;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int block = 0; block < kTokenBlocks; ++block) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            acc[half][block][i] += __ldcg(theirs + ((half * kTokenBlocks + block) * 4 + i) * 32);
          }
        }
      }
    }
    store_tile(tile);
  };

  int stage = 0;
  int64_t from = begin;
  for (int64_t slab = begin; slab < end; ++slab) {
    cp_async_wait<S::kStages - 2>();
    __syncthreads();
    const int next_stage = stage == 0 ? S::kStages - 1 : stage - 1;
    if (slab + S::kStages - 1 < end) {
      fetch_w(slab + S::kStages - 1, next_stage);
      fetch_x(slab + S::kStages - 1, next_stage);
    }
    cp_async_commit();
    const uint32_t w_smem = ring + static_cast<uint32_t>(stage * S::kStageBytes);
    const uint32_t x_smem = w_smem + kWBytes;
    const int w_row = warp * 32 + (lane & 7) + ((lane >> 3) & 1) * 8;
#pragma unroll
    for (int step = 0; step < 4; ++step) {  // 32 bytes of K
      uint32_t a[2][4];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        ldmatrix_x4(a[half], w_smem + slab_offset(w_row + half * 16, 2 * step + (lane >> 4)));
      }
      if constexpr (kTokenBlocks == 1) {
        uint32_t b[4];  // only the first two are used
        ldmatrix_x4(b, x_smem + slab_offset(lane & 7, 2 * step + ((lane >> 3) & 1)));
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          if constexpr (kFp8) {
            mma_e4m3(acc[half][0], a[half], b[0], b[1]);
          } else {
            mma_bf16(acc[half][0], a[half][0], a[half][1], a[half][2], a[half][3], b[0], b[1]);
          }
        }
      } else {
#pragma unroll
        for (int block = 0; block < kTokenBlocks; block += 2) {
          uint32_t b[4];  // (block, chunk 0), (block, chunk 1), (block + 1, ...)
          ldmatrix_x4(b, x_smem + slab_offset(block * 8 + (lane & 7) + (lane >> 4) * 8,
                                              2 * step + ((lane >> 3) & 1)));
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            if constexpr (kFp8) {
              mma_e4m3(acc[half][block], a[half], b[0], b[1]);
              mma_e4m3(acc[half][block + 1], a[half], b[2], b[3]);
            } else {
              mma_bf16(acc[half][block], a[half][0], a[half][1], a[half][2], a[half][3], b[0],
                       b[1]);
              mma_bf16(acc[half][block + 1], a[half][0], a[half][1], a[half][2], a[half][3], b[2],
                       b[3]);
            }
          }
        }
      }
    }
    if ((slab + 1) % slabs == 0 || slab + 1 == end) {
      finish_tile(from, slab + 1);
      clear();
      from = slab + 1;
    }
    stage = stage + 1 == S::kStages ? 0 : stage + 1;
  }
  cp_async_wait<0>();
}

template <bool kFp8, int kTokenBlocks>
cudaError_t launch(const SkinnyArgs& args, int num_sms, cudaStream_t stream) {
  using S = Shape<kFp8, kTokenBlocks>;
  const auto kernel = skinny_kernel<kFp8, kTokenBlocks>;
  constexpr int kSmem = S::kStages * S::kStageBytes;
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSmem);
  if (error != cudaSuccess) return error;
  const int64_t tiles = (args.num_rows + kTileRows - 1) / kTileRows;
  const int64_t slabs = int64_t{args.num_cols} * (kFp8 ? 1 : 2) / kSlabBytes;
  // Every CTA has work: the last of a tile to finish counts on all of them.
  const int64_t ctas = tiles * slabs < num_sms * kCtasPerSm ? tiles * slabs : num_sms * kCtasPerSm;
  return launch_overlapped(kernel, {static_cast<unsigned>(ctas), kThreads, kSmem}, stream, args);
}

template <bool kFp8>
cudaError_t launch_tokens(const SkinnyArgs& args, int num_sms, cudaStream_t stream) {
  const int row_bytes = args.num_cols * (kFp8 ? 1 : 2);
  if (args.num_tokens < 1 || args.num_tokens > kSkinnyMaxTokens || row_bytes % kSlabBytes != 0 ||
      args.num_rows > kMaxTiles * kTileRows) {
    return cudaErrorInvalidValue;
  }
  if (args.num_tokens <= 8) return launch<kFp8, 1>(args, num_sms, stream);
  if (args.num_tokens <= 16) return launch<kFp8, 2>(args, num_sms, stream);
  if (args.num_tokens <= 32) return launch<kFp8, 4>(args, num_sms, stream);
  return launch<kFp8, 8>(args, num_sms, stream);
}

}  // namespace

size_t skinny_workspace_bytes(int num_sms) {
  return kMaxTiles * sizeof(int) +
         size_t(num_sms) * kCtasPerSm * 2 * (4 * 2 * 8 * 4 * 32) * sizeof(float);
}

cudaError_t skinny_e4m3(const SkinnyArgs& args, int num_sms, cudaStream_t stream) {
  return launch_tokens<true>(args, num_sms, stream);
}
cudaError_t skinny_bf16(const SkinnyArgs& args, int num_sms, cudaStream_t stream) {
  return launch_tokens<false>(args, num_sms, stream);
}

}  // namespace slipstream::cuda
