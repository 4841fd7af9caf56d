#include "engine/sim.h"

#include <algorithm>
#include <map>
#include <span>
#include <vector>

#include "base/random.h"
#include "base/strings.h"
#include "engine/scheduler.h"

namespace slipstream {
namespace {

constexpr int32_t kVocab = 50;
constexpr int32_t kEos = 0;

uint64_t mix(uint64_t hash, int32_t token) {
  return SplitMix64(hash ^ (static_cast<uint64_t>(token) + 0x51ED2701u)).next();
}

uint64_t prefix_hash(std::span<const int32_t> tokens) {
  uint64_t hash = 0;
  for (const int32_t token : tokens) hash = mix(hash, token);
  return hash;
}

int32_t next_token(uint64_t hash) { return static_cast<int32_t>((hash >> 17) % kVocab); }

// What the request gives when it has the machine to itself.
std::vector<int32_t> run_alone(std::span<const int32_t> prompt, int64_t max_tokens) {
  std::vector<int32_t> tokens(prompt.begin(), prompt.end());
  uint64_t hash = prefix_hash(tokens);
  while (static_cast<int64_t>(tokens.size()) < max_tokens) {
    tokens.push_back(next_token(hash));
    if (tokens.back() == kEos) break;
    hash = mix(hash, tokens.back());
  }
  return tokens;
}

struct SimRequest {
  std::vector<int32_t> prompt;
  std::vector<int32_t> tokens;  // prompt and what came back so far
  int64_t max_tokens = 0;
  int32_t priority = 0;
  bool wants_prompt_logits = false;
};

struct World {
  SchedulerLimits limits;
  int64_t num_blocks = 1;
  int32_t block_size = 1;
  uint64_t arrival_permille = 0;
  uint64_t cancel_permille = 0;
  uint64_t max_prompt = 1;
  uint64_t max_answer = 1;
  bool priorities = false;
  bool clock_jumps = false;
};

World random_world(SplitMix64& random) {
  World world;
  const auto pick = [&](uint64_t low, uint64_t high) {
    return static_cast<int64_t>(low + random.below(high - low + 1));
  };
  world.num_blocks = pick(1, 64);
  world.block_size = static_cast<int32_t>(pick(1, 16));
  world.limits.max_num_seqs = pick(1, 12);
  world.limits.max_num_batched_tokens = pick(1, random.below(2) == 0 ? 8 : 64);
  world.limits.max_logit_rows = world.limits.max_num_seqs + pick(0, 8);
  world.arrival_permille = random.below(900) + 20;
  world.cancel_permille = random.below(3) == 0 ? random.below(200) : 0;
  const auto pool_tokens = static_cast<uint64_t>(world.num_blocks * world.block_size);
  world.max_prompt = 1 + random.below(std::min<uint64_t>(pool_tokens, 80));
  world.max_answer =
      1 + random.below(random.below(2) == 0 ? 40 : std::max<uint64_t>(pool_tokens, 2));
  world.priorities = random.below(3) == 0;
  world.clock_jumps = random.below(4) == 0;
  return world;
}

class Simulation {
 public:
  Simulation(const World& world, SplitMix64& random, RequestId first_request, SimReport& report)
      : world_(world),
        random_(random),
        report_(report),
        state_(world.limits, world.num_blocks, world.block_size),
        next_request_(first_request),
        slots_(static_cast<size_t>(world.num_blocks * world.block_size), 0) {}

