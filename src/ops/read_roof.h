// The read roof of a machine: how fast a backend reads memory that holds no model.
#pragma once

#include "ops/ops.h"

namespace slipstream {

// Gigabytes per second over a fresh buffer of `bytes` bytes, in huge pages where the system has
// them, as weights are. A loaded model measures over its own weights instead.
double measure_buffer_read_gb_s(const Ops& ops, OpContext& ctx, int64_t bytes);

}  // namespace slipstream
