// The reducer warp: what it makes of other CTAs' words, the merge of attention's parts and the
// choice of the next token.
#pragma once

#include "megakernel/reducer.cuh"

namespace slipstream::megakernel {

// Of the values that this CTA hands on to o: the parts of the context, weighed.
template <typename Model>
__device__ __forceinline__ void Reducer<Model>::merge(int token, int layer) {
  at.refresh();
  const AttentionShare share = attention_share(p, at.cta, p.first_position + token);
  if (share.takes_part) wait(at.smem + Map::parts_out, attention_parity);
  const int uses = token * p.num_layers + layer;
  const uint32_t tag = (uses + 1) & kTagMask;
  const int value = at.cta * p.attention_per_cta + static_cast<int>(at.lane);
  const bool valid = static_cast<int>(at.lane) < p.attention_per_cta && value < p.attention_width;
  const int read = min(value, p.attention_width - 1);
  const int first_part = (uses & 1) << p.log2_parts;
  const int last = (1 << share.log2_parts) - 1;
  const uint32_t* const values = p.part_words + first_part * p.attention_width + read;
  const uint32_t* const stats =
      p.part_stats + (first_part * p.num_heads + read / Model::kHeadDim) * 2;
  float most = -3e30f;
  float sum = 0.0f;
  float out = 0.0f;
  constexpr int kAtOnce = 4;
#pragma unroll 1
  for (int first = 0; first <= last; first += kAtOnce) {
    uint32_t v[kAtOnce];
    uint2 s[kAtOnce];
    uint32_t differs;
    do {
      differs = 0;
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const int part = min(first + i, last);
        v[i] = poll1(values + part * p.attention_width);
        s[i] = poll2(stats + part * p.num_heads * 2);
        differs |= (v[i] ^ tag) | (s[i].x ^ tag) | (s[i].y ^ tag);
      }
    } while ((differs & kTagMask) != 0 && !give_up(num_waits, p.abort));
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (first + i > last) break;
      const float part_most = from_word(s[i].x);
      const float new_most = fmaxf(most, part_most);
      const float factor = exp2_approx(most - new_most);
      const float part_factor = exp2_approx(part_most - new_most);
      sum = sum * factor + from_word(s[i].y) * part_factor;
      out = out * factor + from_word(v[i]) * part_factor;
      most = new_most;
    }
  }
  if (valid) {
    publish(p.attention_words + (uses & 1) * p.attention_width + value, to_word(out / sum, tag));
  }
}

// All CTAs choose the same token. False: it was the last.
template <typename Model>
__device__ __forceinline__ bool Reducer<Model>::choose(int token, uint32_t stop) {
  const uint32_t tag = (token + 1) & kTagMask;
  uint64_t* const words = p.best_words + (token & 1) * kDecodeCtas;
  bool ended = token + 1 == p.max_tokens;
  float score = best;
  uint32_t id = best_id;
  best_of_warp(score, id);
  if (at.lane == 0 && !(at.cta == 0 && token == p.withheld_token)) {
    publish64(words + at.cta, static_cast<uint64_t>(__float_as_uint(score)) << 32 | id << 9 |
                                  (stop != 0 ? kStopBit : 0) | tag);
  }
  score = -INFINITY;
  id = kNoId;
#pragma unroll 1
  for (int first = 0; first < kDecodeCtas; first += 32) {
    uint64_t word = poll64(words + first + at.lane);
    while ((word & kTagMask) != tag) {
      if (give_up(num_waits, p.abort)) {
        ended = true;
        break;
      }
      word = poll64(words + first + at.lane);
    }
    const float other = __uint_as_float(static_cast<uint32_t>(word >> 32));
    const uint32_t other_id = static_cast<uint32_t>(word) >> 9;
    if (other > score || (other == score && other_id < id)) score = other, id = other_id;
    ended = ended || (word & kStopBit) != 0;
  }
  best_of_warp(score, id);
  for (int i = 0; i < p.num_end_ids; ++i)
    ended = ended || id == static_cast<uint32_t>(p.end_ids[i]);
  ended = __any_sync(~0u, ended || id == kNoId);
  if (at.lane == 0) {
    sts32_volatile(at.smem + Map::token, ended ? kEnded : id);
    if (at.cta == 0) {
      store_host64(p.ring + token,
                   static_cast<uint64_t>(p.run) << 32 | (ended ? kRingEnd : 0) | id);
    }
  }
  publish_phase(token);
  stamp_ns(token, kEndNsStamp);
  return !ended;
}

}  // namespace slipstream::megakernel
