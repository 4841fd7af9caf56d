// Grouped-query attention with RoPE over paged K and V.
#include "model/blocks/attention.h"

#include <array>

#include "model/blocks/bias.h"

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
                     TensorView cos_sin, TensorView x, TensorView out) {
  const Ops& ops = args.ops;
  OpContext& ctx = args.ctx;
  const ForwardBatch& batch = args.batch;
  const AttentionSpec& spec = args.spec.layers[static_cast<size_t>(layer_idx)].attention;
  const LayerWeights& weights = args.weights.layers[static_cast<size_t>(layer_idx)];
  const int64_t num_tokens = batch.num_tokens();
  const int64_t q_width = int64_t{spec.num_heads} * spec.head_dim;
  const int64_t kv_width = int64_t{spec.num_kv_heads} * spec.head_dim;

  const TensorView qkv = TensorView::contiguous(args.workspace.qkv.data(), DType::kF32,
                                                {num_tokens, q_width + 2 * kv_width});
  const std::array qkv_parts = {
      LinearPart{&weights.q, bias_or_null(weights.q_bias), qkv.columns(0, q_width)},
      LinearPart{&weights.k, bias_or_null(weights.k_bias), qkv.columns(q_width, kv_width)},
      LinearPart{&weights.v, bias_or_null(weights.v_bias),
                 qkv.columns(q_width + kv_width, kv_width)},
  };
  ops.linear(ctx, x, qkv_parts);
  const TensorView q = as_heads(qkv, 0, spec.num_heads, spec.head_dim);
  const TensorView k = as_heads(qkv, q_width, spec.num_kv_heads, spec.head_dim);
  const TensorView v = as_heads(qkv, q_width + kv_width, spec.num_kv_heads, spec.head_dim);

  if (spec.qk_norm) {
    ops.head_rms_norm(ctx, q, weights.q_norm.data(), args.spec.norm_eps);
    ops.head_rms_norm(ctx, k, weights.k_norm.data(), args.spec.norm_eps);
  }
  ops.rope(ctx, q, rope, cos_sin);
  ops.rope(ctx, k, rope, cos_sin);
  const KVLayerView kv = args.kv.layer(layer_idx);
  ops.kv_append(ctx, k, v, batch.slot_mapping.data(), kv);

  const TensorView attn_out =
      TensorView::contiguous(args.workspace.attn_out.data(), DType::kF32, {num_tokens, q_width});
  ops.attention(ctx, {.q = q,
                      .out = as_heads(attn_out, 0, spec.num_heads, spec.head_dim),
                      .kv = kv,
                      .num_seqs = batch.num_seqs(),
                      .cu_seqlens_q = batch.cu_seqlens_q.data(),
                      .seq_lens = batch.seq_lens.data(),
                      .block_table = batch.block_table.data(),
                      .block_table_stride = batch.block_table_stride,
                      .scale = spec.scale,
                      .window = spec.window});
  const std::array out_part = {LinearPart{&weights.o, bias_or_null(weights.o_bias), out}};
  ops.linear(ctx, attn_out, out_part);
}

}  // namespace slipstream
