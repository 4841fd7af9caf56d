// The reducer warp: adds the consumers' sums and does what follows, by product: norm and bias; the
// residual, f32, which stays in its CTA; activation; merge of attention's parts; the choice of the
// next token. It publishes what other CTAs await.
#pragma once

#include "megakernel/attention_share.cuh"
#include "megakernel/shared_map.cuh"
#include "megakernel/words.cuh"
#include "ops/cuda/common/gumbel.cuh"

namespace slipstream::megakernel {

// The best word of a CTA: score, then id, whether the host asks for an end, tag.
constexpr uint32_t kNoId = (1u << 23) - 1;
constexpr uint32_t kStopBit = 1u << 8;

template <typename Model>
class Reducer {
  using Map = typename Model::Map;

 public:
  __device__ Reducer(const DecodeArgs& args, const Place& place) : p(args), at(place) {}

  __device__ void run() {
    fetch_table(kQkv, 0);
#pragma unroll 1
    for (int token = 0; token < p.max_tokens; ++token) {
      num_marks = 0;
      stamp(token);
      stamp_ns(token, kBeginNsStamp);
      uint32_t stop = 0;  // on its way while the token is computed
      if (at.cta == 0 && at.lane == 0) stop = load_host(p.stop);
      begin_residual();
      best = -INFINITY;
      best_id = kNoId;
#pragma unroll 1
      for (int layer = 0; layer <= p.num_layers; ++layer) {
        const bool head = layer == p.num_layers;
#pragma unroll 1
        for (int idx = head ? kHead : kQkv; idx < (head ? kNumProducts : kHead); ++idx) {
          product(idx, token, layer);
          if (idx == kQkv || head) set_progress(token * (p.num_layers + 1) + layer);
          if (head) break;
          publish_phase(token);
          if (idx == kQkv) {
            merge(token, layer);
            publish_phase(token);
          }
        }
      }
      if (!choose(token, stop)) return;
    }
  }

 private:
  const DecodeArgs& p;
  Place at;
  uint32_t slot = 0;
  uint32_t slot_parity = 0;
  uint32_t attention_parity = 0;
  uint32_t num_waits = 0;
  int num_marks = 0;
  float inverse_norm = 1.0f;
  float best = 0.0f;
  uint32_t best_id = 0;

  __device__ __forceinline__ void stamp(int token) {
    if (token == kStampedToken && at.lane == 0) {
      p.stamps[at.cta * kMaxStamps + num_marks] = clock64();
    }
    ++num_marks;
  }
  __device__ __forceinline__ void stamp_ns(int token, int idx) {
    if (token != kStampedToken || at.lane != 0) return;
    uint64_t ns;
    asm volatile("mov.u64 %0,%%globaltimer;" : "=l"(ns));
    p.stamps[at.cta * kMaxStamps + idx] = ns;
  }
  __device__ __forceinline__ void set_progress(int progress) {
    if (at.lane == 0) sts32_volatile(at.smem + Map::progress, progress);
  }
  __device__ __forceinline__ void publish_phase(int token) {
    __syncwarp();
    arrive_if(at.smem + Map::published, at.lane == 0);
    stamp(token);
  }

  // Rows of x that this CTA has: the token's embedding.
  __device__ __forceinline__ void begin_residual() {
    const TileShare share = tile_share(p.products[kOut].num_units, at.cta);
    const uint32_t id = lds32(at.smem + Map::token);
    const uint16_t* const row =
        p.embed + static_cast<int64_t>(id) * p.hidden + share.first_unit * kUnitRows;
    for (int r = static_cast<int>(at.lane); r < share.num_units * kUnitRows; r += 32) {
      sts_float(at.smem + Map::residual + r * 4, bf16_low(row[r]));
    }
    __syncwarp();
  }

