// What a GPU can do at most: the table's measurements. Engine thread only.
#pragma once

#include <span>

#include "base/status.h"
#include "ops/ops.h"

namespace slipstream::cuda {

// The entries of the table.
double measure_read_gb_s(OpContext& ctx, std::span<const ByteRange> ranges);
Result<DeviceLimits> measure_limits(OpContext& ctx, int64_t bytes);

}  // namespace slipstream::cuda
