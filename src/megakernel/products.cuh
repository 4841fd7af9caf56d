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

// Which product of which layer of which token, in one register.
struct Step {
  uint32_t packed = 0;
  static constexpr uint32_t kLayerUnit = 1u << 3;
  static constexpr uint32_t kTokenUnit = 1u << 11;
  __device__ __forceinline__ int product() const { return packed & 7; }
  __device__ __forceinline__ int layer() const { return packed / kLayerUnit & 0xff; }
  __device__ __forceinline__ int token() const { return packed / kTokenUnit; }
  __device__ __forceinline__ void refresh() { asm volatile("" : "+r"(packed)); }
  // The next one; after a layer's last product the next layer, after the head's the next token.
  __device__ __forceinline__ void next(int num_layers) {
    if (product() < kDown) {
      ++packed;
    } else if (product() == kHead) {
      packed = (token() + 1) * kTokenUnit;
    } else {
      packed += kLayerUnit - kDown;
      if (layer() == num_layers) packed += kHead;
    }
  }
};

// Where a consumer warp stands: ring, sums, published phases.
struct ConsumerState {
  uint32_t slot = 0;  // of the ring
  uint32_t num_pairs = 0;
  uint32_t parities = 0;  // of the ring, of what is published
  static constexpr uint32_t kRing = 1;
  static constexpr uint32_t kPublished = 2;
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
  __device__ __forceinline__ uint32_t half_slot() const {
    return at.smem + p.ring_offset + (state.slot * 2 + upper()) * kHalfSlotBytes;
  }
  __device__ __forceinline__ void wait_slot() {
    wait(at.smem + Map::full + state.slot * 16 + upper() * 8,
         state.parities & ConsumerState::kRing);
  }
  // `loaded`: of the last load from the slot. The barrier's address depends on it, so that the
  // arrival does not overtake loads that are still queued.
  __device__ __forceinline__ void free_slot(uint32_t loaded) {
    uint32_t zero;
    asm volatile("{.reg .u32 t; popc.b32 t,%1; shr.u32 %0,t,6;}" : "=r"(zero) : "r"(loaded));
    __syncwarp();
    arrive_if(zero + at.smem + Map::empty + state.slot * 16 + upper() * 8, at.lane == 0);
    if (++state.slot == static_cast<uint32_t>(p.num_ring_slots)) {
      state.slot = 0;
      state.parities ^= ConsumerState::kRing;
    }
  }
  __device__ __forceinline__ void wait_published() {
    wait(at.smem + Map::published, state.parities / ConsumerState::kPublished);
    state.parities ^= ConsumerState::kPublished;
  }
  __device__ __forceinline__ void get_values(const uint32_t* words, uint32_t tag, float* values) {
    uint32_t num_waits = 0;
    uint4 w = poll4(words);
    while ((((w.x ^ tag) | (w.y ^ tag) | (w.z ^ tag) | (w.w ^ tag)) & kTagMask) != 0) {
      if (give_up(num_waits, p.abort)) break;
      w = poll4(words);
    }
    values[0] = from_word(w.x), values[1] = from_word(w.y);
    values[2] = from_word(w.z), values[3] = from_word(w.w);
  }

  // The warp's slice of a round; false: it has none.
  __device__ __forceinline__ bool my_slice(const ProductPhase& phase, int round, int& slice) const {
    const SliceRound slices = slice_round(phase, round);
    const int lower = slices.lower();
    slice = slices.first + (upper() ? lower : 0) + warp_of_half();
    return warp_of_half() < (upper() ? slices.count - lower : lower);
  }

  __device__ __forceinline__ static StreamFormat format_of(Step step) {
    if constexpr (Model::kLayers == Model::kLmHead) return Model::kLayers;
    return step.product() == kHead ? Model::kLmHead : Model::kLayers;
  }

  // Of this lane's four columns. Lane t of a multiply-accumulate takes columns 32 t to 32 t + 31,
  // in units of 8; the units that are loaded together lie side by side.
  __device__ __forceinline__ uint32_t x_address(int slice) const {
    return at.smem + Map::x + slice * Map::kSliceBytes + (at.lane & 7) / 2 * (2 * Map::kUnitRow) +
           (at.lane >> 3) * 16 + (at.lane & 1) * 8;
  }
  __device__ __forceinline__ void put_x(StreamFormat format, int slice, const float* v,
                                        float scale);
  __device__ __forceinline__ void prefetch_norm(Step step);
  // Give the factor of the products' sums.
  __device__ __forceinline__ float get_x(Step step);
  __device__ __forceinline__ float get_mlp(const ProductPhase& phase, int uses);
  __device__ __forceinline__ static void multiply(StreamFormat format, float (&sums)[2][4],
                                                  const uint4& a, const uint4& b, uint32_t x);
  __device__ __forceinline__ bool product(Step step);
  __device__ __forceinline__ void attention(Step step);
  __device__ __forceinline__ void put_heads(const AttentionShare& share, Step step);
};

