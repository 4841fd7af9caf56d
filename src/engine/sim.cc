#include "engine/sim.h"

#include <algorithm>
#include <map>
#include <span>
#include <vector>

#include "base/random.h"
#include "base/strings.h"
#include "engine/scheduler.h"
#include "engine/sim_world.h"
#include "engine/step_batch.h"

namespace slipstream {
namespace {

constexpr int32_t kEos = 0;
constexpr uint64_t kPoison = 0xDEADBEEF;  // no prefix has this hash
constexpr size_t kMaxLive = 40;

uint64_t mix(uint64_t hash, int32_t token) {
  return SplitMix64(hash ^ (static_cast<uint64_t>(token) + 0x51ED2701u)).next();
}

// K and V depend on the salt here, so that a block shared across salts is a wrong block.
uint64_t root_hash(const std::string& salt) {
  return salt.empty() ? 0 : mix(17, static_cast<int32_t>(salt.back()));
}

// The token does not.
int32_t next_token(std::span<const int32_t> tokens) {
  uint64_t hash = 0;
  for (const int32_t token : tokens) hash = mix(hash, token);
  return static_cast<int32_t>((hash >> 17) % kSimVocab);
}

// What the request gives when it has the machine to itself.
std::vector<int32_t> run_alone(std::span<const int32_t> prompt, int64_t max_tokens) {
  std::vector<int32_t> tokens(prompt.begin(), prompt.end());
  uint64_t hash = 0;
  for (const int32_t token : tokens) hash = mix(hash, token);
  while (std::ssize(tokens) < max_tokens) {
    tokens.push_back(static_cast<int32_t>((hash >> 17) % kSimVocab));
    if (tokens.back() == kEos) break;
    hash = mix(hash, tokens.back());
  }
  return tokens;
}

struct SimRequest {
  std::vector<int32_t> prompt;
  std::vector<int32_t> tokens;  // prompt and what came back so far
  std::string salt;
  int64_t max_tokens = 0;
  int64_t deadline_ns = 0;
  int32_t priority = 0;
  bool wants_prompt_logits = false;
  bool ran = false;
  int64_t first_step = 0;
  int64_t max_steps = 0;  // from arrival to end
};

class Simulation {
 public:
  Simulation(const SimWorld& world, SplitMix64& random, RequestId first_request, SimReport& report)
      : world_(world),
        random_(random),
        report_(report),
        state_(world.limits, world.num_blocks, world.block_size, world.cache),
        next_request_(first_request),
        slots_(static_cast<size_t>(world.num_blocks * world.block_size), kPoison) {}

  // Load for `num_steps` steps, then none until every request has ended. False: a rule broke.
  bool run(int64_t num_steps) {
    for (int64_t step = 0; step < num_steps; ++step) {
      if (!run_step(true)) return false;
    }
    int64_t steps_left = 1000;
    for (const auto& [request, sim] : requests_) steps_left += 4 * sim.max_tokens;
    while (!requests_.empty()) {
      if (--steps_left < 0) return violated(str(requests_.size(), " requests never end"));
      if (!run_step(false)) return false;
    }
    for (int i = 0; i < 3; ++i) {
      if (!run_step(false)) return false;
    }
    if (!state_.idle()) return violated("a request stays behind");
    if (state_.blocks().num_used() != 0) return violated("blocks stay in use without a request");
    return true;
  }

  RequestId next_request() const { return next_request_; }

 private:
  bool violated(const std::string& what) {
    report_.violation =
        str("step ", report_.num_steps, " of world ", report_.num_worlds, ": ", what);
    return false;
  }

  SimPlace place_of(RequestId request) const {
    const Sequence* const sequence = state_.find(request);
    if (sequence == nullptr) return SimPlace::kEnded;
    if (sequence->state == SequenceState::kWaiting) return SimPlace::kWaiting;
    if (sequence->state == SequenceState::kPreempted) return SimPlace::kPreempted;
    return sequence->num_planned() < sequence->num_prompt_tokens ? SimPlace::kPrefill
                                                                 : SimPlace::kDecode;
  }
  void cover(SimPlace place, SimEvent event) {
    ++report_.coverage[static_cast<size_t>(place)][static_cast<size_t>(event)];
  }

