// StagedOps: a device's table as one that takes host memory, for the cases of ops_cases.h.
//
// Every op copies its float32 inputs to the device in the types the device's kernels read, runs the
// device's op once, and copies the result back; nothing of it is fast. What is timed is the op
// alone. Only the ops that the device has are set, and kv_append, which fills the host's pages. One
// thread.
#pragma once

#include <string_view>

#include "base/status.h"
#include "ops/ops.h"
#include "ops/ops_cases.h"

namespace slipstream {

// The context that a staged table's ops expect.
struct StagedContext : OpContext {
  const Ops* device = nullptr;
  OpContext device_ctx;
  OpLimits limits;
  bool timed = false;
  uint64_t next_key = 1;  // of Ops::replay
  double us = 0.0;        // of the last op, when timed: median over repeated launches
};

// Makes `ctx`, whose pool is set, ready for `device`, whose matrices are of this type, and for the
// reference.
Status open_staged(StagedContext& ctx, const Ops& device, DType weight_dtype);

// The staged twin of `device`. Pages are the host's: bf16 stands for its f16, E4M3 for its f32.
Ops staged_ops(const Ops& device);

// What check_ops() needs to know of the table: which cases it refuses and why, how exact its types
// are, how long its ops take. `ctx` must outlive it.
OpCheckOptions staged_check_options(StagedContext& ctx, std::string_view op, bool timed);

}  // namespace slipstream
