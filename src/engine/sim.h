// The scheduler's simulator: the shipped scheduler and block manager with a virtual clock and an
// executor that computes hashes instead of activations.
//
// A position's "K and V" is a hash of every token up to it, written to the slot the block table
// names and checked whenever it is read, so a block that is shared, stale or freed too early shows
// at once. The next token is a hash of the prefix, so every request's answer can be computed alone
// and compared. Deterministic: a seed names a run.
#pragma once

#include <cstdint>
#include <string>

namespace slipstream {

struct SimOptions {
  int64_t num_steps = 100'000;
  uint64_t seed = 1;
};

struct SimReport {
  int64_t num_steps = 0;
  int64_t num_worlds = 0;  // each with its own limits, pool and load
  int64_t num_requests = 0;
  int64_t num_finished = 0;
  int64_t num_cancelled = 0;
  int64_t num_preemptions = 0;
  int64_t max_preemptions = 0;  // of one request
  int64_t num_tokens = 0;       // computed, prompt and answer
  // Empty: every rule held. Else what broke, with the seed and the step.
  std::string violation;
  bool ok() const { return violation.empty(); }
};

SimReport run_simulation(const SimOptions& options);

}  // namespace slipstream
