// Consumer warps: what they share, and where a warp stands.
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
  static constexpr bool kI4Layers = Model::kLayers == StreamFormat::kI4;

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
    return at.smem + p.ring_offset + (state.slot * 2 + upper()) * Model::kHalfSlotBytes;
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

  // Of product(): products of INT4 are product_i4's.
  __device__ __forceinline__ static StreamFormat format_of(Step step) {
    if constexpr (Model::kLayers == Model::kLmHead || kI4Layers) return Model::kLmHead;
    return step.product() == kHead ? Model::kLmHead : Model::kLayers;
  }

  // Of this lane's four columns as bf16 or f16.
  __device__ __forceinline__ uint32_t x_address(int slice) const {
    return at.smem + Map::x + slice * Map::slice_bytes(StreamFormat::kBF16) +
           (at.lane & 7) / 2 * (2 * Map::kUnitRow) + (at.lane >> 3) * 16 + (at.lane & 1) * 8;
  }
  __device__ __forceinline__ void put_x(StreamFormat format, int slice, const float* v,
                                        float scale);
  __device__ __forceinline__ void prefetch_norm(Step step);
  // Give the factor of the products' sums.
  __device__ __forceinline__ float get_x(StreamFormat format, Step step);
  __device__ __forceinline__ float get_mlp(const ProductPhase& phase, int uses);
  __device__ __forceinline__ static void multiply(StreamFormat format, float (&sums)[2][4],
                                                  const uint4& a, const uint4& b, uint32_t x);
  __device__ __forceinline__ bool product(Step step);
  __device__ __forceinline__ bool product_i4(Step step);
  __device__ __forceinline__ void attention(Step step);
  __device__ __forceinline__ void put_heads(const AttentionShare& share, Step step);
};

}  // namespace slipstream::megakernel
