#include "engine/scheduler.h"

#include <algorithm>

#include "base/check.h"
#include "base/strings.h"

namespace slipstream {

SchedulerState::SchedulerState(const SchedulerLimits& limits, int64_t num_blocks,
                               int32_t block_size)
    : limits_(limits), blocks_(num_blocks, block_size) {
  SLIPSTREAM_CHECK(limits.max_num_seqs > 0, "a step has sequences");
  SLIPSTREAM_CHECK(limits.max_num_batched_tokens > 0, "a step has tokens");
  SLIPSTREAM_CHECK(limits.max_logit_rows >= limits.max_num_seqs,
                   "every running sequence may need a row of logits");
  running_.reserve(static_cast<size_t>(limits.max_num_seqs));
}

const Sequence* SchedulerState::find(RequestId request) const {
  const auto found = sequences_.find(request);
  return found == sequences_.end() ? nullptr : found->second.get();
}

bool SchedulerState::fits(int64_t num_tokens) const {
  return blocks_.blocks_for(num_tokens) <= blocks_.num_blocks();
}

void SchedulerState::apply(const SchedulerEvent& event, int64_t now_ns, SchedulerOutput& output) {
  switch (event.kind) {
    case SchedulerEvent::kSubmit:
      submit(event, now_ns);
      return;
    case SchedulerEvent::kStepDone:
      step_done(event);
      return;
    case SchedulerEvent::kCancel: {
      const auto found = sequences_.find(event.request);
      if (found == sequences_.end()) return;  // it ended before the cancel came
      output.cancelled.push_back(event.request);
      finish(*found->second);
      return;
    }
  }
}

void SchedulerState::submit(const SchedulerEvent& event, int64_t now_ns) {
  SLIPSTREAM_CHECK(!event.prompt_token_ids.empty(), "a sequence has a token");
  SLIPSTREAM_CHECK(event.max_tokens >= static_cast<int64_t>(event.prompt_token_ids.size()),
                   "the limit includes the prompt");
  SLIPSTREAM_CHECK(fits(event.max_tokens), "a request that never fits is refused before");
  SLIPSTREAM_CHECK(event.priority >= -kMaxPriority && event.priority <= kMaxPriority,
                   "a priority outside its range is refused before");
  auto sequence = std::make_unique<Sequence>();
  sequence->request = event.request;
  sequence->token_ids.assign(event.prompt_token_ids.begin(), event.prompt_token_ids.end());
  sequence->num_prompt_tokens = sequence->num_tokens();
  sequence->num_committed = sequence->num_tokens();
  sequence->max_tokens = event.max_tokens;
  sequence->wants_prompt_logits = event.wants_prompt_logits;
  sequence->rank_ns = now_ns + event.priority * kPriorityDelayNs;
  Sequence* const raw = sequence.get();
  const bool is_new = sequences_.emplace(event.request, std::move(sequence)).second;
  SLIPSTREAM_CHECK(is_new, "request ids are used once");
  waiting_.emplace(QueueKey{raw->rank_ns, raw->request}, raw);
}

void SchedulerState::step_done(const SchedulerEvent& event) {
  const auto found = sequences_.find(event.handle.request);
  if (found == sequences_.end()) return;  // cancelled while the step ran
  Sequence& sequence = *found->second;
  if (sequence.handle() != event.handle) return;  // of the stretch before a preemption
  SLIPSTREAM_CHECK(sequence.num_scheduled > 0, "a result belongs to a scheduled sequence");
  sequence.num_computed += sequence.num_scheduled;
  sequence.num_scheduled = 0;
  if (event.token_id >= 0) {
    SLIPSTREAM_CHECK(sequence.num_uncomputed() == 0, "the next token follows the last one");
    SLIPSTREAM_CHECK(sequence.num_tokens() < sequence.max_tokens, "the length limit is kept");
    sequence.token_ids.push_back(event.token_id);
    sequence.num_committed = sequence.num_tokens();
  }
  if (event.finished) {
    finish(sequence);
  } else {
    SLIPSTREAM_CHECK(sequence.num_uncomputed() > 0, "an unfinished sequence has work left");
  }
}

void SchedulerState::finish(Sequence& sequence) {
  if (sequence.state == SequenceState::kRunning) {
    running_.erase(std::find(running_.begin(), running_.end(), &sequence));
  } else {
    waiting_.erase(QueueKey{sequence.rank_ns, sequence.request});
  }
  blocks_.release(sequence.blocks);
  sequence.state = SequenceState::kFinished;
  sequences_.erase(sequence.request);
}

void SchedulerState::preempt(Sequence& sequence) {
  blocks_.release(sequence.blocks);
  sequence.num_computed = 0;
  sequence.num_scheduled = 0;
  ++sequence.num_preemptions;
  sequence.state = SequenceState::kPreempted;
  running_.erase(std::find(running_.begin(), running_.end(), &sequence));
  waiting_.emplace(QueueKey{sequence.rank_ns, sequence.request}, &sequence);
}

// Gives `sequence` as much of the step as limits leave; possibly nothing.
void SchedulerState::plan(Sequence& sequence, SchedulerOutput& output) {
  SLIPSTREAM_CHECK(sequence.num_scheduled == 0, "the last step's result comes before the next");
  const int64_t begin = sequence.num_computed;
  const int64_t tokens_left = limits_.max_num_batched_tokens - output.num_tokens;
  const int64_t rows_left = limits_.max_logit_rows - output.num_logit_rows;
  int64_t count = std::min(sequence.num_uncomputed(), tokens_left);
  if (count > 0 && sequence.num_logit_rows(begin, count) > rows_left) {
    // A chunk within the prompt needs a row per token or none at all; a shorter one leaves out the
    // last token's row.
    count = sequence.wants_prompt_logits && begin < sequence.num_prompt_tokens
                ? std::min(count, rows_left)
                : std::min(count, sequence.num_uncomputed() - 1);
  }
  if (count <= 0) return;
  const int64_t num_rows = sequence.num_logit_rows(begin, count);
  SLIPSTREAM_CHECK(num_rows <= rows_left, "the workspace holds every row of logits");
  sequence.num_scheduled = count;
  output.scheduled.push_back({&sequence, begin, count, num_rows});
  output.num_tokens += count;
  output.num_logit_rows += num_rows;
}

void SchedulerState::plan_decodes(SchedulerOutput& output) {
  // By index: preemption takes sequences off the end while this runs.
  for (size_t i = 0; i < running_.size(); ++i) {
    Sequence& sequence = *running_[i];
    if (sequence.num_uncomputed() != 1) continue;
    bool has_block = blocks_.reserve(sequence.blocks, sequence.num_tokens());
    while (!has_block) {
      Sequence* const victim = running_.back();
      preempt(*victim);
      ++output.num_preempted;
      if (victim == &sequence) break;
      has_block = blocks_.reserve(sequence.blocks, sequence.num_tokens());
    }
    if (has_block) plan(sequence, output);
  }
}

void SchedulerState::plan_prefills(SchedulerOutput& output) {
  for (Sequence* const sequence : running_) {
    if (sequence->num_scheduled == 0 && sequence->num_uncomputed() > 1) plan(*sequence, output);
  }
}

void SchedulerState::admit(SchedulerOutput& output) {
  // A step that had to preempt has no blocks to give away.
  if (output.num_preempted > 0) return;
  while (!waiting_.empty() && num_running() < limits_.max_num_seqs &&
         output.num_tokens < limits_.max_num_batched_tokens) {
    Sequence& sequence = *waiting_.begin()->second;
    // One spare block for each running sequence, so that an admission is not undone at once.
    const int64_t wanted = blocks_.blocks_for(sequence.num_tokens());
    const int64_t spare = num_running() == 0 ? 0 : num_running() + 1;
    if (wanted + spare > blocks_.num_free()) return;
    const bool reserved = blocks_.reserve(sequence.blocks, sequence.num_tokens());
    SLIPSTREAM_CHECK(reserved, "the free blocks were counted");
    waiting_.erase(waiting_.begin());
    sequence.state = SequenceState::kRunning;
    const auto place =
        std::upper_bound(running_.begin(), running_.end(), &sequence,
                         [](const Sequence* a, const Sequence* b) { return a->before(*b); });
    running_.insert(place, &sequence);
    plan(sequence, output);
  }
}

SchedulerOutput schedule(SchedulerState& state, std::span<const SchedulerEvent> events,
                         int64_t now_ns) {
  SchedulerOutput output;
  for (const SchedulerEvent& event : events) state.apply(event, now_ns, output);
  state.plan_decodes(output);
  state.plan_prefills(output);
  state.admit(output);
  SLIPSTREAM_CHECK(state.idle() || !output.scheduled.empty(), "every step makes progress");
  return output;
}

Status SchedulerState::check_sequence(const Sequence& sequence) const {
  const std::string name = str("request ", sequence.request, ": ");
  if (sequence.num_computed < 0 || sequence.num_computed > sequence.num_tokens()) {
    return failed(str(name, sequence.num_computed, " of ", sequence.num_tokens(), " computed"));
  }
  if (sequence.num_committed > sequence.num_tokens() ||
      sequence.num_prompt_tokens > sequence.num_committed) {
    return failed(str(name, sequence.num_committed, " tokens committed"));
  }
  if (sequence.num_tokens() > sequence.max_tokens) return failed(name + "longer than its limit");
  if (sequence.num_scheduled > sequence.num_uncomputed()) return failed(name + "plans too much");
  const auto held = static_cast<int64_t>(sequence.blocks.blocks.size());
  const bool running = sequence.state == SequenceState::kRunning;
  if (!running && (held != 0 || sequence.num_computed != 0 || sequence.num_scheduled != 0)) {
    return failed(name + "waits and holds blocks");
  }
  if (running && held < blocks_.blocks_for(sequence.num_computed + sequence.num_scheduled)) {
    return failed(name + "computes beyond its blocks");
  }
  return {};
}

Status SchedulerState::check_invariants() const {
  std::vector<const BlockTable*> tables;
  int64_t num_scheduled_tokens = 0;
  for (size_t i = 0; i < running_.size(); ++i) {
    const Sequence& sequence = *running_[i];
    if (sequence.state != SequenceState::kRunning) return failed("a stopped sequence runs");
    if (i > 0 && !running_[i - 1]->before(sequence)) return failed("running out of order");
    num_scheduled_tokens += sequence.num_scheduled;
    tables.push_back(&sequence.blocks);
  }
  for (const auto& [key, sequence] : waiting_) {
    if (key != QueueKey{sequence->rank_ns, sequence->request}) return failed("queue key differs");
    if (sequence->state != SequenceState::kWaiting &&
        sequence->state != SequenceState::kPreempted) {
      return failed("a running sequence waits");
    }
  }
  if (running_.size() + waiting_.size() != sequences_.size()) {
    return failed("a sequence is in no queue or in two");
  }
  for (const auto& [request, sequence] : sequences_) {
    if (request != sequence->request) return failed("a sequence under another's id");
    SLIPSTREAM_RETURN_IF_ERROR(check_sequence(*sequence));
  }
  if (num_running() > limits_.max_num_seqs) return failed("too many sequences run");
  if (num_scheduled_tokens > limits_.max_num_batched_tokens) return failed("too many tokens");
  return blocks_.check_invariants(tables);
}

}  // namespace slipstream
