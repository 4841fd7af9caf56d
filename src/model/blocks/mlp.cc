// SwiGLU: silu(gate) * up, projected down.
#include "model/blocks/mlp.h"

#include <array>

namespace slipstream {
void mlp_block(const ForwardArgs& args, int layer_idx, const Activations& x, TensorView out) {
  const Ops& ops = args.ops;
  OpContext& ctx = args.ctx;
  const MlpSpec& spec = args.spec.layers[static_cast<size_t>(layer_idx)].mlp;
  const LayerWeights& weights = args.weights.layers[static_cast<size_t>(layer_idx)];
  const int64_t num_tokens = args.batch.num_tokens;
  const int64_t width = spec.intermediate_size;

  const TensorView gate_up = TensorView::contiguous(args.workspace.gate_up.data(),
                                                    ops.activation_dtype, {num_tokens, 2 * width});
  const TensorView gate = gate_up.columns(0, width);
  const TensorView up = gate_up.columns(width, width);
  const std::array gate_up_parts = {
      LinearPart{&weights.gate, weights.gate_bias.data_or_null(), gate},
      LinearPart{&weights.up, weights.up_bias.data_or_null(), up},
  };
  ops.linear(ctx, x, gate_up_parts);

  const TensorView plain = TensorView::contiguous(args.workspace.activated.data(),
                                                  ops.activation_dtype, {num_tokens, width});
  const Activations activated = linear_input(args, plain, weights.down);
  ops.silu_mul(ctx, gate, up, activated);
  const std::array down_part = {LinearPart{&weights.down, weights.down_bias.data_or_null(), out}};
  ops.linear(ctx, activated, down_part);
}

}  // namespace slipstream
