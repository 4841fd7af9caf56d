// linear on CPU panels: activations prepared once per call, then one parallel loop over all parts.
#pragma once

#include <span>

#include "ops/cpu/kernels.h"
#include "ops/ops.h"

namespace slipstream {

size_t linear_scratch_bytes(const OpLimits& limits);
void cpu_linear(const CpuKernels& kernels, OpContext& ctx, TensorView x,
                std::span<const LinearPart> parts);

}  // namespace slipstream
