// NvtxOps: stands in front of a table; every op and every step is a range of NVIDIA's profilers.
//
// A profiler brings its own library and names it to the process before it starts, so whether one
// listens is known once and for all: without one there is no table in front.
#pragma once

#include "ops/ops.h"

namespace slipstream::cuda {

// `inner`, or the table whose calls of it are ranges of the domain "slipstream". `inner` must stay,
// and is the same in every call. A step lasts from begin_step() until its tokens are queued to be
// drawn, or until the next one begins; the launch of a graph is a range within it, and the ops of a
// graph are ranges where it is recorded.
const Ops& with_nvtx_ranges(const Ops& inner);

}  // namespace slipstream::cuda
