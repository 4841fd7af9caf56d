// Packing matrices into panels (panel_layout.h) and reading single rows back out of them.
//
// Owns both directions of the layout; the arithmetic that streams it is kernels.inl. Compiled for
// the baseline instruction set and shared by all.
#pragma once

#include <cstdint>

#include "base/status.h"
#include "ops/ops.h"
#include "quant/format.h"

namespace slipstream {

// A packed copy; packs panels in parallel on ctx.pool. Small matrices share chunks of memory.
Result<Weight> pack_panels(OpContext& ctx, const SourceMatrix& source);

// out[cols] = exact values of one row, bit for bit those of dequantize_row on the source.
void dequantize_panel_row(const Weight& weight, int64_t row, float* out);

}  // namespace slipstream
