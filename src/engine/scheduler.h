// Scheduler: who computes how many tokens in the next step, who is preempted, who is done.
//
// Pure: no I/O, no clock, no device, no randomness; the same state, events and time give the same
// output. The simulator (sim.h) runs this very code. One thread at a time.
//
// Policy.
// * Order. Sequences are served by rank: arrival time plus a fixed delay per priority level, so
//   nobody waits for ever. Nobody is overtaken in the queue.
// * A step computes one token of every running sequence whose prompt is done. Of the tokens left,
//   half go to prompts in the order of rank, so the longest prompt advances in every step, and half
//   to the prompts that need the fewest, so a short prompt behind long ones starts to answer at
//   once. Half a step is what a long prompt can cost others.
// * Admission simulates block demand: a sequence is admitted when its tokens' blocks, less those
//   found in the prefix cache, and what the running ones take within the next
//   `admission_horizon` tokens if none stops early, fit into the free blocks, counting what those
//   at their length limit give back. Without a running sequence the first is always admitted.
// * Preemption. When a running sequence needs a block and none is free, the last in order gives its
//   blocks back and later computes its tokens again, or finds them in the cache. The first in order
//   is never the victim, and every sequence alone fits the pool, so each step makes progress.
// * Looking ahead. A step may be planned while the one before runs: the token that one samples is
//   kPendingToken until its result arrives. Sequences that end meanwhile leave results and planned
//   rows behind that the caller drops; handles tell them apart.
// * Deadlines. The first call at or after a sequence's deadline ends it, whatever its state.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "base/flat_map.h"
#include "base/status.h"
#include "engine/sequence.h"
#include "kv/block_manager.h"

namespace slipstream {

struct SchedulerLimits {
  int64_t max_num_seqs = 16;
  int64_t max_num_batched_tokens = 512;
  int64_t max_logit_rows = 64;  // >= max_num_seqs
  int64_t admission_horizon = 32;
};

// One level of priority weighs as much as arriving this much later.
constexpr int64_t kPriorityDelayNs = 60'000'000'000;
constexpr int32_t kMaxPriority = 1'000'000;  // in size

struct SchedulerEvent {
  enum Kind : uint8_t { kSubmit, kCancel, kStepDone };
  Kind kind = kSubmit;
  RequestId request = 0;  // kSubmit, kCancel

  // kSubmit. Ids and salt are borrowed for the call.
  std::span<const int32_t> prompt_token_ids;
  std::string_view cache_salt;
  int64_t max_tokens = 0;  // prompt and answer together
  int64_t deadline_ns = 0;
  int32_t priority = 0;
  bool wants_prompt_logits = false;

  // kStepDone: a step has computed `num_tokens` positions of `handle`. In the order of the steps.
  SequenceHandle handle;
  int64_t num_tokens = 0;
  int32_t token_id = -1;  // the next token; -1: none was sampled
  bool finished = false;  // the sequence ends here
  bool in_doubt = false;  // with finished: what it computed must not be shared
};

struct ScheduledSequence {
  const Sequence* sequence = nullptr;  // valid until the next schedule()
  SequenceHandle handle;
  int64_t begin = 0;  // first position to compute
  int64_t num_tokens = 0;
  int64_t num_logit_rows = 0;
  int64_t num_prompt_tokens = 0;
  int64_t num_cached_tokens = 0;
  bool wants_prompt_logits = false;
  bool samples = false;  // the last of these positions is the sequence's last token
  RequestId request() const { return handle.request; }
};

struct SchedulerOutput {
  std::vector<ScheduledSequence> scheduled;
  // Ended by this call, in the order of its events, then of deadlines. Results of theirs that are
  // still to come are ignored.
  std::vector<RequestId> cancelled;
  std::vector<RequestId> expired;
  std::vector<RequestId> failed;  // submitted, and memory ran out
  int64_t num_tokens = 0;
  int64_t num_logit_rows = 0;
  int64_t num_preempted = 0;

  // Keeps the memory.
  void clear();
};

class SchedulerState {
 public:
  SchedulerState(const SchedulerLimits& limits, int64_t num_blocks, int32_t block_size,
                 const PrefixCacheOptions& cache = {});

