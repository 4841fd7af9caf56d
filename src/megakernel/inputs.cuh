// Consumer warps: the inputs of their products, awaited and put where fragments are loaded from.
//
// x enters as two values that add up to it, rounded and what that lost, in two columns of the
// multiply-accumulate: products of bf16 weights take two bf16, those of E4M3 two f16 of x scaled by
// a power of two, those of INT4 the two bytes of a 15-bit integer.
#pragma once

#include "megakernel/consumer.cuh"

namespace slipstream::megakernel {

// Four values a lane of a slice, to where fragments are loaded from; where formats are is_scaled()
// times `scale`. Lane t of a multiply-accumulate takes columns 32 t to 32 t + 31, in units of 16
// bytes: 8 columns, of INT4 16. The units that are loaded together lie side by side.
template <typename Model>
__device__ __forceinline__ void Consumer<Model>::put_x(StreamFormat format, int slice,
                                                       const float* v, float scale) {
  if (format == StreamFormat::kI4) {
    const uint32_t to = at.smem + Map::x + slice * Map::slice_bytes(format) + (at.lane >> 3) * 16 +
                        ((at.lane & 7) >> 2) * (2 * Map::kUnitRow) + (at.lane & 3) * 4;
    int x[4];
    int high[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      x[i] = __float2int_rn(v[i] * scale);
      high[i] = (x[i] + 128) >> 8;  // so that the low byte is a signed one
    }
    sts32(to, bytes_of(high[0], high[1], high[2], high[3]));
    sts32(to + Map::kUnitRow, bytes_of(x[0], x[1], x[2], x[3]));
    return;
  }
  const uint32_t to = x_address(slice);
  if (format == StreamFormat::kBF16) {
    const uint32_t low = pack_bf16(v[0], v[1]);
    const uint32_t high = pack_bf16(v[2], v[3]);
    sts64(to, low, high);
    sts64(to + Map::kUnitRow, pack_bf16(v[0] - bf16_low(low), v[1] - bf16_high(low)),
          pack_bf16(v[2] - bf16_low(high), v[3] - bf16_high(high)));
  } else {
    float s[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) s[i] = v[i] * scale;
    const uint32_t low = pack_f16(s[0], s[1]);
    const uint32_t high = pack_f16(s[2], s[3]);
    const float2 rounded_low = unpack_f16(low);
    const float2 rounded_high = unpack_f16(high);
    sts64(to, low, high);
    sts64(to + Map::kUnitRow, pack_f16(s[0] - rounded_low.x, s[1] - rounded_low.y),
          pack_f16(s[2] - rounded_high.x, s[3] - rounded_high.y));
  }
}

// What values are multiplied with before they are rounded, and what undoes it, by the largest
// magnitude (its bits) of all that a warp multiplies, which becomes at least 2^exponent and less
// than 2^(exponent + 1).
__device__ __forceinline__ float scale_for(uint32_t most, int exponent, float& inverse) {
  most = __reduce_max_sync(~0u, most);
  const int of_most = min(max(static_cast<int>(most >> 23), 32), 220) - 127;
  inverse = __int_as_float((127 - exponent + of_most) << 23);
  return __int_as_float((127 + exponent - of_most) << 23);
}
constexpr int kE4M3Exponent = 11;
constexpr int kI4Exponent = 13;

// Brings the weights of the norm before a product to the second cache while x is awaited: from
// memory they would come later than x. One CTA does it for all.
template <typename Model>
__device__ __forceinline__ void Consumer<Model>::prefetch_norm(Step step) {
  if (step.product() == kOut || step.product() == kDown) return;
  const int line = at.cta * static_cast<int>(kConsumerWarps) + static_cast<int>(at.warp);
  constexpr int kLineValues = 32;
  if (at.lane == 0 && line * kLineValues < p.hidden) {
    const float* const weights =
        p.norms + (2 * step.layer() + (step.product() == kGateUp)) * p.hidden;
    asm volatile("prefetch.global.L2 [%0];" ::"l"(weights + line * kLineValues));
  }
}

// The input of q k v, o, gate-up or the LM head, as far as this warp multiplies it.
template <typename Model>
__device__ __forceinline__ float Consumer<Model>::get_x(StreamFormat format, Step step) {
  constexpr int kXRounds = kMostScaledRounds;  // that are awaited together
  const int product = step.product();
  const int layer = step.layer();
  const ProductPhase& phase = p.products[product];
  const int uses = step.token() * p.num_layers + layer;  // of vectors; of x twice
  const uint32_t* const words =
      (product == kOut      ? p.attention_words + (uses & 1) * p.attention_width
       : product == kGateUp ? p.x_words
                            : p.x_words + p.hidden) +
      at.lane * 4;
  const uint32_t tag = (product == kOut      ? uses + 1
                        : product == kGateUp ? 2 * uses + 1
                                             : 2 * uses) &
                       kTagMask;
  const float* const norms = p.norms + (2 * layer + (product == kGateUp)) * p.hidden + at.lane * 4;
  const bool is_embedding = step.packed % Step::kTokenUnit == 0;
  const uint16_t* const row =
      p.embed + static_cast<int64_t>(lds32(at.smem + Map::token)) * p.hidden + at.lane * 4;
  float squares = 0.0f;
  float inverse_scale = 1.0f;
#pragma unroll 1
  for (int first = 0; first < phase.num_rounds; first += kXRounds) {
    uint4 w[kXRounds];
    float4 norm[kXRounds];
    bool mine[kXRounds];
    int slices[kXRounds];
#pragma unroll
    for (int i = 0; i < kXRounds; ++i) {
      mine[i] = first + i < phase.num_rounds && my_slice(phase, first + i, slices[i]);
      // Columns that fill up a slice are zeros.
      const bool there =
          mine[i] && slices[i] * kSliceCols + static_cast<int>(at.lane) * 4 < phase.num_cols;
      norm[i] = make_float4(1.0f, 1.0f, 1.0f, 1.0f);
      if (there && product != kOut) {
        norm[i] = __ldg(reinterpret_cast<const float4*>(norms + slices[i] * kSliceCols));
      }
      w[i] = make_uint4(tag, tag, tag, tag);
      if (there && !is_embedding) w[i] = poll4(words + slices[i] * kSliceCols);
      if (there && is_embedding) {
        const uint2 e = __ldg(reinterpret_cast<const uint2*>(row + slices[i] * kSliceCols));
        w[i] = make_uint4(e.x << 16 | tag, (e.x & 0xffff0000u) | tag, e.y << 16 | tag,
                          (e.y & 0xffff0000u) | tag);
      }
    }
    float v[kXRounds][4];
    uint32_t most = 0;
#pragma unroll
    for (int i = 0; i < kXRounds; ++i) {
      if (!mine[i]) break;
      uint32_t num_waits = 0;
      while ((((w[i].x ^ tag) | (w[i].y ^ tag) | (w[i].z ^ tag) | (w[i].w ^ tag)) & kTagMask) !=
             0) {
        if (give_up(num_waits, p.abort)) break;
        w[i] = poll4(words + slices[i] * kSliceCols);
      }
      const float x[4] = {from_word(w[i].x), from_word(w[i].y), from_word(w[i].z),
                          from_word(w[i].w)};
      squares += x[0] * x[0] + x[1] * x[1] + x[2] * x[2] + x[3] * x[3];
      v[i][0] = x[0] * norm[i].x, v[i][1] = x[1] * norm[i].y;
      v[i][2] = x[2] * norm[i].z, v[i][3] = x[3] * norm[i].w;
#pragma unroll
      for (int j = 0; j < 4; ++j) most = max(most, __float_as_uint(v[i][j]) & 0x7fffffffu);
    }
    float scale = 1.0f;
    if (is_scaled(format)) {
      scale =
          scale_for(most, format == StreamFormat::kI4 ? kI4Exponent : kE4M3Exponent, inverse_scale);
    }
#pragma unroll
    for (int i = 0; i < kXRounds; ++i) {
      if (mine[i]) put_x(format, slices[i], v[i], scale);
    }
  }
#pragma unroll
  for (int step_size = 16; step_size != 0; step_size /= 2) {
    squares += __shfl_xor_sync(~0u, squares, step_size);
  }
  if (at.lane == 0) sts_float(at.smem + Map::squares + at.warp * 4, squares);
  __syncwarp();
  return inverse_scale;
}

// The input of down: words of two f16, a sixteenth of the value each, whose lowest bit tells the
// uses of a buffer apart.
template <typename Model>
__device__ __forceinline__ float Consumer<Model>::get_mlp(const ProductPhase& phase, int uses) {
  constexpr bool kIsI4 = Model::kLayers == StreamFormat::kI4;
  constexpr int kAtOnce = kIsI4 ? kMostI4DownRounds : 8;
  float inverse_scale = 1.0f;
  const uint32_t bit = ((uses >> 1) & 1) ^ 1;
  const uint32_t* const words = p.mlp_words + (uses & 1) * (phase.num_cols / 2) + at.lane * 2;
#pragma unroll 1
  for (int first = 0; first < phase.num_rounds; first += kAtOnce) {
    uint2 w[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      int slice;
      const bool mine = first + i < phase.num_rounds && my_slice(phase, first + i, slice) &&
                        slice * kSliceCols + static_cast<int>(at.lane) * 4 < phase.num_cols;
      w[i] = mine ? poll2(words + slice * (kSliceCols / 2)) : make_uint2(bit, bit);
    }
    uint32_t most = 0;  // of each word's halves, without signs
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      int slice;
      if (first + i >= phase.num_rounds || !my_slice(phase, first + i, slice)) break;
      uint32_t num_waits = 0;
      while ((((w[i].x ^ bit) | (w[i].y ^ bit)) & 1) != 0) {
        if (give_up(num_waits, p.abort)) break;
        w[i] = poll2(words + slice * (kSliceCols / 2));
      }
      if constexpr (kIsI4) {
        most = __vmaxu2(most, __vmaxu2(w[i].x & 0x7fff7fffu, w[i].y & 0x7fff7fffu));
      }
    }
    // The sixteenths are multiplied: the factor of the sums is 16 times as large.
    float scale = 1.0f;
    if constexpr (kIsI4) {
      const float2 largest = unpack_f16(most);
      scale = scale_for(__float_as_uint(fmaxf(largest.x, largest.y)), kI4Exponent, inverse_scale);
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      int slice;
      if (first + i >= phase.num_rounds || !my_slice(phase, first + i, slice)) break;
      if constexpr (Model::kLayers == StreamFormat::kF8E4M3) {  // f16 is what its products take
        const uint32_t to = x_address(slice);
        sts64(to, w[i].x, w[i].y);
        sts64(to + Map::kUnitRow, 0, 0);
      } else {
        const float2 low = unpack_f16(w[i].x);
        const float2 high = unpack_f16(w[i].y);
        constexpr float kWhole = kIsI4 ? 1.0f : 16.0f;
        const float v[4] = {low.x * kWhole, low.y * kWhole, high.x * kWhole, high.y * kWhole};
        put_x(Model::kLayers, slice, v, scale);
      }
    }
  }
  __syncwarp();
  return Model::kLayers == StreamFormat::kBF16 ? 1.0f : 16.0f * inverse_scale;
}

}  // namespace slipstream::megakernel
