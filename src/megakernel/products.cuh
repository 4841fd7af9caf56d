// Consumer warps: their part of the products. Warp w multiplies the slices of columns that
// slice_round() gives it, of every row of its CTA, and leaves a sum a row to the reducer.
//
// x enters as two values that add up to it, rounded and what that lost, in two columns of the
// multiply-accumulate: products of bf16 weights take two bf16, those of E4M3 two f16 of x scaled by
// a power of two a slice.
#pragma once

#include "megakernel/attention_share.cuh"
#include "megakernel/shared_map.cuh"
#include "megakernel/words.cuh"

namespace slipstream::megakernel {

// Where a consumer warp stands: ring, sums, published phases.
struct ConsumerState {
  uint32_t stage = 0;  // pairs of ring slots
  uint32_t ring_parity = 0;
  uint32_t num_pairs = 0;
  uint32_t published_parity = 0;
  uint32_t num_waits = 0;
};

template <typename Model>
class Consumer {
  using Map = typename Model::Map;
  static constexpr int kHeadDim = Model::kHeadDim;

 public:
  __device__ Consumer(const DecodeArgs& args, const Place& place) : p(args), at(place) {}
  __device__ void run();

 private:
  const DecodeArgs& p;
  Place at;
  ConsumerState state;

  __device__ __forceinline__ uint32_t upper() const { return at.warp >= kConsumerWarps / 2; }
  __device__ __forceinline__ int warp_of_half() const {
    return static_cast<int>(at.warp) - (upper() ? kConsumerWarps / 2 : 0);
  }
  __device__ __forceinline__ uint32_t ring_slot() const {
    return at.smem + p.ring_offset + (state.stage * 2 + upper()) * kRingSlotBytes;
  }
  __device__ __forceinline__ void wait_stage() {
    wait(at.smem + Map::full + state.stage * 16 + upper() * 8, state.ring_parity);
  }
  // `loaded`: of the last load from the slot. Its address depends on it, so that the arrival does
  // not overtake loads that are still queued.
  __device__ __forceinline__ void free_stage(uint32_t loaded) {
    uint32_t zero;
    asm volatile("{.reg .u32 t; popc.b32 t,%1; shr.u32 %0,t,6;}" : "=r"(zero) : "r"(loaded));
    __syncwarp();
    arrive_if(zero + at.smem + Map::empty + state.stage * 16 + upper() * 8, at.lane == 0);
    if (++state.stage * 2 == static_cast<uint32_t>(p.num_ring_slots)) {
      state.stage = 0;
      state.ring_parity ^= 1;
    }
  }
  __device__ __forceinline__ void wait_published() {
    wait(at.smem + Map::published, state.published_parity);
    state.published_parity ^= 1;
  }
  __device__ __forceinline__ void get_values(const uint32_t* words, uint32_t tag, float* values) {
    uint4 w = poll4(words);
    while ((((w.x ^ tag) | (w.y ^ tag) | (w.z ^ tag) | (w.w ^ tag)) & kTagMask) != 0) {
      if (give_up(state.num_waits, p.abort)) break;
      w = poll4(words);
    }
    values[0] = from_word(w.x), values[1] = from_word(w.y);
    values[2] = from_word(w.z), values[3] = from_word(w.w);
  }

  // The warp's slice of a round; false: it has none.
  __device__ __forceinline__ bool my_slice(const ProductPhase& phase, int round, int& slice) const {
    const SliceRound slices = slice_round(phase.num_slices, round);
    const int lower = slices.lower();
    slice = slices.first + (upper() ? lower : 0) + warp_of_half();
    return warp_of_half() < (upper() ? slices.count - lower : lower);
  }

