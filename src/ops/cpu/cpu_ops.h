// The Ops tables of the vector instruction sets: checks, scratch memory and the split of work over
// threads, around the kernels of kernels.h.
#pragma once

#include "ops/ops.h"

namespace slipstream {

// The processor must have the instruction set: ask dispatch.cc, not these.
const Ops& avx2_ops();
const Ops& avx512_ops();

}  // namespace slipstream
