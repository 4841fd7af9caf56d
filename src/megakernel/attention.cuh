// Consumer warps: attention of one KV head's queries over a part of the context.
//
// Scores by multiply-accumulate, positions as rows and query heads as columns, a query as two bf16
// that add up to it. The new token's K and V are a page of their own for the part that owns its
// position, which also writes them. Each of kAttentionWarps keeps a running softmax; their sums go
// to whoever merges the parts, unnormalised.
#pragma once

#include "megakernel/products.cuh"

namespace slipstream::megakernel {

// Rotated queries, K and V of the KV head: warp w takes head w of its row of words.
template <typename Model>
__device__ __forceinline__ void Consumer<Model>::put_heads(const AttentionShare& share, Step step) {
  const int token = step.token();
  const int layer = step.layer();
  const int position = p.first_position + token;
  const int uses = token * p.num_layers + layer;
  const uint32_t tag = (uses + 1) & kTagMask;
  constexpr int kLanes = kHeadDim / 8;  // four pairs of values each
  const int num_heads = p.heads_per_kv_head;
  const int head = static_cast<int>(at.warp);
  if (head >= num_heads + 2) return;
  const int dim = (at.lane < kLanes ? static_cast<int>(at.lane) : 0) * 4;
  const uint32_t* const words = p.qkv_words +
                                (uses & 1) * (p.num_kv_heads * (num_heads + 2) * kHeadDim) +
                                (share.kv_head * (num_heads + 2) + head) * kHeadDim + dim;
  const float* const angles = p.cos_sin + static_cast<int64_t>(token) * kHeadDim + dim;
  const float4 cosine = __ldg(reinterpret_cast<const float4*>(angles));
  const float4 sine = __ldg(reinterpret_cast<const float4*>(angles + kHeadDim / 2));
  float a[4];
  float b[4];
  float norm_a[4] = {1.0f, 1.0f, 1.0f, 1.0f};
  float norm_b[4] = {1.0f, 1.0f, 1.0f, 1.0f};
  const bool normed = p.qk_norms != nullptr && head <= num_heads;
  if (normed) {
    const float* const norm = p.qk_norms + (2 * layer + (head == num_heads)) * kHeadDim + dim;
    const float4 low = __ldg(reinterpret_cast<const float4*>(norm));
    const float4 high = __ldg(reinterpret_cast<const float4*>(norm + kHeadDim / 2));
    norm_a[0] = low.x, norm_a[1] = low.y, norm_a[2] = low.z, norm_a[3] = low.w;
    norm_b[0] = high.x, norm_b[1] = high.y, norm_b[2] = high.z, norm_b[3] = high.w;
  }
  get_values(words, tag, a);
  get_values(words + kHeadDim / 2, tag, b);
  if (normed) {
    float squares = 0.0f;
#pragma unroll
    for (int i = 0; i < 4; ++i) squares += a[i] * a[i] + b[i] * b[i];
    if (at.lane >= kLanes) squares = 0.0f;
#pragma unroll
    for (int step = 16; step != 0; step /= 2) squares += __shfl_xor_sync(~0u, squares, step);
    const float inverse = rsqrtf(squares * (1.0f / kHeadDim) + p.norm_eps);
#pragma unroll
    for (int i = 0; i < 4; ++i) a[i] *= inverse * norm_a[i], b[i] *= inverse * norm_b[i];
  }
  if (head <= num_heads) {
    const float c[4] = {cosine.x, cosine.y, cosine.z, cosine.w};
    const float s[4] = {sine.x, sine.y, sine.z, sine.w};
    const float scale = head < num_heads ? p.score_scale : 1.0f;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float x = a[i];
      a[i] = (x * c[i] - b[i] * s[i]) * scale;
      b[i] = (b[i] * c[i] + x * s[i]) * scale;
    }
  }
  if (at.lane >= kLanes) return;
  const uint32_t a0 = pack_bf16(a[0], a[1]);
  const uint32_t a1 = pack_bf16(a[2], a[3]);
  const uint32_t b0 = pack_bf16(b[0], b[1]);
  const uint32_t b1 = pack_bf16(b[2], b[3]);
  if (head < num_heads) {
    const uint32_t row = at.smem + Map::q + (head / 4 * 8 + head % 4) * kHeadDim * 2 + dim * 2;
    sts64(row, a0, a1);
    sts64(row + kHeadDim, b0, b1);
    const uint32_t lost = row + 4 * kHeadDim * 2;
    sts64(lost, pack_bf16(a[0] - bf16_low(a0), a[1] - bf16_high(a0)),
          pack_bf16(a[2] - bf16_low(a1), a[3] - bf16_high(a1)));
    sts64(lost + kHeadDim, pack_bf16(b[0] - bf16_low(b0), b[1] - bf16_high(b0)),
          pack_bf16(b[2] - bf16_low(b1), b[3] - bf16_high(b1)));
    return;
  }
  const uint32_t row = at.smem + (head == num_heads ? Map::new_k : Map::new_v) + dim * 2;
  sts64(row, a0, a1);
  sts64(row + kHeadDim, b0, b1);
  if ((position / kBlockTokens & ((1 << share.log2_parts) - 1)) == share.part) {
    const int64_t slot =
        (static_cast<int64_t>(p.block_table[position / kBlockTokens]) * p.num_kv_heads +
         share.kv_head) *
            kBlockTokens +
        position % kBlockTokens;
    const uint64_t pages =
        (static_cast<uint64_t>(lds32(at.smem + Map::kv_layers + layer * 8 + 4)) << 32) |
        lds32(at.smem + Map::kv_layers + layer * 8);
    uint16_t* const to = reinterpret_cast<uint16_t*>(pages) +
                         (head == num_heads ? 0 : p.kv_v_offset) + slot * kHeadDim + dim;
    *reinterpret_cast<uint2*>(to) = make_uint2(a0, a1);
    *reinterpret_cast<uint2*>(to + kHeadDim / 2) = make_uint2(b0, b1);
  }
}

