// The gated MLP branch of a layer.
#pragma once

#include "core/tensor.h"
#include "model/decoder.h"

namespace slipstream {

// out[T, hidden] = down(silu(gate(x)) * up(x)), x[T, hidden]. The caller adds `out` to the
// residual.
void mlp_block(const ForwardArgs& args, int layer_idx, const Activations& x, TensorView out);

}  // namespace slipstream