  // A product's rows are fetched while the one before is computed: a load would take longer than
  // a pair of tiles.
  __device__ __forceinline__ void fetch_table(int idx, int layer) {
    const ProductPhase& phase = p.products[idx];
    if (phase.has_table == 0) return;
    const TileShare share = tile_share(phase.num_units, at.cta);
    const float* const from =
        p.row_table + 2 * (static_cast<int64_t>(layer) * p.row_table_layer +
                           p.row_table_offset[idx] + at.cta * phase.max_tiles * kTileRows);
    constexpr int kChunk = 16;  // bytes
    const int num_chunks = share.num_tiles() * kTileRows * 8 / kChunk;
    for (int i = static_cast<int>(at.lane); i < num_chunks; i += 32) {
      async_copy16(at.smem + table(idx) + i * kChunk, from + i * (kChunk / 4));
    }
  }
  __device__ __forceinline__ static int table(int idx) {
    return Map::tables + (idx & 1) * Map::kTable;
  }

  __device__ __forceinline__ void read_norm() {
    float squares =
        at.lane < kConsumerWarps ? lds_float(at.smem + Map::squares + at.lane * 4) : 0.0f;
#pragma unroll
    for (int step = 16; step != 0; step /= 2) squares += __shfl_xor_sync(~0u, squares, step);
    inverse_norm = rsqrtf(squares * p.inverse_hidden + p.norm_eps);
  }

  // The sum of this lane's row of the next two tiles: lanes 0 to 15 the first, 16 to 31 the second.
  __device__ __forceinline__ float take_pair(bool has_second) {
    wait(at.smem + Map::sums_full + slot * 8, slot_parity);
    // The two halves of a warp add up half of the row's sums each, of both tiles.
    const uint32_t from = at.smem + Map::sums + slot * 2 * Map::kTileSums +
                          (at.lane & 15) * Map::kSumStride + (at.lane >> 4) * kConsumerWarps * 2;
    float first = 0.0f;
    float second = 0.0f;
#pragma unroll
    for (int i = 0; i < kConsumerWarps / 8; ++i) first += sum_of(lds128(from + i * 16));
    if (has_second) {
#pragma unroll
      for (int i = 0; i < kConsumerWarps / 8; ++i) {
        second += sum_of(lds128(from + Map::kTileSums + i * 16));
      }
    }
    __syncwarp();
    arrive_if(at.smem + Map::sums_empty + slot * 8, at.lane == 0);
    if (++slot == kPairSlots) slot = 0, slot_parity ^= 1;
    first += __shfl_xor_sync(~0u, first, 16);
    second += __shfl_xor_sync(~0u, second, 16);
    return at.lane < 16 ? first : second;
  }
  __device__ __forceinline__ static float sum_of(const uint4& v) {
    return (__uint_as_float(v.x) + __uint_as_float(v.y)) +
           (__uint_as_float(v.z) + __uint_as_float(v.w));
  }

  __device__ __forceinline__ void product(int idx, int token, int layer) {
    at.refresh();
    const ProductPhase& phase = p.products[idx];
    const TileShare share = tile_share(phase.num_units, at.cta);
    const int num_tiles = share.num_tiles();
    const bool normed = idx != kOut && idx != kDown;
    if (idx == kDown && attention_share(p, at.cta, p.first_position + token).takes_part) {
      wait(at.smem + Map::kv_written, attention_parity);
      attention_parity ^= 1;
    }
    if (phase.has_table != 0) {
      wait_async_copies();
      __syncwarp();
    }
    if (idx == kHead) {
      fetch_table(kQkv, 0);
    } else if (idx != kDown) {
      fetch_table(idx + 1, layer);
    } else if (layer + 1 < p.num_layers) {
      fetch_table(kQkv, layer + 1);
    }
#pragma unroll 1
    for (int first = 0; first < num_tiles; first += 2) {
      at.refresh();
      const int tile = first + static_cast<int>(at.lane >> 4);
      const int row_of_tile = static_cast<int>(at.lane & 15);
      const int fold = share.fold(tile);
      float2 of_row = make_float2(1.0f, 0.0f);
      if (phase.has_table != 0) {
        const uint2 words =
            lds64(at.smem + table(idx) + (min(tile, num_tiles - 1) * kTileRows + row_of_tile) * 8);
        of_row = make_float2(__uint_as_float(words.x), __uint_as_float(words.y));
      }
      float v = take_pair(first + 1 < num_tiles);
      if (first == 0 && normed) {
        read_norm();
        stamp(token);
      }
      if ((share.num_units & 3) != 0) {  // parts of slices lie in rows of their own
        const float halves = v + __shfl_xor_sync(~0u, v, 8);
        if (fold >= 1) v = halves;
        const float quarters = v + __shfl_xor_sync(~0u, v, 4);
        if (fold == 2) v = quarters;
      }
      if (normed) v *= inverse_norm;
      v = v * of_row.x + of_row.y;
      const bool valid = tile < num_tiles && row_of_tile < (kTileRows >> fold);
      const int row = share.first_row(tile) + row_of_tile;
      finish(idx, token, layer, share, v, valid, row, row_of_tile, fold);
    }
  }