  const SchedulerLimits& limits() const { return limits_; }
  const BlockManager& blocks() const { return blocks_; }
  int64_t num_waiting() const { return static_cast<int64_t>(waiting_.size()); }  // and preempted
  int64_t num_running() const { return static_cast<int64_t>(running_.size()); }
  bool idle() const { return sequences_.empty(); }
  const Sequence* find(RequestId request) const;
  // Whether results of this handle still count.
  bool current(const SequenceHandle& handle) const;
  // Those that a call at `now_ns` would end for their deadline.
  std::vector<RequestId> overdue(int64_t now_ns) const;

  // Prompt tokens looked up in the prefix cache, and found; each request once.
  int64_t num_cache_queries() const { return num_cache_queries_; }
  int64_t num_cache_hits() const { return num_cache_hits_; }

  // Takes free blocks for positions that a running sequence will have, as many of [0,
  // num_positions) as there are blocks for; gives how many it has blocks for now. Theirs until they
  // are given back or the sequence stops running.
  int64_t reserve_ahead(RequestId request, int64_t num_positions);
  void give_back_ahead(RequestId request);

  // Whether a sequence of this many tokens can ever run.
  bool fits(int64_t num_tokens) const;

  // Blocks conserved, counters ordered, every sequence in exactly one place, limits kept.
  Status check_invariants() const;

 private:
  friend SchedulerOutput schedule(SchedulerState& state, std::span<const SchedulerEvent> events,
                                  int64_t now_ns, SchedulerOutput reused);
  friend void withdraw(SchedulerState& state, const SchedulerOutput& output);
  using QueueKey = std::pair<int64_t, RequestId>;     // rank, request
  using DeadlineKey = std::pair<int64_t, RequestId>;  // deadline, request

  void apply(const SchedulerEvent& event, int64_t now_ns, SchedulerOutput& output);
  void submit(const SchedulerEvent& event, int64_t now_ns);
  void step_done(const SchedulerEvent& event);
  void expire(int64_t now_ns, SchedulerOutput& output);
  void finish(Sequence& sequence);
  void preempt(Sequence& sequence);
  bool reserve_or_preempt(Sequence& sequence, SchedulerOutput& output);
  void plan_decodes(SchedulerOutput& output);
  void plan_prefills(SchedulerOutput& output);
  void admit(SchedulerOutput& output);
  bool take_blocks(Sequence& sequence);
  int64_t demand_ahead(const Sequence& candidate, int64_t from, int64_t to) const;
  int64_t private_blocks(const Sequence& sequence) const;
  void plan(Sequence& sequence, int64_t max_count, SchedulerOutput& output);
  bool anything_in_flight() const;
  Status check_sequence(const Sequence& sequence) const;

  SchedulerLimits limits_;
  BlockManager blocks_;
  FlatMap<RequestId, std::unique_ptr<Sequence>> sequences_;  // looked up, never iterated when
                                                             // deciding
  std::map<QueueKey, Sequence*> waiting_;
  std::set<DeadlineKey> deadlines_;
  std::vector<Sequence*> running_;  // in the order of service
  int64_t blocked_need_ = 0;        // free blocks that the first in the queue was found to need
  RequestId blocked_request_ = 0;
  int64_t num_cache_queries_ = 0;
  int64_t num_cache_hits_ = 0;
  struct Prefill {
    Sequence* sequence = nullptr;
    int64_t num_left = 0;
    int64_t num_granted = 0;
  };
  std::vector<Prefill> prefills_;  // of one call
};

// Applies the events in order, then plans a step. Empty `scheduled`: there is nothing to run, or
// nothing before the results of the steps in flight. Of `reused`, an older output, only the memory
// is used.
SchedulerOutput schedule(SchedulerState& state, std::span<const SchedulerEvent> events,
                         int64_t now_ns, SchedulerOutput reused = {});

// Takes the latest plan back before it runs, so that a new one can make use of what has happened
// since: whoever was to compute tokens is as before the call that planned it. Admissions,
// preemptions and ends stay.
void withdraw(SchedulerState& state, const SchedulerOutput& output);

}  // namespace slipstream
