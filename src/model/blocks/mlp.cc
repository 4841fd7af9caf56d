// SwiGLU: silu(gate) * up, projected down.
#include "model/blocks/mlp.h"

#include <array>

#include "model/blocks/bias.h"

namespace slipstream {
void mlp_block(const ForwardArgs& args, int layer_idx, TensorView x, TensorView out) {
  const Ops& ops = args.ops;
  OpContext& ctx = args.ctx;
  const MlpSpec& spec = args.spec.layers[static_cast<size_t>(layer_idx)].mlp;
  const LayerWeights& weights = args.weights.layers[static_cast<size_t>(layer_idx)];
  const int64_t num_tokens = args.batch.num_tokens();
  const int64_t width = spec.intermediate_size;

  const TensorView gate_up =
      TensorView::contiguous(args.workspace.gate_up.data(), DType::kF32, {num_tokens, 2 * width});
  const TensorView gate = gate_up.columns(0, width);
  const TensorView up = gate_up.columns(width, width);
  const std::array gate_up_parts = {
      LinearPart{&weights.gate, bias_or_null(weights.gate_bias), gate},
      LinearPart{&weights.up, bias_or_null(weights.up_bias), up},
  };
  ops.linear(ctx, x, gate_up_parts);

  const TensorView activated =
      TensorView::contiguous(args.workspace.activated.data(), DType::kF32, {num_tokens, width});
  ops.silu_mul(ctx, gate, up, activated);
  const std::array down_part = {LinearPart{&weights.down, bias_or_null(weights.down_bias), out}};
  ops.linear(ctx, activated, down_part);
}

}  // namespace slipstream