  // What becomes of a row's value; `row`: among the CTA's rows.
  __device__ __forceinline__ void finish(int idx, int token, int layer, const TileShare& share,
                                         float v, bool valid, int row, int row_of_tile, int fold) {
    const int uses = token * p.num_layers + layer;
    const int first_row = share.first_unit * kUnitRows;
    if (idx == kQkv) {
      if (valid) {
        publish(
            p.qkv_words + (uses & 1) * (p.products[kQkv].num_units * kUnitRows) + first_row + row,
            to_word(v, (uses + 1) & kTagMask));
      }
    } else if (idx == kOut || idx == kDown) {
      if (valid) {
        const uint32_t residual = at.smem + Map::residual + row * 4;
        v += lds_float(residual);
        sts_float(residual, v);
        const int down = idx == kDown;
        publish(p.x_words + down * p.hidden + first_row + row,
                to_word(v, (2 * uses + 1 + down) & kTagMask));
      }
      __syncwarp();
    } else if (idx == kGateUp) {
      const int num_gates = kTileRows / 2 >> fold;
      const float up = __shfl_sync(~0u, v, at.lane + num_gates);
      float y = v / (1.0f + __expf(-v)) * up * 0.0625f;
      y = fminf(fmaxf(y, -65000.0f), 65000.0f);
      const float next = __shfl_down_sync(~0u, y, 1);
      const int among = (row - row_of_tile) / 2 + row_of_tile;
      if (valid && row_of_tile < num_gates && (row_of_tile & 1) == 0) {
        publish(p.mlp_words + (uses & 1) * (p.products[kDown].num_cols / 2) +
                    (first_row / 2 + among) / 2,
                (pack_f16(y, next) & ~1u) | (((uses >> 1) & 1) ^ 1));
      }
    } else {
      const uint32_t id = first_row + row;
      if (valid && id < static_cast<uint32_t>(p.vocab)) offer_logit(token, id, v);
    }
  }

  // The largest logit, or of logit / temperature + Gumbel noise. A logit that is no number, or
  // infinite, wins without an id.
  __device__ __forceinline__ void offer_logit(int token, uint32_t id, float logit) {
    if (!(logit < INFINITY)) {
      best = INFINITY, best_id = kNoId;
      return;
    }
    if (p.temperature > 0.0f) {
      const float scaled = logit / p.temperature;
      if (scaled + (cuda::kMaxGumbel + cuda::kGumbelSlack) < best) return;
      const cuda::DrawKey key{p.seed, static_cast<uint32_t>(p.first_position + token + 1),
                              p.choice_idx};
      const uint32_t word = cuda::philox4x32_10(key, id / 4).of(id);
      if (scaled + cuda::gumbel_bound(word) < best) return;
      logit = scaled + cuda::gumbel(word);
    }
    if (logit > best) best = logit, best_id = id;
  }

  // Of the values that this CTA hands on to o: the parts of the context, weighed.
  __device__ __forceinline__ void merge(int token, int layer);
  // All CTAs choose the same token. False: it was the last.
  __device__ __forceinline__ bool choose(int token, uint32_t stop);
  __device__ __forceinline__ static void best_of_warp(float& score, uint32_t& id) {
#pragma unroll
    for (int step = 16; step != 0; step /= 2) {
      const float other = __shfl_xor_sync(~0u, score, step);
      const uint32_t other_id = __shfl_xor_sync(~0u, id, step);
      if (other > score || (other == score && other_id < id)) score = other, id = other_id;
    }
  }
};

}  // namespace slipstream::megakernel
