// bias, norm of heads, rotary embedding, and the write of K and V to their pages.
//
// A block a token; its warps take the heads in turn, several at a time so that loads overlap, and
// keep the token's cosines and sines in registers. Bytes: qkv once, q once back, K and V once into
// pages. Bound: memory. Reference: head_rms_norm, rope and kv_append of ops/cpu/ref, one after the
// other.
#include "ops/cuda/common/launch.cuh"
#include "ops/cuda/common/reduce.cuh"
#include "ops/cuda/common/vec.cuh"
#include "ops/cuda/qkv.h"

namespace slipstream::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kAtOnce = 3;  // heads a warp has under way
constexpr int kBlockSize = 16;

// Dimensions of a head that a lane holds: pairs, as they are loaded. Heads of 16, 32, 80 and 96
// leave the last lanes without any.
template <int kHeadDim>
constexpr int kDimsPerLane = kHeadDim <= 64    ? 2
                             : kHeadDim <= 128 ? 4
                                               : 8;
template <int kHeadDim>
__device__ __forceinline__ bool holds_dims(int lane) {
  constexpr int kPerLane = kDimsPerLane<kHeadDim>;
  static_assert(kHeadDim % kPerLane == 0 && kHeadDim <= 32 * kPerLane, "whole lanes");
  return kHeadDim == 32 * kPerLane || lane * kPerLane < kHeadDim;
}

// What a lane needs of its token's rotation: where the partners of its dimensions are, their
// cosines, and their sines with the sign that a dimension's place in the pair gives it.
template <int kHeadDim>
struct Rotation {
  static constexpr int kPerLane = kDimsPerLane<kHeadDim>;
  float cosine[kPerLane];
  float sine[kPerLane];
  int partner_lane;  // of all of the lane's dimensions; -1: they are in several

  __device__ __forceinline__ void load(const QkvArgs& a, int token, int lane) {
    const float* const cos_sin = a.cos_sin + int64_t{token} * a.rotary_dim;
    const int half = a.rotary_dim / 2;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const int dim = lane * kPerLane + i;
      cosine[i] = 1.0f;
      sine[i] = 0.0f;
      if (dim >= a.rotary_dim) continue;
      const bool first = a.interleaved ? dim % 2 == 0 : dim < half;
      const int pair = a.interleaved ? dim / 2 : first ? dim : dim - half;
      cosine[i] = cos_sin[pair];
      sine[i] = first ? -cos_sin[half + pair] : cos_sin[half + pair];
    }
    const int lanes = half / kPerLane;
    partner_lane = lane < lanes ? lane + lanes : lane < 2 * lanes ? lane - lanes : lane;
    if (half % kPerLane != 0) partner_lane = -1;
  }

  // The dimension that is paired with `dim`.
  __device__ __forceinline__ static int partner(const QkvArgs& a, int dim) {
    const int half = a.rotary_dim / 2;
    return dim >= a.rotary_dim ? dim : dim < half ? dim + half : dim - half;
  }

  __device__ __forceinline__ void apply(const QkvArgs& a, int lane, float* exchange,
                                        float (&x)[kPerLane]) const {
    float other[kPerLane];
    if (a.interleaved) {
#pragma unroll
      for (int i = 0; i < kPerLane; ++i) other[i] = x[i ^ 1];
    } else if (partner_lane >= 0) {
#pragma unroll
      for (int i = 0; i < kPerLane; ++i) other[i] = __shfl_sync(~0u, x[i], partner_lane);
    } else {
      const int dim0 = lane * kPerLane;
      __syncwarp();
#pragma unroll
      for (int i = 0; i < kPerLane; ++i) exchange[dim0 + i] = x[i];
      __syncwarp();
#pragma unroll
      for (int i = 0; i < kPerLane; ++i) other[i] = exchange[partner(a, dim0 + i)];
    }
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) x[i] = x[i] * cosine[i] + other[i] * sine[i];
  }
};

// A lane's dimensions of a head, as they are in memory: half the registers while they are waited
// for.
template <int kPerLane>
struct RawDims {
  __nv_bfloat162 pairs[kPerLane / 2];

  __device__ __forceinline__ void load(const __nv_bfloat16* row) {
#pragma unroll
    for (int i = 0; i < kPerLane / 2; ++i) {
      pairs[i] = reinterpret_cast<const __nv_bfloat162*>(row)[i];
    }
  }
  __device__ __forceinline__ void to_floats(float (&x)[kPerLane]) const {
#pragma unroll
    for (int i = 0; i < kPerLane / 2; ++i) {
      const float2 two = __bfloat1622float2(pairs[i]);
      x[2 * i] = two.x;
      x[2 * i + 1] = two.y;
    }
  }
};
template <int kPerLane>
__device__ __forceinline__ void store_row(__nv_bfloat16* row, const float (&x)[kPerLane]) {
#pragma unroll
  for (int i = 0; i < kPerLane; i += 2) {
    *reinterpret_cast<__nv_bfloat162*>(row + i) = __floats2bfloat162_rn(x[i], x[i + 1]);
  }
}

