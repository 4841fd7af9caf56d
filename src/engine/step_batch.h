// Turns a SchedulerOutput into the ForwardBatch that executors run, and changes it between planning
// and running. Pure.
#pragma once

#include <functional>

#include "engine/scheduler.h"
#include "ops/forward_batch.h"

namespace slipstream {

// A step that is decided on and not yet run.
struct StepPlan {
  SchedulerOutput output;
  ForwardBatch batch;
};

// Overwrites `batch`, whose memory is reused from step to step. Rows of logits are in the order of
// output.scheduled, and within a sequence in the order of positions: those of the prompt if wanted,
// and the last token's if it is computed. Reads the sequences: call it before the next schedule().
void build_batch(const SchedulerOutput& output, int32_t block_size, ForwardBatch& batch);

// Takes out of the plan what belongs to requests that `keep` denies.
void keep_requests(StepPlan& plan, const std::function<bool(RequestId)>& keep);

// Gives the pending token of each sequence that has one the id that `known` names; it is told the
// sequence's place in output.scheduled.
void fill_pending(StepPlan& plan, const std::function<int32_t(size_t)>& known);

}  // namespace slipstream
