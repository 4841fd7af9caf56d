// The attention branch of a layer.
#pragma once

#include "core/tensor.h"
#include "model/decoder.h"

namespace slipstream {

// out[T, hidden] = o_proj(attention(x[T, hidden])); appends the batch's K and V to the layer's
// pages. The caller adds `out` to the residual.
void attention_block(const ForwardArgs& args, int layer_idx, const RopeParams& rope,
                     TensorView cos_sin, const Activations& x, TensorView out);

}  // namespace slipstream
