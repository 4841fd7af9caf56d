#include "engine/sim_world.h"

#include <algorithm>

namespace slipstream {

std::vector<int32_t> random_sim_ids(SplitMix64& random, uint64_t count) {
  std::vector<int32_t> ids;
  for (uint64_t i = 0; i < count; ++i) ids.push_back(static_cast<int32_t>(random.below(kSimVocab)));
  return ids;
}

SimWorld random_sim_world(SplitMix64& random) {
  SimWorld world;
  const auto pick = [&](uint64_t low, uint64_t high) {
    return static_cast<int64_t>(low + random.below(high - low + 1));
  };
  world.num_blocks = pick(1, 64);
  world.block_size = static_cast<int32_t>(pick(1, 16));
  world.limits.max_num_seqs = pick(1, 12);
  world.limits.max_num_batched_tokens = pick(1, random.below(2) == 0 ? 8 : 64);
  world.limits.max_logit_rows = world.limits.max_num_seqs + pick(0, 8);
  world.limits.admission_horizon = random.below(2) == 0 ? 0 : pick(1, 40);
  world.cache.enabled = random.below(4) != 0;
  world.cache.seed = random.next();
  world.cache.hash_bits = random.below(2) == 0 ? 64 : random.below(2) == 0 ? 8 : 2;
  world.overlap = static_cast<SimOverlap>(random.below(3));
  world.arrival_permille = random.below(900) + 20;
  world.cancel_permille = random.below(3) == 0 ? random.below(200) : 0;
  world.deadline_permille = random.below(3) == 0 ? random.below(500) : 0;
  world.fault_permille = random.below(3) == 0 ? random.below(30) : 0;
  world.num_salts = random.below(3) == 0 ? 3 : 1;
  const auto pool_tokens = static_cast<uint64_t>(world.num_blocks * world.block_size);
  world.max_prompt = 1 + random.below(std::min<uint64_t>(pool_tokens, 80));
  world.max_answer =
      1 + random.below(random.below(2) == 0 ? 40 : std::max<uint64_t>(pool_tokens, 2));
  world.priorities = random.below(3) == 0;
  world.clock_jumps = random.below(4) == 0;
  for (uint64_t i = random.below(4); i > 0; --i) {
    world.prefixes.push_back(random_sim_ids(random, random.below(world.max_prompt)));
  }
  return world;
}

}  // namespace slipstream
