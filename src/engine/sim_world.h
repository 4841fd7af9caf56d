// The worlds of the scheduler's simulator: pool, limits and load of one stretch of it, drawn at
// random.
#pragma once

#include <cstdint>
#include <vector>

#include "base/random.h"
#include "engine/scheduler.h"

namespace slipstream {

constexpr int32_t kSimVocab = 50;

// How steps follow each other.
enum class SimOverlap : uint8_t {
  kNone,     // a step is planned with every result known
  kDropped,  // planned while one runs; rows of ended requests are taken out before it runs
  kLate,     // the same, and it runs as planned: the device had it before the results came
};

struct SimWorld {
  SchedulerLimits limits;
  PrefixCacheOptions cache;
  SimOverlap overlap = SimOverlap::kNone;
  int64_t num_blocks = 1;
  int32_t block_size = 1;
  uint64_t arrival_permille = 0;
  uint64_t cancel_permille = 0;
  uint64_t deadline_permille = 0;
  uint64_t fault_permille = 0;
  uint64_t num_salts = 1;
  uint64_t max_prompt = 1;
  uint64_t max_answer = 1;
  bool priorities = false;
  bool clock_jumps = false;
  std::vector<std::vector<int32_t>> prefixes;  // that prompts begin with
};

std::vector<int32_t> random_sim_ids(SplitMix64& random, uint64_t count);
SimWorld random_sim_world(SplitMix64& random);

}  // namespace slipstream
