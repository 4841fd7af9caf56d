// Producers, one thread for each half of the consumer warps: they stream weights and KV pages
// through a ring in shared memory that never drains at the end of a phase, for they wait for no
// activation. At most `most_in_flight` copies of each are asked for and not landed: what is queued
// in front of the exchanged words delays them. One thread alone would be too slow: a copy takes it
// 0.2 us.
#pragma once

#include "megakernel/attention_share.cuh"
#include "megakernel/shared_map.cuh"
#include "megakernel/words.cuh"

namespace slipstream::megakernel {

template <typename Model>
class Producer {
  using Map = typename Model::Map;
  static constexpr int kHeadDim = Model::kHeadDim;

 public:
  // `half`: 0 or 1, of the warps.
  __device__ Producer(const DecodeArgs& args, const Place& place, int half)
      : p(args), at(place), half_(half) {}

  __device__ void run() {
    for (int token = 0; token < p.max_tokens && !ended; ++token) {
      src = p.streams + at.cta * p.stream_stride;
      const AttentionShare share = attention_share(p, at.cta, p.first_position + token);
#pragma unroll 1
      for (int layer = 0; layer <= p.num_layers; ++layer) {
        const bool head = layer == p.num_layers;
#pragma unroll 1
        for (int product = head ? kHead : kQkv; product < (head ? kNumProducts : kHead);
             ++product) {
          weights(product);
          if (product == kQkv) pages(share, token, layer);
          if (ended) return drain();
        }
      }
    }
    drain();
  }

 private:
  const DecodeArgs& p;
  Place at;
  const std::byte* src = nullptr;
  int half_;
  int num_asked = 0;  // up to the ring's size
  int slot = 0;
  uint32_t parity = 1;  // of the slot's use before
  bool ended = false;

  // The slot `distance` uses ago; its parity then.
  __device__ __forceinline__ void wait_landed(int distance) {
    int earlier = slot - distance;
    uint32_t its_parity = parity ^ 1;
    if (earlier < 0) earlier += p.num_ring_slots, its_parity ^= 1;
    wait(at.smem + Map::full + (earlier * 2 + half_) * 8, its_parity);
  }

  // Waits until the slot is free, or the decoding has ended.
  __device__ __forceinline__ bool take_slot() {
    if (num_asked >= p.num_ring_slots) {
      while (!try_wait(at.smem + Map::empty + (slot * 2 + half_) * 8, parity)) {
        if (lds32_volatile(at.smem + Map::token) == kEnded) return false;
      }
    }
    if (num_asked >= p.most_in_flight) wait_landed(p.most_in_flight);
    return true;
  }
  __device__ __forceinline__ void next_slot() {
    num_asked += num_asked < p.num_ring_slots;
    if (++slot == p.num_ring_slots) slot = 0, parity ^= 1;
  }
  __device__ __forceinline__ uint32_t slot_address() const {
    return at.smem + p.ring_offset + (slot * 2 + half_) * Model::kHalfSlotBytes;
  }
  __device__ __forceinline__ uint32_t full_barrier() const {
    return at.smem + Map::full + (slot * 2 + half_) * 8;
  }

  __device__ __forceinline__ void copy(const void* from, uint32_t bytes) {
    if (ended || !take_slot()) {
      ended = true;
      return;
    }
    const uint32_t full = full_barrier();
    if (bytes != 0) {
      expect_bytes(full, bytes);
      bulk_copy(slot_address(), from, bytes, full);
    } else {
      arrive(full);
    }
    next_slot();
  }

  __device__ __forceinline__ void weights(int product) {
    const ProductPhase& phase = p.products[product];
    const TileShare share = tile_share(phase.num_units, at.cta);
    const int num_tiles = share.num_tiles();
    SlotBlock block;
#pragma unroll 1
    for (int tile = 0; tile < num_tiles; tile += block.num_tiles) {
      block = slot_block(phase.format, share, tile);
#pragma unroll 1
      for (int round = 0; round < phase.num_rounds; ++round) {
        const SliceRound slices = slice_round(phase, round);
        const int lower = slices.lower();
        const int before = half_ * lower * block.bytes;
        const int bytes = (half_ != 0 ? slices.count - lower : lower) * block.bytes;
#pragma unroll 1
        for (int i = 0; i < block.num_slots; ++i) {
          at.refresh();
          copy(src + before, bytes);
          src += slices.count * block.bytes;
        }
      }
    }
  }

  // Pages of earlier tokens, every second for this half of the warps. Both use as many stages.
  __device__ __forceinline__ void pages(const AttentionShare& share, int token, int layer) {
    if (share.num_pages == 0) return;
    // What the last token added is there when this CTA has seen words that depend on it.
    if (token != 0) {
      const int needed = (token - 1) * (p.num_layers + 1) + layer + 1;
      while (static_cast<int>(lds32_volatile(at.smem + Map::progress)) < needed) {
        if (lds32_volatile(at.smem + Map::token) == kEnded) {
          ended = true;
          return;
        }
      }
      asm volatile("fence.proxy.async.global;" ::: "memory");
    }
    constexpr int kPageValues = kBlockTokens * kHeadDim;
    const int64_t base = static_cast<int64_t>(
        (static_cast<uint64_t>(lds32(at.smem + Map::kv_layers + layer * 8 + 4)) << 32) |
        lds32(at.smem + Map::kv_layers + layer * 8));
    const auto* const keys =
        reinterpret_cast<const uint16_t*>(base) + static_cast<int64_t>(share.kv_head) * kPageValues;
    const int64_t block_values = static_cast<int64_t>(p.num_kv_heads) * kPageValues;
    // Ids of pages are asked for before they are needed: a load takes as long as a copy.
    constexpr int kAhead = 4;
    int ids[kAhead];
    const int step = 2 << share.log2_parts;
    const int* next = p.block_table + share.part + (half_ << share.log2_parts);
    const int num_pages = (share.num_pages + 1 - half_) / 2;
#pragma unroll
    for (int i = 0; i < kAhead; ++i) ids[i] = i < num_pages ? next[i * step] : 0;
#pragma unroll 1
    for (int page = 0; page < num_pages; ++page) {
      at.refresh();
      const int id = ids[0];
#pragma unroll
      for (int i = 0; i + 1 < kAhead; ++i) ids[i] = ids[i + 1];
      if (page + kAhead < num_pages) ids[kAhead - 1] = next[(page + kAhead) * step];
      if (!take_slot()) {
        ended = true;
        return;
      }
      const uint32_t full = full_barrier();
      const uint16_t* const from = keys + id * block_values;
      expect_bytes(full, 2 * kPageValues * 2);
      bulk_copy(slot_address(), from, kPageValues * 2, full);
      bulk_copy(slot_address() + kPageValues * 2, from + p.kv_v_offset, kPageValues * 2, full);
      next_slot();
    }
    if (half_ != 0 && (share.num_pages & 1) != 0) copy(nullptr, 0);
  }

  // No copy may land after the CTA has gone.
  __device__ __forceinline__ void drain() {
#pragma unroll 1
    for (int distance = 1; distance <= num_asked; ++distance) wait_landed(distance);
  }
};

}  // namespace slipstream::megakernel