// A warp's running softmax over pages.
template <typename Model>
class PageSums {
  using Map = typename Model::Map;
  static constexpr int kHeadDim = Model::kHeadDim;
  static constexpr int kHeads = Model::kHeads;

 public:
  // Of `valid` positions, K and V bf16 [position][head_dim] in shared memory. Rows beyond them are
  // not read, for nobody has written them.
  __device__ __forceinline__ void add(const Place& at, uint32_t my_weights, uint32_t keys,
                                      uint32_t values, int valid) {
    const int row = static_cast<int>(at.lane >> 2);
    const uint32_t row0 = keys + min(row, valid - 1) * kHeadDim * 2;
    const uint32_t row1 = keys + min(row + 8, valid - 1) * kHeadDim * 2;
    float factors[kHeads];
#pragma unroll
    for (int group = 0; group < Map::kGroups; ++group) {
      float c[4] = {0.0f, 0.0f, 0.0f, 0.0f};
      const uint32_t queries = at.smem + Map::q + (group * 8 + row) * kHeadDim * 2;
#pragma unroll
      for (int j = 0; j < kHeadDim / 32; ++j) {
        const uint32_t col = j * 64 + (at.lane & 3) * 16;
        const uint4 k0 = lds128(row0 + col);
        const uint4 k1 = lds128(row1 + col);
        const uint4 q = lds128(queries + col);
        mma_bf16(c, k0.x, k1.x, k0.y, k1.y, q.x, q.y);
        mma_bf16(c, k0.z, k1.z, k0.w, k1.w, q.z, q.w);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) c[i] += __shfl_xor_sync(~0u, c[i], 2);
      if (row >= valid) c[0] = c[1] = kNone;
      if (row + 8 >= valid) c[2] = c[3] = kNone;
      float most0 = fmaxf(c[0], c[2]);
      float most1 = fmaxf(c[1], c[3]);
#pragma unroll
      for (int step = 4; step < 32; step *= 2) {
        most0 = fmaxf(most0, __shfl_xor_sync(~0u, most0, step));
        most1 = fmaxf(most1, __shfl_xor_sync(~0u, most1, step));
      }
      most0 = fmaxf(max_[group][0], most0);
      most1 = fmaxf(max_[group][1], most1);
      const float factor0 = exp2_approx(max_[group][0] - most0);
      const float factor1 = exp2_approx(max_[group][1] - most1);
      max_[group][0] = most0, max_[group][1] = most1;
      c[0] = exp2_approx(c[0] - most0), c[2] = exp2_approx(c[2] - most0);
      c[1] = exp2_approx(c[1] - most1), c[3] = exp2_approx(c[3] - most1);
      float sum0 = c[0] + c[2];
      float sum1 = c[1] + c[3];
#pragma unroll
      for (int step = 4; step < 32; step *= 2) {
        sum0 += __shfl_xor_sync(~0u, sum0, step);
        sum1 += __shfl_xor_sync(~0u, sum1, step);
      }
      sum_[group][0] = sum_[group][0] * factor0 + sum0;
      sum_[group][1] = sum_[group][1] * factor1 + sum1;
      const uint32_t col = my_weights + group * 16 + (at.lane & 3) * 8;
      if ((at.lane & 3) < 2) {
        sts64(col + row * Map::kWeightRow, __float_as_uint(c[0]), __float_as_uint(c[1]));
        sts64(col + (row + 8) * Map::kWeightRow, __float_as_uint(c[2]), __float_as_uint(c[3]));
        if (row == 0) {
          sts64(col + kBlockTokens * Map::kWeightRow, __float_as_uint(factor0),
                __float_as_uint(factor1));
        }
      }
    }
    __syncwarp();
#pragma unroll
    for (int group = 0; group < Map::kGroups; ++group) {
      const uint4 w = lds128(my_weights + kBlockTokens * Map::kWeightRow + group * 16);
      const uint32_t of_head[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (group * 4 + i < kHeads) factors[group * 4 + i] = __uint_as_float(of_head[i]);
      }
    }
#pragma unroll
    for (int head = 0; head < kHeads; ++head) {
#pragma unroll
      for (int i = 0; i < 4; ++i) out_[head][i] *= factors[head];
    }
    if (at.lane < kDimLanes * kTokenShares) {
#pragma unroll 2
      for (int t = at.lane / kDimLanes; t < valid; t += kTokenShares) {
        const uint2 v = lds64(values + t * kHeadDim * 2 + (at.lane % kDimLanes) * 8);
        const float f[4] = {bf16_low(v.x), bf16_high(v.x), bf16_low(v.y), bf16_high(v.y)};
#pragma unroll
        for (int group = 0; group < Map::kGroups; ++group) {
          const uint4 w = lds128(my_weights + t * Map::kWeightRow + group * 16);
          const uint32_t of_head[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            if (group * 4 + j >= kHeads) break;
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              out_[group * 4 + j][i] += __uint_as_float(of_head[j]) * f[i];
            }
          }
        }
      }
    }
    __syncwarp();
  }

  // To outputs [head][head_dim] and stats [head]{maximum, sum}, float.
  __device__ __forceinline__ void store(const Place& at, uint32_t outputs, uint32_t stats) {
#pragma unroll
    for (int head = 0; head < kHeads; ++head) {
      if (kTokenShares == 2) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          out_[head][i] += __shfl_xor_sync(~0u, out_[head][i], 16);
        }
      }
      if (at.lane < kDimLanes) {
        sts128(outputs + (head * kHeadDim + at.lane * 4) * 4, out_[head][0], out_[head][1],
               out_[head][2], out_[head][3]);
      }
    }
    if (at.lane < 2) {
#pragma unroll
      for (int group = 0; group < Map::kGroups; ++group) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int head = group * 4 + static_cast<int>(at.lane) * 2 + i;
          if (head < kHeads) {
            sts64(stats + head * 8, __float_as_uint(max_[group][i]),
                  __float_as_uint(sum_[group][i]));
          }
        }
      }
    }
  }

  static constexpr float kNone = -1e30f;

 private:
  static constexpr int kDimLanes = kHeadDim / 4;
  static constexpr int kTokenShares = 32 / kDimLanes >= 2 ? 2 : 1;
  float max_[Map::kGroups][2];
  float sum_[Map::kGroups][2];
  float out_[kHeads][4];

 public:
  __device__ __forceinline__ PageSums() {
#pragma unroll
    for (int group = 0; group < Map::kGroups; ++group) {
      max_[group][0] = max_[group][1] = kNone;
      sum_[group][0] = sum_[group][1] = 0.0f;
    }
#pragma unroll
    for (int head = 0; head < kHeads; ++head) {
#pragma unroll
      for (int i = 0; i < 4; ++i) out_[head][i] = 0.0f;
    }
  }
};