  // ---- load ----

  std::vector<int32_t> random_prompt() {
    std::vector<int32_t> prompt;
    if (!finished_.empty() && random_.below(4) == 0) {
      prompt = finished_;  // the next turn of a conversation
    } else if (!world_.prefixes.empty()) {
      prompt = world_.prefixes[random_.below(world_.prefixes.size())];
      if (random_.below(2) == 0) prompt.resize(random_.below(prompt.size() + 1));
    }
    const bool with_tail = prompt.empty() || random_.below(4) != 0;
    const uint64_t num_more = with_tail ? 1 + random_.below(world_.max_prompt) : 0;
    for (const int32_t id : random_sim_ids(random_, num_more)) prompt.push_back(id);
    return prompt;
  }

  // Each step in which it is not over, the first in order computes a token (with steps that
  // overlap, every other step), and is never preempted. So nobody takes longer than everybody
  // before it in order and itself, one token a step.
  int64_t step_bound(const SimRequest& sim) const {
    int64_t num_tokens = sim.max_tokens + 4;
    for (const auto& [request, other] : requests_) num_tokens += other.max_tokens + 4;
    return num_tokens * (world_.overlap == SimOverlap::kNone ? 1 : 2);
  }

  void arrive(std::vector<SchedulerEvent>& events) {
    SimRequest sim;
    sim.prompt = random_prompt();
    sim.tokens = sim.prompt;
    sim.max_tokens =
        std::ssize(sim.prompt) + static_cast<int64_t>(random_.below(world_.max_answer));
    // An answer of no tokens is a prompt whose logits are asked for.
    sim.wants_prompt_logits = random_.below(8) == 0 || sim.max_tokens == std::ssize(sim.prompt);
    if (!state_.fits(sim.max_tokens)) return;  // refused, as Engine::submit does
    if (world_.priorities) sim.priority = static_cast<int32_t>(random_.below(5)) - 2;
    sim.salt = std::string(random_.below(world_.num_salts), 'a');
    if (random_.below(1000) < world_.deadline_permille) {
      sim.deadline_ns = now_ns_ + static_cast<int64_t>(random_.below(400'000'000)) - 1'000'000;
    }
    sim.first_step = report_.num_steps;
    sim.max_steps = step_bound(sim);
    ++report_.num_requests;
    const auto& added = *requests_.emplace(next_request_++, std::move(sim)).first;
    SchedulerEvent event;
    event.kind = SchedulerEvent::kSubmit;
    event.request = added.first;
    event.prompt_token_ids = added.second.prompt;
    event.cache_salt = added.second.salt;
    event.max_tokens = added.second.max_tokens;
    event.deadline_ns = added.second.deadline_ns;
    event.priority = added.second.priority;
    event.wants_prompt_logits = added.second.wants_prompt_logits;
    events.push_back(event);
  }

  // Of live requests, ended ones and ids that never were; now and then twice.
  void add_cancels(std::vector<SchedulerEvent>& events) {
    while (random_.below(1000) < world_.cancel_permille) {
      SchedulerEvent event;
      event.kind = SchedulerEvent::kCancel;
      event.request = next_request_ - std::min<RequestId>(next_request_, random_.below(30));
      cover(place_of(event.request), SimEvent::kCancel);
      events.push_back(event);
      if (random_.below(4) == 0) events.push_back(event);
    }
  }

  // ---- planning ----

  bool end_request(RequestId request) {
    const auto found = requests_.find(request);
    if (found == requests_.end()) return violated("an ended request ends again");
    const SimRequest& sim = found->second;
    const std::vector<int32_t> alone = run_alone(sim.prompt, sim.max_tokens);
    const bool is_prefix = sim.tokens.size() <= alone.size() &&
                           std::equal(sim.tokens.begin(), sim.tokens.end(), alone.begin());
    if (!is_prefix) return violated(str("request ", request, " differs from itself alone"));
    if (!check_wait(sim)) return violated(str("request ", request, " waits for ever"));
    requests_.erase(found);
    return true;
  }