  // Load for `num_steps` steps, then none until every request has ended. False: a rule broke.
  bool run(int64_t num_steps) {
    for (int64_t step = 0; step < num_steps; ++step) {
      if (!run_step(true)) return false;
    }
    // Each request is computed at least once more in full only if it was preempted, and each step
    // computes a token of the first in order.
    int64_t steps_left = 1000;
    for (const auto& [request, sim] : requests_) steps_left += 4 * sim.max_tokens;
    while (!requests_.empty()) {
      if (--steps_left < 0) return violated(str(requests_.size(), " requests never end"));
      if (!run_step(false)) return false;
    }
    if (!run_step(false)) return false;
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

  void arrive() {
    SimRequest sim;
    const int64_t num_prompt_tokens = 1 + static_cast<int64_t>(random_.below(world_.max_prompt));
    for (int64_t i = 0; i < num_prompt_tokens; ++i) {
      sim.prompt.push_back(static_cast<int32_t>(random_.below(kVocab)));
    }
    sim.tokens = sim.prompt;
    sim.max_tokens = num_prompt_tokens + 1 + static_cast<int64_t>(random_.below(world_.max_answer));
    if (!state_.fits(sim.max_tokens)) return;  // refused, as Engine::submit does
    if (world_.priorities) sim.priority = static_cast<int32_t>(random_.below(5)) - 2;
    sim.wants_prompt_logits = random_.below(8) == 0;
    ++report_.num_requests;
    requests_.emplace(next_request_++, std::move(sim));
  }

  void add_arrivals(std::vector<SchedulerEvent>& events) {
    const RequestId first_new = next_request_;
    while (random_.below(1000) < world_.arrival_permille && requests_.size() < 40) arrive();
    for (auto it = requests_.lower_bound(first_new); it != requests_.end(); ++it) {
      SchedulerEvent event;
      event.kind = SchedulerEvent::kSubmit;
      event.request = it->first;
      event.prompt_token_ids = it->second.prompt;
      event.max_tokens = it->second.max_tokens;
      event.priority = it->second.priority;
      event.wants_prompt_logits = it->second.wants_prompt_logits;
      events.push_back(event);
    }
  }

  // Of live requests, ended ones and ids that never were; now and then twice.
  void add_cancels(std::vector<SchedulerEvent>& events) {
    while (random_.below(1000) < world_.cancel_permille) {
      SchedulerEvent event;
      event.kind = SchedulerEvent::kCancel;
      event.request = next_request_ - std::min<RequestId>(next_request_, random_.below(30));
      events.push_back(event);
    }
  }

  bool run_step(bool load) {
    ++report_.num_steps;
    now_ns_ += 1 + static_cast<int64_t>(random_.below(10'000'000));
    if (world_.clock_jumps && random_.below(50) == 0) {
      now_ns_ += (static_cast<int64_t>(random_.below(3)) - 1) * 3'600'000'000'000;
    }
    std::vector<SchedulerEvent> events;
    events.swap(done_);
    if (load) add_arrivals(events);
    add_cancels(events);

    const SchedulerOutput output = schedule(state_, events, now_ns_);
    for (const RequestId request : output.cancelled) {
      ++report_.num_cancelled;
      if (requests_.erase(request) != 1)
        return violated("a cancel of an ended request took effect");
    }
    report_.num_preemptions += output.num_preempted;
    const Status status = state_.check_invariants();
    if (!status.ok()) return violated(status.message());
    if (output.num_tokens > world_.limits.max_num_batched_tokens ||
        output.num_logit_rows > world_.limits.max_logit_rows) {
      return violated("a step beyond its limits");
    }
    for (const ScheduledSequence& scheduled : output.scheduled) {
      if (!execute(scheduled)) return false;
    }
    return true;
  }

  uint64_t& slot(const Sequence& sequence, int64_t position) {
    const auto block = sequence.blocks.blocks[static_cast<size_t>(position / world_.block_size)];
    return slots_[static_cast<size_t>(block * world_.block_size + position % world_.block_size)];
  }

  bool execute(const ScheduledSequence& scheduled) {
    const Sequence& sequence = *scheduled.sequence;
    const auto found = requests_.find(sequence.request);
    if (found == requests_.end()) return violated("an ended request runs");
    SimRequest& sim = found->second;
    if (sequence.token_ids != sim.tokens) return violated("token timelines differ");
    uint64_t hash = 0;
    for (int64_t position = 0; position < scheduled.begin; ++position) {
      hash = mix(hash, sim.tokens[static_cast<size_t>(position)]);
      if (slot(sequence, position) != hash) {
        return violated(
            str("request ", sequence.request, " reads a wrong block at position ", position));
      }
    }
    const int64_t end = scheduled.begin + scheduled.num_tokens;
    for (int64_t position = scheduled.begin; position < end; ++position) {
      hash = mix(hash, sim.tokens[static_cast<size_t>(position)]);
      slot(sequence, position) = hash;
    }
    report_.num_tokens += scheduled.num_tokens;
    report_.max_preemptions = std::max(report_.max_preemptions, int64_t{sequence.num_preemptions});

    SchedulerEvent event;
    event.kind = SchedulerEvent::kStepDone;
    event.handle = sequence.handle();
    if (scheduled.samples()) {
      event.token_id = next_token(hash);
      sim.tokens.push_back(event.token_id);
      event.finished =
          event.token_id == kEos || static_cast<int64_t>(sim.tokens.size()) == sim.max_tokens;
    }
    done_.push_back(event);
    if (random_.below(64) == 0) add_late_result(event);
    if (!event.finished) return true;
    ++report_.num_finished;
    const bool equal = sim.tokens == run_alone(sim.prompt, sim.max_tokens);
    if (!equal) return violated(str("request ", sequence.request, " differs from itself alone"));
    requests_.erase(found);
    return true;
  }

  // A result of a stretch of running that is over, as a device may deliver one.
  void add_late_result(const SchedulerEvent& event) {
    SchedulerEvent late = event;
    if (late.handle.num_preemptions == 0) {
      late.handle.request += 1'000'000'000;
    } else {
      --late.handle.num_preemptions;
    }
    late.token_id = 1;
    done_.push_back(late);
  }

  const World world_;
  SplitMix64& random_;
  SimReport& report_;
  SchedulerState state_;
  RequestId next_request_;
  int64_t now_ns_ = 1'000'000'000'000'000;
  std::map<RequestId, SimRequest> requests_;
  std::vector<SchedulerEvent> done_;
  std::vector<uint64_t> slots_;  // the pages: one hash per slot
};

}  // namespace

SimReport run_simulation(const SimOptions& options) {
  SimReport report;
  SplitMix64 random(options.seed);
  RequestId next_request = 1;
  while (report.num_steps < options.num_steps) {
    ++report.num_worlds;
    const World world = random_world(random);
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