template <typename Model>
__device__ __forceinline__ void Consumer<Model>::attention(Step step) {
  constexpr int kHeads = Model::kHeads;
  wait_published();
  const int position = p.first_position + step.token();
  const AttentionShare share = attention_share(p, at.cta, position);
  if (!share.takes_part) return;
  put_heads(share, step);
  __syncwarp();
  asm volatile("bar.sync 1,%0;" ::"n"(kConsumerThreads) : "memory");

  const bool owner = (position / kBlockTokens & ((1 << share.log2_parts) - 1)) == share.part;
  const int attention_warp = static_cast<int>(upper()) * (kAttentionWarps / 2) + warp_of_half();
  const bool attends = warp_of_half() < kAttentionWarps / 2;
  const uint32_t my_weights = at.smem + Map::weights + attention_warp * Map::kWarpWeights;
  {
    PageSums<Model> sums;
    const int num_stages = (share.num_pages + 1) / 2;
#pragma unroll 1
    for (int stage = 0; stage <= num_stages; ++stage) {
      at.refresh();
      const bool is_new = stage == num_stages;
      if (is_new && !(owner && attention_warp == kAttentionWarps - 1 && attends)) break;
      if (!is_new) wait_slot();
      const int page = 2 * stage + static_cast<int>(upper());
      if (is_new ||
          (attends && stage % (kAttentionWarps / 2) == warp_of_half() && page < share.num_pages)) {
        const int first = (share.part + (page << share.log2_parts)) * kBlockTokens;
        const uint32_t keys = is_new ? at.smem + Map::new_k : half_slot();
        const uint32_t values = is_new ? at.smem + Map::new_v : keys + kBlockTokens * kHeadDim * 2;
        sums.add(at, my_weights, keys, values, is_new ? 1 : min(kBlockTokens, position - first));
      }
      if (!is_new) free_slot(0);
    }
    if (attends) {
      sums.store(at, at.smem + Map::x + attention_warp * kHeads * kHeadDim * 4,
                 at.smem + Map::stats + attention_warp * kHeads * 8);
    }
  }
  __syncwarp();
  asm volatile("bar.sync 1,%0;" ::"n"(kConsumerThreads) : "memory");

  step.refresh();
  const int uses = step.token() * p.num_layers + step.layer();
  const uint32_t tag = (uses + 1) & kTagMask;
  const int num_values = p.heads_per_kv_head * kHeadDim;
#pragma unroll 1
  for (int i = static_cast<int>(at.warp * 32 + at.lane); i < num_values; i += kConsumerThreads) {
    at.refresh();
    const int head = i / kHeadDim;
    float most_of[kAttentionWarps];
    float most = PageSums<Model>::kNone;
#pragma unroll
    for (int w = 0; w < kAttentionWarps; ++w) {
      most_of[w] = lds_float(at.smem + Map::stats + (w * kHeads + head) * 8);
      most = fmaxf(most, most_of[w]);
    }
    const uint32_t most_word = to_word(most, 0);
    most = __uint_as_float(most_word);
    float out = 0.0f;
    float sum = 0.0f;
#pragma unroll
    for (int w = 0; w < kAttentionWarps; ++w) {
      const float factor = exp2_approx(most_of[w] - most);
      out += factor * lds_float(at.smem + Map::x + w * kHeads * kHeadDim * 4 + i * 4);
      sum += factor * lds_float(at.smem + Map::stats + (w * kHeads + head) * 8 + 4);
    }
    const int part = ((uses & 1) << p.log2_parts) + share.part;
    publish(p.part_words + part * p.attention_width + share.kv_head * num_values + i,
            to_word(out, tag));
    if (i % kHeadDim == 0) {
      uint32_t* const stats =
          p.part_stats + (part * p.num_heads + share.kv_head * p.heads_per_kv_head + head) * 2;
      publish(stats, most_word | tag);
      publish(stats + 1, to_word(sum, tag));
    }
  }
  // K and V of the new token are written before anybody's x depends on this.
  const int head = static_cast<int>(at.warp);
  if (head == p.heads_per_kv_head || head == p.heads_per_kv_head + 1) {
    if (owner) {
      __threadfence();
      asm volatile("fence.proxy.async.global;" ::: "memory");
    }
    __syncwarp();
    arrive_if(at.smem + Map::kv_written, at.lane == 0);
  }
  __syncwarp();
  arrive_if(at.smem + Map::parts_out, at.lane == 0);
}

template <typename Model>
__device__ void Consumer<Model>::run() {
#pragma unroll 1
  for (Step step; step.token() < p.max_tokens; step.next(p.num_layers)) {
    at.refresh();
    step.refresh();
    if (step.product() == kOut) attention(step);
    if (!product(step)) return;
  }
}

}  // namespace slipstream::megakernel