  // Where everybody arrives in the order of rank.
  bool check_wait(const SimRequest& sim) {
    if (world_.priorities || world_.clock_jumps) return true;
    const double share = static_cast<double>(report_.num_steps - sim.first_step) /
                         static_cast<double>(sim.max_steps);
    report_.max_wait_share = std::max(report_.max_wait_share, share);
    return share <= 1.0;
  }

  bool check_output(const SchedulerOutput& output) {
    if (output.num_tokens > world_.limits.max_num_batched_tokens ||
        output.num_logit_rows > world_.limits.max_logit_rows) {
      return violated("a step beyond its limits");
    }
    if (!output.failed.empty()) return violated("a submit failed");
    for (const RequestId request : output.cancelled) {
      ++report_.num_cancelled;
      if (!end_request(request)) return false;
    }
    for (const RequestId request : output.expired) {
      ++report_.num_expired;
      if (requests_.at(request).deadline_ns > now_ns_) return violated("a deadline comes early");
      if (!end_request(request)) return false;
    }
    for (const auto& [request, sim] : requests_) {
      if (sim.deadline_ns != 0 && sim.deadline_ns <= now_ns_) return violated("a deadline is late");
      if (!check_wait(sim)) return violated(str("request ", request, " starves"));
    }
    report_.num_preemptions += output.num_preempted;
    const Status status = state_.check_invariants();
    return status.ok() ? true : violated(status.message());
  }

  void cover_plan(const SchedulerOutput& output) {
    for (const ScheduledSequence& scheduled : output.scheduled) {
      const auto found = requests_.find(scheduled.request());
      const auto place = places_.find(scheduled.request());
      const SimPlace before = place == places_.end() ? SimPlace::kWaiting : place->second;
      const bool resumed = before == SimPlace::kPreempted;
      if (found->second.ran && !resumed) continue;
      const SimPlace from = resumed ? SimPlace::kPreempted : SimPlace::kWaiting;
      cover(from, SimEvent::kAdmit);
      if (scheduled.begin > 0) cover(from, SimEvent::kHit);
      if (!found->second.ran) report_.num_cached_tokens += scheduled.num_cached_tokens;
      found->second.ran = true;
    }
    for (const auto& [request, place] : places_) {
      const Sequence* const sequence = state_.find(request);
      if (sequence != nullptr && sequence->state == SequenceState::kPreempted &&
          (place == SimPlace::kPrefill || place == SimPlace::kDecode)) {
        cover(place, SimEvent::kPreempt);
      }
    }
    for (const RequestId request : output.expired) {
      const auto place = places_.find(request);
      cover(place == places_.end() ? SimPlace::kWaiting : place->second, SimEvent::kDeadline);
    }
  }

  bool plan(StepPlan& plan, bool load) {
    now_ns_ += 1 + static_cast<int64_t>(random_.below(10'000'000));
    if (world_.clock_jumps && random_.below(50) == 0) {
      now_ns_ += (static_cast<int64_t>(random_.below(3)) - 1) * 3'600'000'000'000;
    }
    std::vector<SchedulerEvent> events;
    events.swap(results_);
    while (load && random_.below(1000) < world_.arrival_permille && requests_.size() < kMaxLive) {
      arrive(events);
    }
    add_cancels(events);
    places_.clear();
    for (const auto& [request, sim] : requests_) {
      if (state_.find(request) != nullptr) places_.emplace(request, place_of(request));
    }
    plan.output = schedule(state_, events, now_ns_);
    if (!check_output(plan.output)) return false;
    cover_plan(plan.output);
    build_batch(plan.output, world_.block_size, plan.batch);
    return true;
  }