  __device__ __forceinline__ void put_x(StreamFormat format, int slice, const float* v);
  __device__ __forceinline__ void get_x(int product, int token, int layer);
  __device__ __forceinline__ void get_mlp(const ProductPhase& phase, int uses);
  template <StreamFormat kFormat>
  __device__ __forceinline__ void multiply(float (&sums)[2][4], const uint4& a, const uint4& b,
                                           uint32_t x);
  template <StreamFormat kFormat>
  __device__ __forceinline__ bool product(int idx, int token, int layer);
  __device__ __forceinline__ void attention(int token, int layer);
  __device__ __forceinline__ void put_heads(const AttentionShare& share, int position, int token,
                                            int layer, uint32_t tag);
};

// Four values a lane of a slice, to where fragments are loaded from.
template <typename Model>
__device__ __forceinline__ void Consumer<Model>::put_x(StreamFormat format, int slice,
                                                       const float* v) {
  const uint32_t to = at.smem + Map::x + slice * Map::kSliceBytes + at.lane * 8;
  if (format == StreamFormat::kBF16) {
    const uint32_t low = pack_bf16(v[0], v[1]);
    const uint32_t high = pack_bf16(v[2], v[3]);
    sts64(to, low, high);
    sts64(to + kSliceCols * 2, pack_bf16(v[0] - bf16_low(low), v[1] - bf16_high(low)),
          pack_bf16(v[2] - bf16_low(high), v[3] - bf16_high(high)));
  } else {
    const auto magnitude = [](float f) { return __float_as_uint(f) & 0x7fffffffu; };
    uint32_t most =
        max(max(magnitude(v[0]), magnitude(v[1])), max(magnitude(v[2]), magnitude(v[3])));
    most = __reduce_max_sync(~0u, most);
    // The largest becomes at least 2^11 and less than 2^12.
    const int exponent = min(max(static_cast<int>(most >> 23), 32), 220);
    const float scale = __int_as_float((127 + 11 - (exponent - 127)) << 23);
    float s[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) s[i] = v[i] * scale;
    const uint32_t low = pack_f16(s[0], s[1]);
    const uint32_t high = pack_f16(s[2], s[3]);
    const float2 rounded_low = unpack_f16(low);
    const float2 rounded_high = unpack_f16(high);
    sts64(to, low, high);
    sts64(to + kSliceCols * 2, pack_f16(s[0] - rounded_low.x, s[1] - rounded_low.y),
          pack_f16(s[2] - rounded_high.x, s[3] - rounded_high.y));
    if (at.lane == 0) {
      sts_float(at.smem + p.x_scales_offset + slice * 4,
                __int_as_float((127 - 11 + (exponent - 127)) << 23));
    }
  }
}

// The input of q k v, o, gate-up or the LM head, as far as this warp multiplies it.
template <typename Model>
__device__ __forceinline__ void Consumer<Model>::get_x(int product, int token, int layer) {
  const ProductPhase& phase = p.products[product];
  const int uses = token * p.num_layers + layer;  // of each vector but x, which has two a layer
  const bool normed = product != kOut;
  const uint32_t* words = product == kOut      ? p.attention_words + (uses & 1) * p.attention_width
                          : product == kGateUp ? p.x_words
                                               : p.x_words + p.hidden;
  const uint32_t tag = (product == kOut      ? uses + 1
                        : product == kGateUp ? 2 * uses + 1
                                             : 2 * uses) &
                       kTagMask;
  const float* const norm = p.norms + (2 * layer + (product == kGateUp)) * p.hidden;
  float squares = 0.0f;
#pragma unroll 1
  for (int round = 0; round < phase.num_rounds; ++round) {
    int slice;
    if (!my_slice(phase, round, slice)) break;
    const int col = slice * kSliceCols + static_cast<int>(at.lane) * 4;
    float4 weight = make_float4(1.0f, 1.0f, 1.0f, 1.0f);
    float v[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    if (col < phase.num_cols) {
      if (normed) weight = __ldg(reinterpret_cast<const float4*>(norm + col));
      if (layer != 0 || product != kQkv) {
        get_values(words + col, tag, v);
      } else {
        const uint16_t* const row =
            p.embed + static_cast<int64_t>(lds32(at.smem + Map::token)) * p.hidden;
        const uint2 e = __ldg(reinterpret_cast<const uint2*>(row + col));
        v[0] = bf16_low(e.x), v[1] = bf16_high(e.x);
        v[2] = bf16_low(e.y), v[3] = bf16_high(e.y);
      }
    }
    const float scaled[4] = {v[0] * weight.x, v[1] * weight.y, v[2] * weight.z, v[3] * weight.w};
    put_x(phase.format, slice, scaled);
    squares += v[0] * v[0] + v[1] * v[1] + v[2] * v[2] + v[3] * v[3];
  }
  if (normed) {
#pragma unroll
    for (int step = 16; step != 0; step /= 2) squares += __shfl_xor_sync(~0u, squares, step);
    if (at.lane == 0) sts_float(at.smem + Map::squares + at.warp * 4, squares);
  }
  __syncwarp();
}

// The input of down: words of two f16, a sixteenth of the value each, whose lowest bit tells the
// uses of a buffer apart.
template <typename Model>
__device__ __forceinline__ void Consumer<Model>::get_mlp(const ProductPhase& phase, int uses) {
  constexpr int kAtOnce = 4;
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
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      int slice;
      if (first + i >= phase.num_rounds || !my_slice(phase, first + i, slice)) break;
      while ((((w[i].x ^ bit) | (w[i].y ^ bit)) & 1) != 0) {
        if (give_up(state.num_waits, p.abort)) break;
        w[i] = poll2(words + slice * (kSliceCols / 2));
      }
      const float2 low = unpack_f16(w[i].x);
      const float2 high = unpack_f16(w[i].y);
      const float v[4] = {low.x * 16.0f, low.y * 16.0f, high.x * 16.0f, high.y * 16.0f};
      put_x(phase.format, slice, v);
    }
  }
  __syncwarp();
}

