// Consumer warps: attention of one KV head's queries over a part of the context.
//
// Scores by multiply-accumulate, positions as rows and query heads as columns, a query as two bf16
// that add up to it. The new token's K and V are a page of their own for the part that owns its
// position, which also writes them. Each of kAttentionWarps keeps a running softmax; their sums go
// to whoever merges the parts, unnormalised.
#pragma once

#include "megakernel/consumer.cuh"
#include "megakernel/page_sums.cuh"

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
    if constexpr (kI4Layers) {
      if (step.product() != kHead) {
        if (!product_i4(step)) return;
        continue;
      }
    }
    if (!product(step)) return;
  }
}

}  // namespace slipstream::megakernel
