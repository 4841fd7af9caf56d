// Scheduler: who computes how many tokens in the next step, who is preempted, who is done.
//
// Pure: no I/O, no clock, no device, no randomness; the same state, events and time give the same
// output. The simulator (sim.h) runs this very code. Engine thread only.
//
// Policy. Sequences are served in the order of their rank: arrival time plus a fixed delay per
// priority level, so nobody waits for ever. A step computes one token of every running sequence
// whose prompt is done, then chunks of prompts, then admits from the queue, within the limits of
// tokens, sequences and logit rows. A sequence is admitted when the blocks of all its tokens are
// free, in order, without overtaking. When a running one needs a block and none is free, the last
// in order gives its blocks back and later computes its tokens again; the first in order is never
// the victim, and every sequence alone fits the pool, so each step makes progress.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/status.h"
#include "engine/sequence.h"
#include "kv/block_manager.h"

namespace slipstream {

struct SchedulerLimits {
  int64_t max_num_seqs = 16;
  int64_t max_num_batched_tokens = 512;
  int64_t max_logit_rows = 64;  // >= max_num_seqs
};

// One level of priority weighs as much as arriving this much later.
constexpr int64_t kPriorityDelayNs = 60'000'000'000;
constexpr int32_t kMaxPriority = 1'000'000;  // in size

struct SchedulerEvent {
  enum Kind : uint8_t { kSubmit, kCancel, kStepDone };
  Kind kind = kSubmit;
  RequestId request = 0;  // kSubmit, kCancel

  // kSubmit. The ids are borrowed for the call.
  std::span<const int32_t> prompt_token_ids;
  int64_t max_tokens = 0;  // prompt and answer together
  int32_t priority = 0;
  bool wants_prompt_logits = false;

  // kStepDone: the positions scheduled for `handle` are computed.
  SequenceHandle handle;
  int32_t token_id = -1;  // the next token; -1: none was sampled
  bool finished = false;  // the sequence ends here
};

struct ScheduledSequence {
  const Sequence* sequence = nullptr;  // valid until the next schedule()
  int64_t begin = 0;                   // first position to compute
  int64_t num_tokens = 0;
  int64_t num_logit_rows = 0;
  bool samples() const { return begin + num_tokens == sequence->num_tokens(); }
};

struct SchedulerOutput {
  std::vector<ScheduledSequence> scheduled;
  std::vector<RequestId> cancelled;  // by this call's events, in their order
  int64_t num_tokens = 0;
  int64_t num_logit_rows = 0;
  int64_t num_preempted = 0;
};

class SchedulerState {
 public:
  SchedulerState(const SchedulerLimits& limits, int64_t num_blocks, int32_t block_size);

  const SchedulerLimits& limits() const { return limits_; }
  const BlockManager& blocks() const { return blocks_; }
  int64_t num_waiting() const { return static_cast<int64_t>(waiting_.size()); }  // and preempted
  int64_t num_running() const { return static_cast<int64_t>(running_.size()); }
  bool idle() const { return sequences_.empty(); }
  const Sequence* find(RequestId request) const;

  // Whether a sequence of this many tokens can ever run.
  bool fits(int64_t num_tokens) const;

  // Blocks conserved, counters ordered, every sequence in exactly one place, limits kept.
  Status check_invariants() const;

 private:
  friend SchedulerOutput schedule(SchedulerState& state, std::span<const SchedulerEvent> events,
                                  int64_t now_ns);
  using QueueKey = std::pair<int64_t, RequestId>;  // rank, request

  void apply(const SchedulerEvent& event, int64_t now_ns, SchedulerOutput& output);
  void submit(const SchedulerEvent& event, int64_t now_ns);
  void step_done(const SchedulerEvent& event);
  void finish(Sequence& sequence);
  void preempt(Sequence& sequence);
  void plan_decodes(SchedulerOutput& output);
  void plan_prefills(SchedulerOutput& output);
  void admit(SchedulerOutput& output);
  void plan(Sequence& sequence, SchedulerOutput& output);
  Status check_sequence(const Sequence& sequence) const;

  SchedulerLimits limits_;
  BlockManager blocks_;
  std::unordered_map<RequestId, std::unique_ptr<Sequence>> sequences_;  // looked up, never iterated
                                                                        // when deciding
  std::map<QueueKey, Sequence*> waiting_;
  std::vector<Sequence*> running_;  // in the order of service
};

// Applies the events in order, then plans a step. Empty `scheduled`: there is nothing to run.
SchedulerOutput schedule(SchedulerState& state, std::span<const SchedulerEvent> events,
                         int64_t now_ns);

}  // namespace slipstream
