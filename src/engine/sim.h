// The scheduler's simulator: the shipped scheduler, block manager, prefix cache and batch builder
// with a virtual clock and an executor that computes hashes instead of activations.
//
// A position's "K and V" is a hash of the salt and every token up to it, written to the slot the
// batch names and checked whenever it is read, so a block that is shared wrongly, stale or freed
// too early shows at once. The next token is a hash of the prefix, so every request's answer can be
// computed alone and compared. Deterministic: a seed names a run.
#pragma once

#include <array>
#include <cstdint>
#include <string>

namespace slipstream {

struct SimOptions {
  int64_t num_steps = 100'000;
  uint64_t seed = 1;
};

// What can happen to a request, and where it was when it did.
enum class SimEvent : uint8_t {
  kAdmit,
  kHit,
  kPreempt,
  kFinish,
  kFault,
  kCancel,
  kDeadline,
  kStale
};
enum class SimPlace : uint8_t { kWaiting, kPrefill, kDecode, kPreempted, kEnded };
constexpr size_t kNumSimEvents = 8;
constexpr size_t kNumSimPlaces = 5;
const char* sim_event_name(SimEvent event);
const char* sim_place_name(SimPlace place);

struct SimReport {
  int64_t num_steps = 0;
  int64_t num_worlds = 0;  // each with its own limits, pool and load
  int64_t num_requests = 0;
  int64_t num_finished = 0;
  int64_t num_cancelled = 0;
  int64_t num_expired = 0;
  int64_t num_faults = 0;
  int64_t num_preemptions = 0;
  int64_t max_preemptions = 0;    // of one request
  int64_t num_tokens = 0;         // computed, prompt and answer
  int64_t num_cached_tokens = 0;  // not computed: a block of another request held them
  double max_wait_share = 0.0;    // steps a request took, as a share of its bound; <= 1
  // [place][event]; what cannot happen stays 0.
  std::array<std::array<int64_t, kNumSimEvents>, kNumSimPlaces> coverage{};
  // Empty: every rule held. Else what broke, with the seed and the step.
  std::string violation;
  bool ok() const { return violation.empty(); }
};

SimReport run_simulation(const SimOptions& options);

}  // namespace slipstream
