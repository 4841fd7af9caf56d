// Turns a SchedulerOutput into the ForwardBatch that executors run. Pure.
#pragma once

#include "engine/scheduler.h"
#include "model/forward_batch.h"

namespace slipstream {

// Overwrites `batch`, whose memory is reused from step to step. Rows of logits are in the order of
// output.scheduled, and within a sequence in the order of positions: those of the prompt if wanted,
// and the last token's if it is computed.
void build_batch(const SchedulerOutput& output, int32_t block_size, ForwardBatch& batch);

}  // namespace slipstream