// Four values a lane of a slice, to where fragments are loaded from; for E4M3 weights times
// `scale`.
template <typename Model>
__device__ __forceinline__ void Consumer<Model>::put_x(StreamFormat format, int slice,
                                                       const float* v, float scale) {
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
__device__ __forceinline__ float Consumer<Model>::get_x(Step step) {
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
    if (format_of(step) == StreamFormat::kF8E4M3) {
      // The warp's largest becomes at least 2^11 and less than 2^12.
      most = __reduce_max_sync(~0u, most);
      const int exponent = min(max(static_cast<int>(most >> 23), 32), 220);
      scale = __int_as_float((127 + 11 - (exponent - 127)) << 23);
      inverse_scale = __int_as_float((127 - 11 + (exponent - 127)) << 23);
    }
#pragma unroll
    for (int i = 0; i < kXRounds; ++i) {
      if (mine[i]) put_x(format_of(step), slices[i], v[i], scale);
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
  constexpr int kAtOnce = 8;
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
      uint32_t num_waits = 0;
      while ((((w[i].x ^ bit) | (w[i].y ^ bit)) & 1) != 0) {
        if (give_up(num_waits, p.abort)) break;
        w[i] = poll2(words + slice * (kSliceCols / 2));
      }
      if constexpr (Model::kLayers == StreamFormat::kF8E4M3) {  // f16 is what its products take
        const uint32_t to = x_address(slice);
        sts64(to, w[i].x, w[i].y);
        sts64(to + Map::kUnitRow, 0, 0);
      } else {
        const float2 low = unpack_f16(w[i].x);
        const float2 high = unpack_f16(w[i].y);
        const float v[4] = {low.x * 16.0f, low.y * 16.0f, high.x * 16.0f, high.y * 16.0f};
        put_x(Model::kLayers, slice, v, 1.0f);
      }
    }
  }
  __syncwarp();
  return Model::kLayers == StreamFormat::kF8E4M3 ? 16.0f : 1.0f;
}

// A stage: 32 columns a row of a bf16 tile, 64 of an E4M3 tile.
template <typename Model>
__device__ __forceinline__ void Consumer<Model>::multiply(StreamFormat format, float (&sums)[2][4],
                                                          const uint4& a, const uint4& b,
                                                          uint32_t x) {
  const uint4 x0 = lds128(x);
  if (format == StreamFormat::kBF16) {
    mma_bf16(sums[0], a.x, a.y, a.z, a.w, x0.x, x0.y);
    mma_bf16(sums[1], b.x, b.y, b.z, b.w, x0.z, x0.w);
  } else {
    const uint4 x1 = lds128(x + 2 * Map::kUnitRow);
    const auto four = [&](float* c, uint32_t w0, uint32_t w1, uint32_t x_low, uint32_t x_high) {
      uint32_t f[4];
      e4m3_to_f16(w0, f[0], f[1]);
      e4m3_to_f16(w1, f[2], f[3]);
      mma_f16(c, f[0], f[1], f[2], f[3], x_low, x_high);
    };
    four(sums[0], a.x, a.y, x0.x, x0.y);
    four(sums[1], a.z, a.w, x0.z, x0.w);
    four(sums[0], b.x, b.y, x1.x, x1.y);
    four(sums[1], b.z, b.w, x1.z, x1.w);
  }
}

