// Sizes of what one step needs: activations and the ops' scratch.
#include <algorithm>

#include "model/decoder.h"

namespace slipstream {
namespace {

struct Widths {
  int64_t q = 0, qkv = 0, intermediate = 0;
  int64_t heads = 0, head_dim = 0, heads_per_kv_head = 1;
};

// The widest of all layers.
Widths widths(const DecoderSpec& spec) {
  Widths widest;
  for (const LayerSpec& layer : spec.layers) {
    const AttentionSpec& attention = layer.attention;
    const int64_t q = int64_t{attention.num_heads} * attention.head_dim;
    const int64_t kv = int64_t{attention.num_kv_heads} * attention.head_dim;
    widest.q = std::max(widest.q, q);
    widest.qkv = std::max(widest.qkv, q + 2 * kv);
    widest.intermediate = std::max(widest.intermediate, layer.mlp.intermediate_size);
    widest.heads = std::max<int64_t>(widest.heads, attention.num_heads);
    widest.head_dim = std::max<int64_t>(widest.head_dim, attention.head_dim);
    widest.heads_per_kv_head = attention.num_heads / attention.num_kv_heads;
  }
  return widest;
}

}  // namespace

Workspace::Workspace(const DecoderSpec& spec, const Ops& ops, int64_t tokens, int64_t logit_rows)
    : max_tokens(tokens), max_logit_rows(std::min(tokens, logit_rows)) {
  const Widths widest = widths(spec);
  const auto rows = [&ops](DType dtype, int64_t num_rows, int64_t width) {
    return Buffer(static_cast<size_t>(num_rows * width) * dtype_bytes(dtype), *ops.memory);
  };
  const DType dtype = ops.activation_dtype;
  hidden = rows(dtype, max_tokens, spec.hidden_size);
  normed = rows(dtype, max_tokens, spec.hidden_size);
  qkv = rows(dtype, max_tokens, widest.qkv);
  attn_out = rows(dtype, max_tokens, widest.q);
  gate_up = rows(dtype, max_tokens, 2 * widest.intermediate);
  activated = rows(dtype, max_tokens, widest.intermediate);
  branch_out = rows(dtype, max_tokens, spec.hidden_size);
  if (dtype != DType::kF32) {
    const int64_t width = std::max({spec.hidden_size, widest.q, widest.intermediate});
    quantized = rows(DType::kF8E4M3, max_tokens, width);
    row_scales = rows(DType::kF32, max_tokens, 1);
  }
  cos_sin = rows(DType::kF32, max_tokens, spec.rope.rotary_dim);
  logit_hidden = rows(dtype, max_logit_rows, spec.hidden_size);
  logits = rows(DType::kF32, max_logit_rows, spec.vocab_size);
}

OpLimits op_limits(const DecoderSpec& spec, const BatchLimits& batch) {
  const Widths widest = widths(spec);
  return {.max_tokens = batch.max_tokens,
          .max_logit_rows = std::min(batch.max_tokens, batch.max_logit_rows),
          .max_seqs = batch.max_seqs,
          .max_cols = std::max({spec.hidden_size, widest.q, widest.intermediate}),
          .max_heads = widest.heads,
          .heads_per_kv_head = widest.heads_per_kv_head,
          .max_head_dim = widest.head_dim,
          .max_context = batch.max_context,
          .vocab_size = spec.vocab_size,
          .max_sample_states = batch.max_sample_states};
}

}  // namespace slipstream
