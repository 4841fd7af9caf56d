// Matrices on their way to the GPU: Ops::pack and Ops::pack_random of the CUDA table.
#pragma once

#include "ops/ops.h"

namespace slipstream::cuda {

Result<Weight> pack(OpContext& ctx, const SourceMatrix& source, WeightRole role);
Result<Weight> pack_random(OpContext& ctx, const RandomMatrix& matrix, WeightRole role);

}  // namespace slipstream::cuda