// One head: bias, norm, rotation, and where it goes.
template <int kHeadDim>
__device__ __forceinline__ void finish_head(const QkvArgs& a, int token, int slice, int lane,
                                            const Rotation<kHeadDim>& rotation, __nv_bfloat16* row,
                                            float* exchange, float (&x)[kDimsPerLane<kHeadDim>]) {
  constexpr int kPerLane = kDimsPerLane<kHeadDim>;
  const bool is_q = slice < a.num_heads;
  const bool is_v = slice >= a.num_heads + a.num_kv_heads;
  const int dim0 = lane * kPerLane;
  const bool holds = holds_dims<kHeadDim>(lane);
  if (a.bias != nullptr && holds) {
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) x[i] += a.bias[slice * kHeadDim + dim0 + i];
  }
  const float* const norm = is_q ? a.q_norm : a.k_norm;
  if (!is_v && norm != nullptr) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) sum += x[i] * x[i];
    const float factor = rsqrtf(warp_reduce<Sum>(sum) / kHeadDim + a.eps);
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) x[i] *= holds ? factor * norm[dim0 + i] : 0.0f;
  }
  if (!is_v) rotation.apply(a, lane, exchange, x);
  if (!holds) return;
  if (is_q) {
    store_row<kPerLane>(row, x);
    return;
  }
  const int kv_head = slice - a.num_heads - (is_v ? a.num_kv_heads : 0);
  const int64_t slot = a.slot_mapping[token];
  if (slot < 0) return;  // a row that only fills the batch
  const int64_t to =
      ((slot / kBlockSize * a.num_kv_heads + kv_head) * kBlockSize + slot % kBlockSize) * kHeadDim +
      dim0;
  void* const pages = is_v ? a.v_pages : a.k_pages;
  if (a.kv_type == KvType::kE4M3) {
    const float* const scales = is_v ? a.v_scale : a.k_scale;
    const float inverse = scales != nullptr ? 1.0f / scales[kv_head] : 1.0f;
    auto* const out = static_cast<uint8_t*>(pages) + to;
#pragma unroll
    for (int i = 0; i < kPerLane; i += 2) {
      *reinterpret_cast<uint16_t*>(out + i) = __nv_cvt_float2_to_fp8x2(
          make_float2(x[i] * inverse, x[i + 1] * inverse), __NV_SATFINITE, __NV_E4M3);
    }
  } else {
    store_row<kPerLane>(static_cast<__nv_bfloat16*>(pages) + to, x);
  }
}

template <int kHeadDim>
__global__ void __launch_bounds__(kWarps * 32)
    norm_rope_append_kernel(const __grid_constant__ QkvArgs a) {
  constexpr int kPerLane = kDimsPerLane<kHeadDim>;
  __shared__ float exchange[kWarps][32 * kPerLane];
  const int warp = threadIdx.x >> 5;
  const int lane = threadIdx.x & 31;
  const int num_slices = a.num_heads + 2 * a.num_kv_heads;
  const int token = blockIdx.x;
  auto* const rows =
      static_cast<__nv_bfloat16*>(a.qkv) + int64_t{token} * num_slices * kHeadDim + lane * kPerLane;
  begin_after_previous();
  Rotation<kHeadDim> rotation;
  rotation.load(a, token, lane);
  const bool holds = holds_dims<kHeadDim>(lane);
  for (int slice0 = warp; slice0 < num_slices; slice0 += kAtOnce * kWarps) {
    RawDims<kPerLane> raw[kAtOnce] = {};
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int slice = slice0 + i * kWarps;
      if (holds && slice < num_slices) raw[i].load(rows + slice * kHeadDim);
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int slice = slice0 + i * kWarps;
      if (slice >= num_slices) break;
      float x[kPerLane];
      raw[i].to_floats(x);
      finish_head<kHeadDim>(a, token, slice, lane, rotation, rows + slice * kHeadDim,
                            exchange[warp], x);
    }
  }
}

__global__ void rope_table_kernel(const int32_t* positions, const float* inv_freq, int rotary_dim,
                                  float attention_factor, float* cos_sin) {
  begin_after_previous();
  const int half = rotary_dim / 2;
  const float position = static_cast<float>(positions[blockIdx.x]);
  float* const row = cos_sin + int64_t{blockIdx.x} * rotary_dim;
  for (int i = threadIdx.x; i < half; i += blockDim.x) {
    float sine;
    float cosine;
    sincosf(position * inv_freq[i], &sine, &cosine);
    row[i] = cosine * attention_factor;
    row[half + i] = sine * attention_factor;
  }
}

}  // namespace

cudaError_t norm_rope_append(const QkvArgs& args, cudaStream_t stream) {
  if (args.num_tokens == 0) return cudaSuccess;
  const LaunchShape shape{static_cast<unsigned>(args.num_tokens), kWarps * 32};
  switch (args.head_dim) {
    case 16:
      return launch_overlapped(norm_rope_append_kernel<16>, shape, stream, args);
    case 32:
      return launch_overlapped(norm_rope_append_kernel<32>, shape, stream, args);
    case 64:
      return launch_overlapped(norm_rope_append_kernel<64>, shape, stream, args);
    case 80:
      return launch_overlapped(norm_rope_append_kernel<80>, shape, stream, args);
    case 96:
      return launch_overlapped(norm_rope_append_kernel<96>, shape, stream, args);
    case 128:
      return launch_overlapped(norm_rope_append_kernel<128>, shape, stream, args);
    case 256:
      return launch_overlapped(norm_rope_append_kernel<256>, shape, stream, args);
    default:
      return cudaErrorInvalidValue;
  }
}

cudaError_t rope_table(const int32_t* positions, int num_tokens, const float* inv_freq,
                       int rotary_dim, float attention_factor, float* cos_sin,
                       cudaStream_t stream) {
  if (num_tokens == 0) return cudaSuccess;
  return launch_overlapped(rope_table_kernel, {static_cast<unsigned>(num_tokens), 64}, stream,
                           positions, inv_freq, rotary_dim, attention_factor, cos_sin);
}

}  // namespace slipstream::cuda
