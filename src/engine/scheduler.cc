#include "engine/scheduler.h"

#include <algorithm>
#include <new>
#include <utility>

#include "base/check.h"
#include "base/strings.h"

namespace slipstream {

void SchedulerOutput::clear() {
  scheduled.clear();
  cancelled.clear();
  expired.clear();
  failed.clear();
  num_tokens = 0;
  num_logit_rows = 0;
  num_preempted = 0;
}

SchedulerState::SchedulerState(const SchedulerLimits& limits, int64_t num_blocks,
                               int32_t block_size, const PrefixCacheOptions& cache)
    : limits_(limits), blocks_(num_blocks, block_size, cache) {
  SLIPSTREAM_CHECK(limits.max_num_seqs > 0, "a step has sequences");
  SLIPSTREAM_CHECK(limits.max_num_batched_tokens > 0, "a step has tokens");
  SLIPSTREAM_CHECK(limits.max_logit_rows >= limits.max_num_seqs,
                   "every running sequence may need a row of logits");
  running_.reserve(static_cast<size_t>(limits.max_num_seqs));
  prefills_.reserve(static_cast<size_t>(limits.max_num_seqs));
}

const Sequence* SchedulerState::find(RequestId request) const {
  const auto found = sequences_.find(request);
  return found == sequences_.end() ? nullptr : found->second.get();
}

bool SchedulerState::current(const SequenceHandle& handle) const {
  const Sequence* const sequence = find(handle.request);
  return sequence != nullptr && sequence->handle() == handle;
}

std::vector<RequestId> SchedulerState::overdue(int64_t now_ns) const {
  std::vector<RequestId> requests;
  for (const auto& [deadline_ns, request] : deadlines_) {
    if (deadline_ns > now_ns) break;
    requests.push_back(request);
  }
  return requests;
}

bool SchedulerState::fits(int64_t num_tokens) const {
  return blocks_.blocks_for(num_tokens) <= blocks_.num_blocks();
}

void SchedulerState::apply(const SchedulerEvent& event, int64_t now_ns, SchedulerOutput& output) {
  switch (event.kind) {
    case SchedulerEvent::kSubmit:
      try {
        submit(event, now_ns);
      } catch (const std::bad_alloc&) {
        output.failed.push_back(event.request);
      }
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
  SLIPSTREAM_CHECK(event.max_tokens >= std::ssize(event.prompt_token_ids),
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
  sequence->deadline_ns = event.deadline_ns;
  sequence->wants_prompt_logits = event.wants_prompt_logits;
  sequence->cache_salt = event.cache_salt;
  sequence->rank_ns = now_ns + event.priority * kPriorityDelayNs;
  Sequence* const raw = sequence.get();
  const bool is_new = sequences_.emplace(event.request, std::move(sequence)).second;
  SLIPSTREAM_CHECK(is_new, "request ids are used once");
  try {
    waiting_.emplace(QueueKey{raw->rank_ns, raw->request}, raw);
    if (raw->deadline_ns != 0) deadlines_.emplace(raw->deadline_ns, raw->request);
  } catch (...) {
    finish(*raw);
    throw;
  }
}

void SchedulerState::step_done(const SchedulerEvent& event) {
  const auto found = sequences_.find(event.handle.request);
  if (found == sequences_.end() || found->second->handle() != event.handle) {
    return;  // it ended or was preempted while the step ran
  }
  Sequence& sequence = *found->second;
  SLIPSTREAM_CHECK(event.num_tokens > 0 && event.num_tokens <= sequence.num_in_flight,
                   "a result belongs to a planned step");
  sequence.num_computed += event.num_tokens;
  sequence.num_in_flight -= event.num_tokens;
  if (event.token_id >= 0) {
    SLIPSTREAM_CHECK(sequence.num_computed == sequence.num_committed,
                     "the next token follows the last one");
    SLIPSTREAM_CHECK(sequence.num_committed < sequence.num_tokens(), "the token was expected");
    sequence.token_ids[static_cast<size_t>(sequence.num_committed++)] = event.token_id;
    sequence.wants_prompt_logits = false;  // known by now, and not asked for twice
  }
  if (event.in_doubt) {
    blocks_.forget(sequence.blocks);
  } else {
    blocks_.offer(sequence.blocks,
                  {std::span(sequence.token_ids).first(static_cast<size_t>(sequence.num_computed)),
                   sequence.cache_salt});
  }
  if (event.finished) {
    finish(sequence);
  } else {
    SLIPSTREAM_CHECK(sequence.num_in_flight > 0 || sequence.num_unplanned() > 0,
                     "an unfinished sequence has work left");
  }
}

void SchedulerState::expire(int64_t now_ns, SchedulerOutput& output) {
  if (deadlines_.empty()) return;
  output.expired = overdue(now_ns);
  for (const RequestId request : output.expired) finish(*sequences_.at(request));
}

void SchedulerState::finish(Sequence& sequence) {
  if (sequence.state == SequenceState::kRunning) {
    running_.erase(std::find(running_.begin(), running_.end(), &sequence));
  } else {
    waiting_.erase(QueueKey{sequence.rank_ns, sequence.request});
  }
  if (sequence.deadline_ns != 0) deadlines_.erase({sequence.deadline_ns, sequence.request});
  blocks_.release(sequence.blocks);
  sequence.state = SequenceState::kFinished;
  sequences_.erase(sequence.request);
}

void SchedulerState::preempt(Sequence& sequence) {
  blocks_.release(sequence.blocks);
  sequence.token_ids.resize(static_cast<size_t>(sequence.num_committed));
  sequence.num_computed = 0;
  sequence.num_in_flight = 0;
  ++sequence.num_preemptions;
  sequence.state = SequenceState::kPreempted;
  running_.erase(std::find(running_.begin(), running_.end(), &sequence));
  waiting_.emplace(QueueKey{sequence.rank_ns, sequence.request}, &sequence);
}

// Gives `sequence` up to `max_count` tokens of the step, as far as limits leave them.
void SchedulerState::plan(Sequence& sequence, int64_t max_count, SchedulerOutput& output) {
  const int64_t begin = sequence.num_planned();
  const int64_t tokens_left = limits_.max_num_batched_tokens - output.num_tokens;
  const int64_t rows_left = limits_.max_logit_rows - output.num_logit_rows;
  int64_t count = std::min({sequence.num_unplanned(), max_count, tokens_left});
  if (count > 0 && sequence.num_logit_rows(begin, count) > rows_left) {
    // A chunk within the prompt needs a row per token or none at all; a shorter one leaves out the
    // last token's row.
    count = sequence.wants_prompt_logits && begin < sequence.num_prompt_tokens
                ? std::min(count, rows_left)
                : std::min(count, sequence.num_unplanned() - 1);
  }
  if (count <= 0) return;
  ScheduledSequence& scheduled = output.scheduled.emplace_back();
  scheduled.sequence = &sequence;
  scheduled.handle = sequence.handle();
  scheduled.begin = begin;
  scheduled.num_tokens = count;
  scheduled.num_logit_rows = sequence.num_logit_rows(begin, count);
  scheduled.num_prompt_tokens = sequence.num_prompt_tokens;
  scheduled.num_cached_tokens = sequence.num_cached_tokens;
  scheduled.wants_prompt_logits = sequence.wants_prompt_logits;
  scheduled.samples = begin + count == sequence.num_tokens();
  SLIPSTREAM_CHECK(scheduled.num_logit_rows <= rows_left, "the workspace holds every row");
  sequence.num_in_flight += count;
  if (scheduled.samples && sequence.num_tokens() < sequence.max_tokens) {
    sequence.token_ids.push_back(kPendingToken);
  }
  output.num_tokens += count;
  output.num_logit_rows += scheduled.num_logit_rows;
}

int64_t SchedulerState::reserve_ahead(RequestId request, int64_t num_positions) {
  Sequence& sequence = *sequences_.find(request)->second;
  SLIPSTREAM_CHECK(sequence.state == SequenceState::kRunning, "who runs holds blocks");
  const int64_t block_size = blocks_.block_size();
  const int64_t held = std::ssize(sequence.blocks.blocks);
  const int64_t most = (held + blocks_.num_free()) * block_size;
  num_positions = std::min({num_positions, most, sequence.max_tokens});
  const bool reserved = blocks_.reserve(sequence.blocks, num_positions);
  SLIPSTREAM_CHECK(reserved, "free blocks are there to be taken");
  return std::min(num_positions, std::ssize(sequence.blocks.blocks) * block_size);
}

void SchedulerState::give_back_ahead(RequestId request) {
  const auto found = sequences_.find(request);
  if (found == sequences_.end() || found->second->state != SequenceState::kRunning) return;
  blocks_.truncate(found->second->blocks, found->second->num_tokens());
}

bool SchedulerState::reserve_or_preempt(Sequence& sequence, SchedulerOutput& output) {
  while (!blocks_.reserve(sequence.blocks, sequence.num_tokens())) {
    Sequence* const victim = running_.back();
    preempt(*victim);
    ++output.num_preempted;
    if (victim == &sequence) return false;
  }
  return true;
}

void SchedulerState::plan_decodes(SchedulerOutput& output) {
  // However many decode, the first in order gets a token.
  const bool first_prefills = !running_.empty() && running_.front()->num_unplanned() > 1;
  const int64_t max_tokens = limits_.max_num_batched_tokens - (first_prefills ? 1 : 0);
  // By index: preemption takes sequences off the end while this runs.
  for (size_t i = 0; i < running_.size(); ++i) {
    Sequence& sequence = *running_[i];
    if (output.num_tokens == max_tokens) return;
    if (sequence.num_unplanned() != 1) continue;
    if (reserve_or_preempt(sequence, output)) plan(sequence, 1, output);
  }
}

// Half of the tokens go in the order of service, half to those who need the fewest.
void SchedulerState::plan_prefills(SchedulerOutput& output) {
  if (prefills_.empty()) return;
  int64_t num_left = limits_.max_num_batched_tokens - output.num_tokens;
  int64_t num_in_order = num_left - num_left / 2;
  std::vector<Prefill*> shortest_first;
  for (Prefill& prefill : prefills_) {
    prefill.num_left = prefill.sequence->num_unplanned();
    prefill.num_granted = std::min(prefill.num_left, num_in_order);
    num_in_order -= prefill.num_granted;
    num_left -= prefill.num_granted;
    shortest_first.push_back(&prefill);
  }
  std::sort(shortest_first.begin(), shortest_first.end(), [](const Prefill* a, const Prefill* b) {
    return a->num_left != b->num_left ? a->num_left < b->num_left : a < b;
  });
  for (Prefill* const prefill : shortest_first) {
    const int64_t more = std::min(prefill->num_left - prefill->num_granted, num_left);
    prefill->num_granted += more;
    num_left -= more;
  }
  for (const Prefill& prefill : prefills_) plan(*prefill.sequence, prefill.num_granted, output);
}

int64_t SchedulerState::private_blocks(const Sequence& sequence) const {
  return std::count_if(sequence.blocks.blocks.begin(), sequence.blocks.blocks.end(),
                       [this](int32_t block) { return blocks_.ref_count(block) == 1; });
}

// The most blocks beyond those held now that are taken between `from` and `to` tokens from here,
// when everybody goes on to its limit; those that were there before `from` have given theirs back.
// `candidate` holds those of its tokens by then.
int64_t SchedulerState::demand_ahead(const Sequence& candidate, int64_t from, int64_t to) const {
  int64_t demand = 0;
  for (const Sequence* const sequence : running_) {
    if (sequence->num_tokens() + from > sequence->max_tokens) {
      demand -= private_blocks(*sequence);
    } else {
      const int64_t length = std::min(sequence->num_tokens() + to, sequence->max_tokens);
      demand += blocks_.blocks_for(length) - std::ssize(sequence->blocks.blocks);
    }
  }
  const int64_t length = std::min(candidate.num_tokens() + to, candidate.max_tokens);
  return demand + blocks_.blocks_for(length) - blocks_.blocks_for(candidate.num_tokens());
}

// The blocks of a waiting sequence's tokens, from the cache where it has them. False: not yet.
bool SchedulerState::take_blocks(Sequence& sequence) {
  const bool alone = running_.empty();
  // A long prompt is not looked up again in every step that it waits.
  if (!alone && blocked_request_ == sequence.request && blocks_.num_free() < blocked_need_) {
    return false;
  }
  std::vector<int32_t> found;
  if (!sequence.wants_prompt_logits) {
    // The last token is computed in any case: its logits are wanted.
    const auto ids = std::span(sequence.token_ids).first(sequence.token_ids.size() - 1);
    found = blocks_.match({ids, sequence.cache_salt});
  }
  const int64_t need =
      blocks_.blocks_for(sequence.num_tokens()) - std::ssize(found) + blocks_.num_idle(found);
  bool room = need <= blocks_.num_free();
  for (int64_t from = 0; room && !alone && from < limits_.admission_horizon;) {
    const int64_t to = std::min(from + blocks_.block_size(), limits_.admission_horizon);
    room = need + demand_ahead(sequence, from, to) <= blocks_.num_free();
    from = to;
  }
  if (!room) {
    SLIPSTREAM_CHECK(!alone, "every sequence alone fits the pool");
    blocked_request_ = sequence.request;
    blocked_need_ = need;
    return false;
  }
  blocks_.adopt(found, sequence.blocks);
  const bool reserved = blocks_.reserve(sequence.blocks, sequence.num_tokens());
  SLIPSTREAM_CHECK(reserved, "the free blocks were counted");
  sequence.num_computed = std::ssize(found) * blocks_.block_size();
  if (blocks_.caching() && sequence.num_preemptions == 0 && !sequence.wants_prompt_logits) {
    sequence.num_cached_tokens = sequence.num_computed;
    num_cache_queries_ += sequence.num_prompt_tokens;
    num_cache_hits_ += sequence.num_cached_tokens;
  }
  return true;
}

// Takes sequences from the queue and adds them to this step's prefills.
void SchedulerState::admit(SchedulerOutput& output) {
  // Else who was preempted for want of a block would be back at once, and again without one.
  if (output.num_preempted > 0) return;
  while (!waiting_.empty() && num_running() < limits_.max_num_seqs &&
         output.num_tokens < limits_.max_num_batched_tokens) {
    Sequence& sequence = *waiting_.begin()->second;
    if (!take_blocks(sequence)) return;
    waiting_.erase(waiting_.begin());
    sequence.state = SequenceState::kRunning;
    const auto place =
        std::upper_bound(running_.begin(), running_.end(), &sequence,
                         [](const Sequence* a, const Sequence* b) { return a->before(*b); });
    running_.insert(place, &sequence);
    const auto prefill_place = std::upper_bound(
        prefills_.begin(), prefills_.end(), &sequence,
        [](const Sequence* a, const Prefill& b) { return a->before(*b.sequence); });
    prefills_.insert(prefill_place, {&sequence, 0, 0});
  }
}

bool SchedulerState::anything_in_flight() const {
  return std::any_of(running_.begin(), running_.end(),
                     [](const Sequence* sequence) { return sequence->num_in_flight > 0; });
}

SchedulerOutput schedule(SchedulerState& state, std::span<const SchedulerEvent> events,
                         int64_t now_ns, SchedulerOutput reused) {
  SchedulerOutput output = std::move(reused);
  output.clear();
  for (const SchedulerEvent& event : events) state.apply(event, now_ns, output);
  state.expire(now_ns, output);
  state.plan_decodes(output);
  state.prefills_.clear();
  for (Sequence* const sequence : state.running_) {
    if (sequence->num_unplanned() > 1) state.prefills_.push_back({sequence, 0, 0});
  }
  state.admit(output);
  state.plan_prefills(output);
  SLIPSTREAM_CHECK(state.idle() || !output.scheduled.empty() || state.anything_in_flight(),
                   "every step makes progress");
  return output;
}

void withdraw(SchedulerState& state, const SchedulerOutput& output) {
  for (const ScheduledSequence& scheduled : output.scheduled) {
    if (!state.current(scheduled.handle)) continue;
    Sequence& sequence = *state.sequences_.at(scheduled.request());
    SLIPSTREAM_CHECK(sequence.num_planned() == scheduled.begin + scheduled.num_tokens,
                     "only the latest plan can be taken back");
    sequence.num_in_flight -= scheduled.num_tokens;
    // The token that it would have sampled.
    if (scheduled.samples && sequence.num_tokens() > scheduled.begin + scheduled.num_tokens) {
      sequence.token_ids.pop_back();
    }
  }
}

Status SchedulerState::check_sequence(const Sequence& sequence) const {
  const std::string name = str("request ", sequence.request, ": ");
  if (sequence.num_computed < 0 || sequence.num_in_flight < 0 ||
      sequence.num_planned() > sequence.num_tokens()) {
    return failed(str(name, sequence.num_computed, " computed and ", sequence.num_in_flight,
                      " in flight of ", sequence.num_tokens()));
  }
  if (sequence.num_committed > sequence.num_tokens() ||
      sequence.num_prompt_tokens > sequence.num_committed) {
    return failed(str(name, sequence.num_committed, " tokens committed"));
  }
  const auto num_pending =
      std::count(sequence.token_ids.begin(), sequence.token_ids.end(), kPendingToken);
  if (num_pending != sequence.num_tokens() - sequence.num_committed ||
      num_pending > sequence.num_in_flight) {
    return failed(str(name, num_pending, " tokens pending"));
  }
  if (sequence.num_tokens() > sequence.max_tokens) return failed(name + "longer than its limit");
  if (sequence.num_unplanned() < 0) return failed(name + "plans too much");
  const auto held = std::ssize(sequence.blocks.blocks);
  const bool running = sequence.state == SequenceState::kRunning;
  if (!running && (held != 0 || sequence.num_planned() != 0 || num_pending != 0)) {
    return failed(name + "waits and holds blocks");
  }
  if (running && held < blocks_.blocks_for(sequence.num_planned())) {
    return failed(name + "computes beyond its blocks");
  }
  if (sequence.deadline_ns != 0 && !deadlines_.contains({sequence.deadline_ns, sequence.request})) {
    return failed(name + "has a deadline nobody watches");
  }
  return {};
}

Status SchedulerState::check_invariants() const {
  std::vector<const BlockTable*> tables;
  for (size_t i = 0; i < running_.size(); ++i) {
    const Sequence& sequence = *running_[i];
    if (sequence.state != SequenceState::kRunning) return failed("a stopped sequence runs");
    if (i > 0 && !running_[i - 1]->before(sequence)) return failed("running out of order");
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
  size_t num_deadlines = 0;
  for (const auto& [request, sequence] : sequences_) {
    if (request != sequence->request) return failed("a sequence under another's id");
    num_deadlines += sequence->deadline_ns != 0 ? 1 : 0;
    SLIPSTREAM_RETURN_IF_ERROR(check_sequence(*sequence));
  }
  if (deadlines_.size() != num_deadlines) return failed("a deadline outlives its sequence");
  if (num_running() > limits_.max_num_seqs) return failed("too many sequences run");
  return blocks_.check_invariants(tables);
}

}  // namespace slipstream
