// The one forward pass, for every family: what a layer is comes from the spec, what an op is from
// the table of ops. Called by the one thread that drives its device.
#include "model/decoder.h"

#include <array>

#include "base/check.h"
#include "model/blocks/attention.h"
#include "model/blocks/mlp.h"

namespace slipstream {
namespace {

TensorView rows_of(const Buffer& buffer, DType dtype, int64_t num_rows, int64_t width) {
  return TensorView::contiguous(buffer.data(), dtype, {num_rows, width});
}

// The final norm and the LM head, on the rows whose logits are wanted and no others.
TensorView logits_of_rows(const ForwardArgs& args, TensorView hidden, TensorView branch_out) {
  const Ops& ops = args.ops;
  Workspace& ws = args.workspace;
  const DType dtype = ops.activation_dtype;
  const int64_t num_rows = args.batch.num_logit_rows;
  const int32_t* rows = args.batch.logit_rows;
  const TensorView logits = rows_of(ws.logits, DType::kF32, num_rows, args.spec.vocab_size);
  if (num_rows == 0) return logits;

  const TensorView last_hidden = rows_of(ws.logit_hidden, dtype, num_rows, args.spec.hidden_size);
  const TensorView last_branch = rows_of(ws.normed, dtype, num_rows, args.spec.hidden_size);
  ops.gather_rows(args.ctx, hidden, rows, num_rows, last_hidden);
  ops.gather_rows(args.ctx, branch_out, rows, num_rows, last_branch);
  // The branch's rows are free once gathered.
  const Activations normed = linear_input(args, branch_out.rows(0, num_rows), args.weights.lm_head);
  ops.add_rms_norm(args.ctx, last_hidden, last_branch, args.weights.final_norm.data(),
                   args.spec.norm_eps, normed);
  const IndexRange mine = vocab_range(args.spec.vocab_size, tp_shard(args.comm));
  const std::array lm_head = {
      LinearPart{&args.weights.lm_head, nullptr, logits.columns(mine.begin, mine.count)}};
  ops.linear(args.ctx, normed, lm_head);
  if (args.comm.world_size() > 1) {
    const auto columns = vocab_ranges(args.spec.vocab_size, args.comm.world_size());
    args.comm.all_gather_columns(args.ctx, logits, columns);
  }
  return logits;
}

// A branch's output where each device has computed a term of it.
void sum_over_devices(const ForwardArgs& args, TensorView terms) {
  if (args.comm.world_size() > 1) args.comm.all_reduce_sum(args.ctx, terms);
}

}  // namespace

void check_batch(const ForwardBatch& batch, const DecoderSpec& spec, const Workspace& workspace) {
  const int64_t num_tokens = batch.num_tokens();
  SLIPSTREAM_CHECK(num_tokens > 0 && num_tokens <= workspace.max_tokens, "tokens of a step");
  SLIPSTREAM_CHECK(batch.num_logit_rows() <= workspace.max_logit_rows, "logit rows of a step");
  SLIPSTREAM_CHECK(std::ssize(batch.positions) == num_tokens, "a position per token");
  SLIPSTREAM_CHECK(std::ssize(batch.slot_mapping) == num_tokens, "a slot per token");
  SLIPSTREAM_CHECK(std::ssize(batch.cu_seqlens_q) == batch.num_seqs() + 1, "bounds per sequence");
  SLIPSTREAM_CHECK(batch.cu_seqlens_q.back() == num_tokens, "sequences cover the tokens");
  for (const int32_t token_id : batch.token_ids) {
    SLIPSTREAM_CHECK(token_id >= 0 && token_id < spec.vocab_size, "token id in vocabulary");
  }
}

Activations linear_input(const ForwardArgs& args, TensorView plain, const Weight& weight) {
  const DType dtype = args.ops.linear_input(weight);
  if (dtype == plain.dtype) return plain;
  return {rows_of(args.workspace.quantized, dtype, plain.dim(0), plain.dim(1)),
          args.workspace.row_scales.as<float>()};
}

TensorView forward(const ForwardArgs& args) {
  const Ops& ops = args.ops;
  OpContext& ctx = args.ctx;
  Workspace& ws = args.workspace;
  const float eps = args.spec.norm_eps;
  const int64_t num_tokens = args.batch.num_tokens;
  const DType dtype = ops.activation_dtype;

  // The residual stream; what a branch reads; what a branch adds.
  const TensorView hidden = rows_of(ws.hidden, dtype, num_tokens, args.spec.hidden_size);
  const TensorView normed = rows_of(ws.normed, dtype, num_tokens, args.spec.hidden_size);
  const TensorView branch_out = rows_of(ws.branch_out, dtype, num_tokens, args.spec.hidden_size);
  const RopeParams rope{.rotary_dim = args.spec.rope.rotary_dim,
                        .interleaved = args.spec.rope.interleaved,
                        .inv_freq = args.rope.inv_freq.data(),
                        .attention_factor = args.rope.attention_factor};
  const TensorView cos_sin = rows_of(ws.cos_sin, DType::kF32, num_tokens, rope.rotary_dim);

  ops.rope_table(ctx, args.batch.positions, rope, cos_sin);
  ops.embed(ctx, args.weights.embed, args.batch.token_ids, hidden);
  for (int layer_idx = 0; layer_idx < static_cast<int>(args.spec.layers.size()); ++layer_idx) {
    const LayerWeights& layer = args.weights.layers[static_cast<size_t>(layer_idx)];
    const Activations attn_in = linear_input(args, normed, layer.q);
    // Every norm but the first also adds the branch before it to the residual.
    if (layer_idx == 0) {
      ops.rms_norm(ctx, hidden, layer.attn_norm.data(), eps, attn_in);
    } else {
      ops.add_rms_norm(ctx, hidden, branch_out, layer.attn_norm.data(), eps, attn_in);
    }
    attention_block(args, layer_idx, rope, cos_sin, attn_in, branch_out);
    sum_over_devices(args, branch_out);
    const Activations mlp_in = linear_input(args, normed, layer.gate);
    ops.add_rms_norm(ctx, hidden, branch_out, layer.mlp_norm.data(), eps, mlp_in);
    mlp_block(args, layer_idx, mlp_in, branch_out);
    sum_over_devices(args, branch_out);
  }
  return logits_of_rows(args, hidden, branch_out);
}

}  // namespace slipstream