// A stage: 32 columns a row of a bf16 tile, 64 of an E4M3 tile.
template <typename Model>
template <StreamFormat kFormat>
__device__ __forceinline__ void Consumer<Model>::multiply(float (&sums)[2][4], const uint4& a,
                                                          const uint4& b, uint32_t x) {
  const uint4 x0 = lds128(x);
  if constexpr (kFormat == StreamFormat::kBF16) {
    mma_bf16(sums[0], a.x, a.y, a.z, a.w, x0.x, x0.y);
    mma_bf16(sums[1], b.x, b.y, b.z, b.w, x0.z, x0.w);
  } else {
    const uint4 x1 = lds128(x + 16);
    const auto four = [&](float* c, uint32_t w0, uint32_t w1, uint32_t b0, uint32_t b1) {
      mma_f16(c, e4m3_to_f16(w0 & 0xffff), e4m3_to_f16(w0 >> 16), e4m3_to_f16(w1 & 0xffff),
              e4m3_to_f16(w1 >> 16), b0, b1);
    };
    four(sums[0], a.x, a.y, x0.x, x0.y);
    four(sums[1], a.z, a.w, x0.z, x0.w);
    four(sums[0], b.x, b.y, x1.x, x1.y);
    four(sums[1], b.z, b.w, x1.z, x1.w);
  }
}

// False: the token before was the last.
template <typename Model>
template <StreamFormat kFormat>
__device__ __forceinline__ bool Consumer<Model>::product(int idx, int token, int layer) {
  constexpr int kFullStages = full_stages(kFormat);
  constexpr int kPartBytes = kSliceCols * 2 / 4;  // of x, a lane's columns of a whole slice
  constexpr int kStageX = kPartBytes / kFullStages;
  const ProductPhase& phase = p.products[idx];
  const TileShare share = tile_share(phase.num_units, at.cta);
  const int num_tiles = share.num_tiles();
  bool have_x = false;
#pragma unroll 1
  for (int tile = 0; tile < num_tiles; ++tile) {
    at.refresh();
    const int fold = share.fold(tile);
    const int num_stages = max(1, kFullStages >> fold);
    float sums[2][4] = {};
    float r0 = 0.0f;
    float r1 = 0.0f;
#pragma unroll 1
    for (int round = 0; round < phase.num_rounds; ++round) {
      int slice;
      const bool mine = my_slice(phase, round, slice);
      const uint32_t x = at.smem + Map::x + slice * Map::kSliceBytes +
                         ((at.lane >> 2) & 1) * (kSliceCols * 2) + (at.lane & 3) * kPartBytes +
                         (((at.lane >> 3) & ((1 << fold) - 1)) * kPartBytes >> fold);
#pragma unroll 1
      for (int first = 0; first < num_stages; first += 2) {
        uint4 a[2];
        uint4 b[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          if (first + i >= num_stages) break;
          wait_stage();
          const uint32_t from = ring_slot() + warp_of_half() * kStageBytes + at.lane * 16;
          a[i] = lds128(from);
          b[i] = lds128(from + kStageBytes / 2);
          free_stage(b[i].w);
        }
        if (!have_x) {
          have_x = true;
          if (token + layer + idx != 0) wait_published();
          if (layer + idx == 0 && lds32(at.smem + Map::token) == kEnded) return false;
          if (idx == kDown) {
            get_mlp(phase, token * p.num_layers + layer);
          } else {
            get_x(idx, token, layer);
          }
        }
        if (!mine) continue;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          if (first + i >= num_stages) break;
          multiply<kFormat>(sums, a[i], b[i], x + (first + i) * kStageX);
        }
      }
      if constexpr (kFormat == StreamFormat::kF8E4M3) {
        const float scale = mine ? lds_float(at.smem + p.x_scales_offset + slice * 4) : 0.0f;
        r0 += ((sums[0][0] + sums[1][0]) + (sums[0][1] + sums[1][1])) * scale;
        r1 += ((sums[0][2] + sums[1][2]) + (sums[0][3] + sums[1][3])) * scale;
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[0][i] = sums[1][i] = 0.0f;
      }
    }
    if constexpr (kFormat == StreamFormat::kBF16) {
      r0 = (sums[0][0] + sums[1][0]) + (sums[0][1] + sums[1][1]);
      r1 = (sums[0][2] + sums[1][2]) + (sums[0][3] + sums[1][3]);
    }
    // Column pairs of the result hold the parts of a slice, so a row's sum is where its part is.
    const uint32_t slot = state.num_pairs & (kPairSlots - 1);
    if ((tile & 1) == 0 && state.num_pairs >= kPairSlots) {
      wait(at.smem + Map::sums_empty + slot * 8, (state.num_pairs / kPairSlots & 1) ^ 1);
    }
    const uint32_t quarter = at.lane & 3;
    const uint32_t pair = fold == 2 ? quarter - (at.lane >> 4) : quarter;
    const bool second = pair == (fold == 2 ? 2u : 1u);
    const uint32_t row = (at.lane >> 2) + (second ? 8 : 0);
    sts_float_if(at.smem + Map::sums + (slot * 2 + (tile & 1)) * Map::kTileSums +
                     row * Map::kSumStride + at.warp * 4,
                 second ? r1 : r0, pair == 0 || second);
    if ((tile & 1) != 0 || tile == num_tiles - 1) {
      __syncwarp();
      arrive_if(at.smem + Map::sums_full + slot * 8, at.lane == 0);
      ++state.num_pairs;
    }
  }
  return true;
}

}  // namespace slipstream::megakernel
