// Grouped-query attention with RoPE over paged K and V.
#include "model/blocks/attention.h"

#include <array>

namespace slipstream {
namespace {

// Columns [begin, begin + heads * head_dim) of [T, width] as [T, heads, head_dim].
TensorView as_heads(TensorView x, int64_t begin, int64_t num_heads, int64_t head_dim) {
  TensorView view = x.columns(begin, num_heads * head_dim);
  view.rank = 3;
  view.shape = {x.dim(0), num_heads, head_dim, 0};
  view.stride = {x.stride[0], head_dim, 1, 0};
  return view;
}

}  // namespace

void attention_block(const ForwardArgs& args, int layer_idx, const RopeParams& rope,
                     TensorView cos_sin, const Activations& x, TensorView out) {
  const Ops& ops = args.ops;
  OpContext& ctx = args.ctx;
  const DType dtype = ops.activation_dtype;
  const AttentionSpec& spec = args.spec.layers[static_cast<size_t>(layer_idx)].attention;
  const LayerWeights& weights = args.weights.layers[static_cast<size_t>(layer_idx)];
  const int64_t num_tokens = args.batch.num_tokens;
  const int64_t q_width = int64_t{spec.num_heads} * spec.head_dim;
  const int64_t kv_width = int64_t{spec.num_kv_heads} * spec.head_dim;

  const TensorView qkv = TensorView::contiguous(args.workspace.qkv.data(), dtype,
                                                {num_tokens, q_width + 2 * kv_width});
  const std::array qkv_parts = {
      LinearPart{&weights.q, weights.q_bias.data_or_null(), qkv.columns(0, q_width)},
      LinearPart{&weights.k, weights.k_bias.data_or_null(), qkv.columns(q_width, kv_width)},
      LinearPart{&weights.v, weights.v_bias.data_or_null(),
                 qkv.columns(q_width + kv_width, kv_width)},
  };
  ops.linear(ctx, x, qkv_parts);
  const TensorView q = as_heads(qkv, 0, spec.num_heads, spec.head_dim);
  const TensorView k = as_heads(qkv, q_width, spec.num_kv_heads, spec.head_dim);
  const TensorView v = as_heads(qkv, q_width + kv_width, spec.num_kv_heads, spec.head_dim);

  const KVLayerView kv = args.kv.layer(layer_idx);
  ops.norm_rope_append(ctx, {.q = q,
                             .k = k,
                             .v = v,
                             .q_norm = weights.q_norm.data_or_null(),
                             .k_norm = weights.k_norm.data_or_null(),
                             .norm_eps = args.spec.norm_eps,
                             .rope = rope,
                             .cos_sin = cos_sin,
                             .slot_mapping = args.batch.slot_mapping,
                             .kv = kv});

  const TensorView attn_out =
      TensorView::contiguous(args.workspace.attn_out.data(), dtype, {num_tokens, q_width});
  ops.attention(ctx, {.q = q,
                      .out = as_heads(attn_out, 0, spec.num_heads, spec.head_dim),
                      .kv = kv,
                      .batch = args.batch,
                      .scale = spec.scale,
                      .window = spec.window});
  const std::array out_part = {LinearPart{&weights.o, weights.o_bias.data_or_null(), out}};
  const Activations out_in = linear_input(args, attn_out, weights.o);
  ops.to_activations(ctx, attn_out, out_in);
  ops.linear(ctx, out_in, out_part);
}

}  // namespace slipstream