  bool run_step(bool load) {
    ++report_.num_steps;
    if (current_.output.scheduled.empty() && !plan(current_, load)) return false;
    if (current_.output.scheduled.empty()) return true;
    next_.output = SchedulerOutput();
    if (world_.overlap != SimOverlap::kNone && !plan(next_, load)) return false;
    if (!execute()) return false;
    if (world_.overlap == SimOverlap::kDropped) {
      if (random_.below(4) == 0) {
        withdraw(state_, next_.output);
        next_.output = SchedulerOutput();
      }
      keep_requests(next_, [this](RequestId request) { return requests_.contains(request); });
    }
    std::swap(current_, next_);
    return true;
  }

  // ---- the device ----

  // Runs current_ as its batch says, and knows nothing of the scheduler's state now.
  bool execute() {
    const ForwardBatch& batch = current_.batch;
    fill_pending(current_, [this](size_t seq_idx) {
      return device_tokens_.at(current_.output.scheduled[seq_idx].request());
    });
    std::map<RequestId, int32_t> sampled;
    size_t row_idx = 0;
    for (size_t i = 0; i < current_.output.scheduled.size(); ++i) {
      const ScheduledSequence& scheduled = current_.output.scheduled[i];
      row_idx += static_cast<size_t>(scheduled.num_logit_rows);
      if (scheduled.samples &&
          (row_idx == 0 || batch.logit_rows[row_idx - 1] + 1 != batch.cu_seqlens_q[i + 1])) {
        return violated("the last token has no row of logits");
      }
      if (!execute_sequence(scheduled, i, sampled)) return false;
    }
    if (row_idx != batch.logit_rows.size()) return violated("rows of logits nobody wants");
    device_tokens_ = std::move(sampled);
    return true;
  }

  bool execute_sequence(const ScheduledSequence& scheduled, size_t seq_idx,
                        std::map<RequestId, int32_t>& sampled) {
    const ForwardBatch& batch = current_.batch;
    const auto found = requests_.find(scheduled.request());
    const bool counts = state_.current(scheduled.handle);
    if (counts && found == requests_.end()) return violated("an ended request runs");
    const auto first_row = static_cast<size_t>(batch.cu_seqlens_q[seq_idx]);
    const auto table = std::span(batch.block_table)
                           .subspan(seq_idx * static_cast<size_t>(batch.block_table_stride));
    if (found == requests_.end()) {  // it writes where it may, and nobody minds
      for (int64_t i = 0; i < scheduled.num_tokens; ++i) {
        slots_[static_cast<size_t>(batch.slot_mapping[first_row + static_cast<size_t>(i)])] =
            kPoison;
      }
      sampled[scheduled.request()] = 1;
      cover(SimPlace::kEnded, SimEvent::kStale);
      return true;
    }
    SimRequest& sim = found->second;
    const std::vector<int32_t>& tokens = sim.tokens;
    uint64_t hash = root_hash(sim.salt);
    for (int64_t position = 0; position < scheduled.begin; ++position) {
      hash = mix(hash, tokens[static_cast<size_t>(position)]);
      const auto block =
          static_cast<int64_t>(table[static_cast<size_t>(position / world_.block_size)]);
      if (slots_[static_cast<size_t>(block * world_.block_size + position % world_.block_size)] !=
          hash) {
        return violated(
            str("request ", scheduled.request(), " reads a wrong block at position ", position));
      }
    }
    for (int64_t i = 0; i < scheduled.num_tokens; ++i) {
      const size_t row = first_row + static_cast<size_t>(i);
      const auto position = static_cast<size_t>(scheduled.begin + i);
      if (batch.positions[row] != scheduled.begin + i || position >= tokens.size() ||
          batch.token_ids[row] != tokens[position]) {
        return violated(str("request ", scheduled.request(), " computes a wrong token"));
      }
      hash = mix(hash, tokens[position]);
      slots_[static_cast<size_t>(batch.slot_mapping[row])] = hash;
    }
    report_.num_tokens += scheduled.num_tokens;
    report_.max_preemptions =
        std::max(report_.max_preemptions, int64_t{scheduled.handle.num_preemptions});
    if (scheduled.samples) sampled[scheduled.request()] = next_token(tokens);
    if (!counts) {
      cover(place_of(scheduled.request()), SimEvent::kStale);
      return true;
    }
    return deliver(scheduled, sim, first_row);
  }

