// bias, norm of heads, rotary embedding, and the write of K and V to their pages.
//
// A block a token; its warps take the heads in turn, two at a time so that loads overlap, and keep
// the token's cosines and sines in registers. Bytes: qkv once, q once back, K and V once into
// pages. Bound: memory. Reference: head_rms_norm, rope and kv_append of ops/cpu/ref, one after the
// other.
#include "ops/cuda/common/reduce.cuh"
#include "ops/cuda/common/vec.cuh"
#include "ops/cuda/qkv.h"

namespace slipstream::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kBlockSize = 16;

// Dimensions of a head that a lane holds: pairs, as they are loaded. Heads of 80 and 96 leave the
// last lanes without any.
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

// What a lane needs of its token's rotation: of each of its dimensions the partner in the pair, the
// cosine, and the sine with the sign that the dimension's place in the pair gives it.
template <int kHeadDim>
struct Rotation {
  static constexpr int kPerLane = kDimsPerLane<kHeadDim>;
  int partner[kPerLane];
  float cosine[kPerLane];
  float sine[kPerLane];

  __device__ __forceinline__ void load(const QkvArgs& a, int token, int lane) {
    const float* const cos_sin = a.cos_sin + int64_t{token} * a.rotary_dim;
    const int half = a.rotary_dim / 2;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const int dim = lane * kPerLane + i;
      partner[i] = dim;
      cosine[i] = 1.0f;
      sine[i] = 0.0f;
      if (dim >= a.rotary_dim) continue;
      const int pair = a.interleaved ? dim / 2 : dim % half;
      const bool first = a.interleaved ? dim % 2 == 0 : dim < half;
      partner[i] = a.interleaved ? dim ^ 1 : first ? dim + half : dim - half;
      cosine[i] = cos_sin[pair];
      sine[i] = first ? -cos_sin[half + pair] : cos_sin[half + pair];
    }
  }
};

template <int kPerLane>
__device__ __forceinline__ void load_row(const __nv_bfloat16* row, float (&x)[kPerLane]) {
#pragma unroll
  for (int i = 0; i < kPerLane; i += 2) {
    const float2 two = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(row + i));
    x[i] = two.x;
    x[i + 1] = two.y;
  }
}
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
  if (!is_v) {
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) exchange[dim0 + i] = x[i];
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      x[i] = x[i] * rotation.cosine[i] + exchange[rotation.partner[i]] * rotation.sine[i];
    }
  }
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
  Rotation<kHeadDim> rotation;
  rotation.load(a, token, lane);
  const bool holds = holds_dims<kHeadDim>(lane);
  for (int slice = warp; slice < num_slices; slice += 2 * kWarps) {
    const int other = slice + kWarps;
    float x[kPerLane] = {};
    float y[kPerLane] = {};
    if (holds) load_row<kPerLane>(rows + slice * kHeadDim, x);
    if (holds && other < num_slices) load_row<kPerLane>(rows + other * kHeadDim, y);
    finish_head<kHeadDim>(a, token, slice, lane, rotation, rows + slice * kHeadDim, exchange[warp],
                          x);
    if (other < num_slices) {
      finish_head<kHeadDim>(a, token, other, lane, rotation, rows + other * kHeadDim,
                            exchange[warp], y);
    }
  }
}

__global__ void rope_table_kernel(const int32_t* positions, const float* inv_freq, int rotary_dim,
                                  float attention_factor, float* cos_sin) {
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
  const auto grid = static_cast<unsigned>(args.num_tokens);
  switch (args.head_dim) {
    case 64:
      norm_rope_append_kernel<64><<<grid, kWarps * 32, 0, stream>>>(args);
      break;
    case 80:
      norm_rope_append_kernel<80><<<grid, kWarps * 32, 0, stream>>>(args);
      break;
    case 96:
      norm_rope_append_kernel<96><<<grid, kWarps * 32, 0, stream>>>(args);
      break;
    case 128:
      norm_rope_append_kernel<128><<<grid, kWarps * 32, 0, stream>>>(args);
      break;
    case 256:
      norm_rope_append_kernel<256><<<grid, kWarps * 32, 0, stream>>>(args);
      break;
    default:
      return cudaErrorInvalidValue;
  }
  return cudaGetLastError();
}

cudaError_t rope_table(const int32_t* positions, int num_tokens, const float* inv_freq,
                       int rotary_dim, float attention_factor, float* cos_sin,
                       cudaStream_t stream) {
  if (num_tokens == 0) return cudaSuccess;
  rope_table_kernel<<<static_cast<unsigned>(num_tokens), 64, 0, stream>>>(
      positions, inv_freq, rotary_dim, attention_factor, cos_sin);
  return cudaGetLastError();
}

}  // namespace slipstream::cuda