// False: the token before was the last.
//
// Integer instructions bind here: four warps of a multiprocessor's quarter share a pipe that takes
// one in two clocks, so that what does not change from tile to tile is computed once.
template <typename Model>
__device__ __forceinline__ bool Consumer<Model>::product(Step step) {
  constexpr int kUnits = 4;  // of x, of a lane
  constexpr uint32_t kUnitBytes = 2 * Map::kUnitRow;
  const StreamFormat format = format_of(step);
  const ProductPhase& phase = p.products[step.product()];
  const TileShare share = tile_share(phase.num_units, at.cta);
  const int num_tiles = share.num_tiles();
  const int num_full = share.full();
  const int num_rounds = phase.num_rounds;
  const uint32_t ring = at.smem + p.ring_offset + upper() * kHalfSlotBytes + at.lane * 16;
  // Of the slot that is loaded next.
  int stages = num_stages(format, share.fold(0));
  uint32_t my_block = warp_of_half() * min(stages, kSlotStages) * kStageBytes;
  uint4 a[kSlotStages];
  uint4 b[kSlotStages];
  const auto load = [&] {
    wait_slot();
    const uint32_t from = ring + my_block + state.slot * (2 * kHalfSlotBytes);
    a[0] = lds128(from), b[0] = lds128(from + kStageBytes / 2);
    uint32_t loaded = b[0].w;
    if (stages >= kSlotStages) {
      a[1] = lds128(from + kStageBytes), b[1] = lds128(from + kStageBytes * 3 / 2);
      loaded = b[1].w;
    }
    free_slot(loaded);
  };
  // The first slot is in registers when x comes.
  prefetch_norm(step);
  load();
  if (step.packed != 0) wait_published();
  if (step.packed % Step::kTokenUnit == 0 && lds32(at.smem + Map::token) == kEnded) return false;
  const float factor = step.product() == kDown
                           ? get_mlp(phase, step.token() * p.num_layers + step.layer())
                           : get_x(step);
  int first_slice;
  int last_slice;
  const bool mine = my_slice(phase, 0, first_slice);
  const bool last_mine = my_slice(phase, num_rounds - 1, last_slice);
  const uint32_t first_x = at.smem + Map::x + first_slice * Map::kSliceBytes +
                           ((at.lane >> 2) & 1) * Map::kUnitRow + (at.lane & 3) * 16;
  const uint32_t round_x = phase.round_slices * Map::kSliceBytes;
  // The last round's halves may be shorter, so that its slices lie elsewhere.
  const uint32_t last_x =
      (last_slice - first_slice) * Map::kSliceBytes - (num_rounds - 1) * round_x;
  const bool second = (at.lane & 3) == 1;
  const uint32_t sums_of_row =
      at.smem + Map::sums + ((at.lane >> 2) + (second ? 8 : 0)) * Map::kSumStride + at.warp * 4;
#pragma unroll 1
  for (int tile = 0; tile < num_tiles; ++tile) {
    const int fold = tile < num_full ? 0 : share.fold(tile);
    uint32_t x = first_x;
    if (fold != 0) {
      x += ((at.lane >> 3) & ((1 << fold) - 1)) * (kUnits >> fold) * kUnitBytes;
    }
    const int of_round = (stages + 1) / kSlotStages;  // slots
    float sums[2][4] = {};
#pragma unroll 1
    for (int left = num_rounds; left > 0; --left) {
      if (left == 1) x += last_x;
      const bool is_mine = left == 1 ? last_mine : mine;
#pragma unroll 1
      for (int slots = of_round; slots > 0; --slots) {
        if (is_mine) {
          // Only bf16 has a second slot.
          const uint32_t slot_x = x + (slots != of_round ? 2 * kUnitBytes : 0);
          multiply(format, sums, a[0], b[0], slot_x);
          if (stages >= kSlotStages) {
            multiply(format, sums, a[1], b[1],
                     slot_x + (format == StreamFormat::kBF16 ? kUnitBytes : 2 * kUnitBytes));
          }
        }
        if (slots == 1 && left == 1) {
          if (tile + 1 == num_tiles) break;
          if (tile + 1 >= num_full) {
            stages = num_stages(format, share.fold(tile + 1));
            my_block = warp_of_half() * min(stages, kSlotStages) * kStageBytes;
          }
        }
        load();
      }
      x += round_x;
    }
    float r0 = (sums[0][0] + sums[1][0]) + (sums[0][1] + sums[1][1]);
    float r1 = (sums[0][2] + sums[1][2]) + (sums[0][3] + sums[1][3]);
    if (format == StreamFormat::kF8E4M3) r0 *= factor, r1 *= factor;
    const uint32_t slot = state.num_pairs & (kPairSlots - 1);
    if ((tile & 1) == 0 && state.num_pairs >= kPairSlots) {
      wait(at.smem + Map::sums_empty + slot * 8, (state.num_pairs / kPairSlots & 1) ^ 1);
    }
    // Column pairs of the result hold the parts of a slice, so a row's sum is where its part is.
    const uint32_t offset = (slot * 2 + (tile & 1)) * Map::kTileSums;
    if (fold < 2) {
      sts_float_if(sums_of_row + offset, second ? r1 : r0, (at.lane & 3) < 2);
    } else {
      const uint32_t pair = (at.lane & 3) - (at.lane >> 4);
      const uint32_t row = (at.lane >> 2) + (pair == 2 ? 8 : 0);
      sts_float_if(at.smem + Map::sums + offset + row * Map::kSumStride + at.warp * 4,
                   pair == 2 ? r1 : r0, pair == 0 || pair == 2);
    }
    if ((tile & 1) != 0 || tile == num_tiles - 1) {
      __syncwarp();
      arrive_if(at.smem + Map::sums_full + slot * 8, at.lane == 0);
      ++state.num_pairs;
    }
  }
  return true;
}

}  // namespace slipstream::megakernel