  bool deliver(const ScheduledSequence& scheduled, SimRequest& sim, size_t first_row) {
    SchedulerEvent event;
    event.kind = SchedulerEvent::kStepDone;
    event.handle = scheduled.handle;
    event.num_tokens = scheduled.num_tokens;
    const bool gives_token = scheduled.samples && std::ssize(sim.tokens) < sim.max_tokens;
    const SimPlace place = scheduled.begin + scheduled.num_tokens <= scheduled.num_prompt_tokens
                               ? SimPlace::kPrefill
                               : SimPlace::kDecode;
    if (random_.below(1000) < world_.fault_permille) {
      event.finished = event.in_doubt = true;
      for (int64_t i = 0; i < scheduled.num_tokens; ++i) {
        slots_[static_cast<size_t>(
            current_.batch.slot_mapping[first_row + static_cast<size_t>(i)])] = kPoison;
      }
      ++report_.num_faults;
      cover(place, SimEvent::kFault);
    } else if (gives_token) {
      event.token_id = next_token(sim.tokens);
      sim.tokens.push_back(event.token_id);
      event.finished = event.token_id == kEos || std::ssize(sim.tokens) == sim.max_tokens;
    } else {
      event.finished = scheduled.samples;
    }
    results_.push_back(event);
    if (random_.below(64) == 0) add_stale_result(event);
    if (!event.finished) return true;
    if (!event.in_doubt) {
      ++report_.num_finished;
      cover(place, SimEvent::kFinish);
      if (sim.tokens != run_alone(sim.prompt, sim.max_tokens)) {
        return violated(str("request ", scheduled.request(), " ends early"));
      }
      if (random_.below(4) == 0) finished_ = sim.tokens;
    }
    return end_request(scheduled.request());
  }

  // A result of a stretch of running that is over, as a device may deliver one.
  void add_stale_result(const SchedulerEvent& event) {
    SchedulerEvent stale = event;
    if (stale.handle.num_preemptions == 0) {
      stale.handle.request += 1'000'000'000;
    } else {
      --stale.handle.num_preemptions;
    }
    stale.token_id = 1;
    results_.push_back(stale);
  }

  const SimWorld world_;
  SplitMix64& random_;
  SimReport& report_;
  SchedulerState state_;
  RequestId next_request_;
  int64_t now_ns_ = 1'000'000'000'000'000;
  std::map<RequestId, SimRequest> requests_;
  std::map<RequestId, SimPlace> places_;  // before the call to schedule()
  std::vector<int32_t> finished_;         // what a request ended with
  std::vector<SchedulerEvent> results_;
  StepPlan current_;
  StepPlan next_;
  std::map<RequestId, int32_t> device_tokens_;  // sampled by the step that ran last
  std::vector<uint64_t> slots_;                 // the pages: one hash per slot
};

}  // namespace

const char* sim_event_name(SimEvent event) {
  constexpr const char* kNames[] = {"admit", "hit",    "preempt",  "finish",
                                    "fault", "cancel", "deadline", "stale"};
  return kNames[static_cast<size_t>(event)];
}

const char* sim_place_name(SimPlace place) {
  constexpr const char* kNames[] = {"waiting", "prefill", "decode", "preempted", "ended"};
  return kNames[static_cast<size_t>(place)];
}

SimReport run_simulation(const SimOptions& options) {
  SimReport report;
  SplitMix64 random(options.seed);
  RequestId next_request = 1;
  while (report.num_steps < options.num_steps) {
    ++report.num_worlds;
    const SimWorld world = random_sim_world(random);
    Simulation simulation(world, random, next_request, report);
    const int64_t num_steps = std::min<int64_t>(50 + static_cast<int64_t>(random.below(400)),
                                                options.num_steps - report.num_steps);
    if (!simulation.run(num_steps)) {
      report.violation = str("seed ", options.seed, ", ", report.violation);
      break;
    }
    next_request = simulation.next_request();
  }
  return report;
}

}  // namespace slipstream
