// Sizes of what one step needs: activations and the ops' scratch.
#include <algorithm>

#include "model/decoder.h"

namespace slipstream {
namespace {

struct Widths {
  int64_t q = 0, qkv = 0, intermediate = 0;
  int64_t heads = 0, head_dim = 0;
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
  }
  return widest;
}

Buffer f32_rows(int64_t num_rows, int64_t width) {
  return Buffer(static_cast<size_t>(num_rows * width) * sizeof(float));
}

}  // namespace

Workspace::Workspace(const DecoderSpec& spec, int64_t tokens, int64_t logit_rows)
    : max_tokens(tokens), max_logit_rows(std::min(tokens, logit_rows)) {
  const Widths widest = widths(spec);
  hidden = f32_rows(max_tokens, spec.hidden_size);
  normed = f32_rows(max_tokens, spec.hidden_size);
  qkv = f32_rows(max_tokens, widest.qkv);
  attn_out = f32_rows(max_tokens, widest.q);
  gate_up = f32_rows(max_tokens, 2 * widest.intermediate);
  activated = f32_rows(max_tokens, widest.intermediate);
  branch_out = f32_rows(max_tokens, spec.hidden_size);
  cos_sin = f32_rows(max_tokens, spec.rope.rotary_dim);
  logit_hidden = f32_rows(max_logit_rows, spec.hidden_size);
  logits = f32_rows(max_logit_rows, spec.vocab_size);
}

OpLimits op_limits(const DecoderSpec& spec, int64_t max_tokens, int64_t max_context) {
  const Widths widest = widths(spec);
  return {.max_tokens = max_tokens,
          .max_cols = std::max({spec.hidden_size, widest.q, widest.intermediate}),
          .max_heads = widest.heads,
          .max_head_dim = widest.head_dim,
          .max_context = max_context};
}

}  // namespace slipstream
