// The order of the queue, against a sorted list of everything in it.
#include "text/rank_queue.h"

#include <gtest/gtest.h>

#include <set>
#include <utility>

namespace slipstream {
namespace {

TEST(RankQueue, LowestRankFirstThenLeftmostHoweverItWasFilled) {
  uint64_t state = 3;
  const auto below = [&](uint32_t bound) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<uint32_t>(state >> 33) % bound;
  };
  RankQueue queue;
  for (int round = 0; round < 200; ++round) {
    queue.reset(20);
    std::multiset<std::pair<uint32_t, uint32_t>> expected;  // rank, position
    for (int step = 0; step < 300; ++step) {
      if (expected.empty() || below(3) > 0) {
        const std::pair<uint32_t, uint32_t> item(below(20), below(50));
        queue.push(item.first, {item.second, 1, static_cast<int32_t>(item.first)});
        expected.insert(item);
      } else {
        const RankQueue::Entry entry = queue.pop();
        ASSERT_EQ(std::pair(static_cast<uint32_t>(entry.id), entry.position), *expected.begin());
        expected.erase(expected.begin());
      }
    }
    ASSERT_EQ(queue.empty(), expected.empty());
  }
}

}  // namespace
}  // namespace slipstream
