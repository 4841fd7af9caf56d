#include "kv/prefix_cache.h"

#include <gtest/gtest.h>

#include <array>
#include <map>

#include "base/random.h"
#include "kv/block_manager.h"

namespace slipstream {
namespace {

using Ids = std::vector<int32_t>;

constexpr PrefixCacheOptions kOn{.enabled = true, .seed = 3};

Ids counting(int32_t first, size_t count) {
  Ids ids;
  for (size_t i = 0; i < count; ++i) ids.push_back(first + static_cast<int32_t>(i));
  return ids;
}

// Blocks of 4; every step of a test leaves the invariants.
class BlockSharingTest : public testing::Test {
 protected:
  BlockTable computed(const Ids& ids, std::string_view salt = "") {
    BlockTable table;
    manager_.adopt(manager_.match({ids, salt}), table);
    EXPECT_TRUE(manager_.reserve(table, std::ssize(ids)));
    manager_.offer(table, {ids, salt});
    return table;
  }
  size_t num_matched(const Ids& ids, std::string_view salt = "") {
    return manager_.match({ids, salt}).size();
  }
  void check(std::initializer_list<const BlockTable*> tables) {
    const std::vector<const BlockTable*> views(tables);
    const Status status = manager_.check_invariants(views);
    EXPECT_TRUE(status.ok()) << status.message();
  }

  BlockManager manager_{8, 4, kOn};
};

TEST_F(BlockSharingTest, FullBlocksOfAPrefixAreFoundAfterTheirHolderLeft) {
  BlockTable first = computed(counting(0, 11));
  EXPECT_EQ(num_matched(counting(0, 20)), 2u) << "the third block was not full";
  manager_.release(first);
  check({});
  EXPECT_EQ(manager_.num_free(), 8) << "cached blocks without a holder count as free";
  EXPECT_EQ(manager_.num_cached(), 2);
  EXPECT_EQ(num_matched(counting(0, 20)), 2u);
  EXPECT_EQ(num_matched(counting(0, 7)), 1u);
  EXPECT_EQ(num_matched(counting(4, 4)), 0u) << "a block is found after its own prefix only";
}

TEST_F(BlockSharingTest, SharedBlockIsFreeAfterItsLastHolder) {
  BlockTable first = computed(counting(0, 8));
  BlockTable second = computed(counting(0, 9));
  EXPECT_EQ(second.blocks[1], first.blocks[1]);
  EXPECT_EQ(manager_.ref_count(first.blocks[0]), 2);
  EXPECT_EQ(manager_.num_used(), 3);
  manager_.release(first);
  check({&second});
  EXPECT_EQ(manager_.num_used(), 3);
  manager_.release(second);
  EXPECT_EQ(manager_.num_used(), 0);
  check({});
}

TEST_F(BlockSharingTest, S8DivergingInsideABlockSharesNothingOfIt) {
  BlockTable first = computed(counting(0, 8));
  Ids other = counting(0, 8);
  other[6] = 99;
  BlockTable second = computed(other);
  EXPECT_EQ(second.blocks[0], first.blocks[0]);
  EXPECT_NE(second.blocks[1], first.blocks[1]);
  check({&first, &second});
}

TEST_F(BlockSharingTest, S18SaltsShareNothing) {
  BlockTable first = computed(counting(0, 8), "alice");
  EXPECT_EQ(num_matched(counting(0, 8), "bob"), 0u);
  EXPECT_EQ(num_matched(counting(0, 8)), 0u);
  EXPECT_EQ(num_matched(counting(0, 8), "alice"), 2u);
  BlockTable second = computed(counting(0, 8), "bob");
  EXPECT_EQ(manager_.num_used(), 4);
  check({&first, &second});
}

TEST_F(BlockSharingTest, LongestIdleIsEvictedFirstAndChildrenBeforeParents) {
  BlockTable first = computed(counting(0, 12));
  BlockTable second = computed(counting(50, 12));
  manager_.release(first);
  manager_.release(second);
  BlockTable third;
  ASSERT_TRUE(manager_.reserve(third, 16));  // two never used, two evicted
  check({&third});
  EXPECT_EQ(num_matched(counting(0, 12)), 1u);
  EXPECT_EQ(num_matched(counting(50, 12)), 3u);
  ASSERT_TRUE(manager_.reserve(third, 32));
  EXPECT_EQ(manager_.num_cached(), 0);
  check({&third});
}

TEST_F(BlockSharingTest, S9HeldBlocksAreNeverEvicted) {
  BlockTable first = computed(counting(0, 16));
  BlockTable second = computed(counting(50, 16));
  BlockTable third;
  EXPECT_FALSE(manager_.reserve(third, 1)) << "every block is pinned";
  manager_.release(second);
  EXPECT_TRUE(manager_.reserve(third, 16));
  EXPECT_EQ(num_matched(counting(0, 16)), 4u);
  check({&first, &third});
}

TEST_F(BlockSharingTest, SameContentComputedTwiceEndsInOneBlock) {
  const Ids ids = counting(0, 8);
  BlockTable first, second;
  ASSERT_TRUE(manager_.reserve(first, 8));
  ASSERT_TRUE(manager_.reserve(second, 8));
  manager_.offer(first, {ids, ""});
  manager_.offer(second, {ids, ""});
  EXPECT_EQ(second.blocks, first.blocks);
  EXPECT_EQ(manager_.num_used(), 2);
  check({&first, &second});
}

TEST_F(BlockSharingTest, S19ForgottenContentAndWhatContinuesItIsNotFound) {
  BlockTable first = computed(counting(0, 8));
  Ids longer = counting(0, 16);
  longer[14] = 99;
  BlockTable second = computed(longer);
  manager_.release(second);
  BlockTable other = computed(counting(50, 8));
  manager_.forget(first);
  EXPECT_EQ(num_matched(longer), 0u);
  EXPECT_EQ(num_matched(counting(50, 8)), 2u);
  check({&first, &other});
  // A holder that goes on offers nothing: its blocks have no name.
  ASSERT_TRUE(manager_.reserve(first, 12));
  manager_.offer(first, {counting(0, 12), ""});
  EXPECT_EQ(num_matched(counting(0, 12)), 0u);
  manager_.release(first);
  check({&other});
}

TEST(PrefixCacheTest, OffFindsNothing) {
  BlockManager manager(4, 4);
  BlockTable table;
  ASSERT_TRUE(manager.reserve(table, 8));
  manager.offer(table, {counting(0, 8), ""});
  EXPECT_TRUE(manager.match({counting(0, 8), ""}).empty());
  EXPECT_EQ(manager.num_cached(), 0);
}

TEST(PrefixCacheTest, S7CollidingHashesNeverGiveAWrongBlock) {
  // One bit: every block collides with half of the others.
  PrefixCache cache(64, 2, {.enabled = true, .seed = 1, .hash_bits = 1});
  SplitMix64 random(5);
  std::map<std::pair<int32_t, Ids>, int32_t> expected;
  for (int32_t block = 0; block < 64; ++block) {
    const auto parent = static_cast<int32_t>(random.below(static_cast<uint64_t>(block) + 1)) - 1;
    const Ids ids = {static_cast<int32_t>(random.below(3)), static_cast<int32_t>(random.below(3))};
    const int32_t known = expected.emplace(std::pair(parent, ids), block).first->second;
    if (parent != kNoBlock && !cache.contains(parent)) continue;
    EXPECT_EQ(cache.find_or_insert(block, {parent, "", ids}), known);
  }
  const Status status = cache.check_invariants();
  EXPECT_TRUE(status.ok()) << status.message();
}

TEST(PrefixCacheTest, RandomUseConservesBlocksAtEveryHashWidth) {
  for (const int32_t hash_bits : {1, 8, 64}) {
    SplitMix64 random(11);
    BlockManager manager(12, 2, {.enabled = true, .seed = 2, .hash_bits = hash_bits});
    std::array<BlockTable, 5> tables;
    std::array<Ids, 5> texts;
    std::array<const BlockTable*, 5> views{};
    for (size_t i = 0; i < tables.size(); ++i) views[i] = &tables[i];
    int64_t num_adopted = 0;
    for (int step = 0; step < 5000; ++step) {
      const auto idx = random.below(tables.size());
      BlockTable& table = tables[idx];
      if (!table.blocks.empty()) {
        if (random.below(20) == 0) manager.forget(table);
        manager.release(table);
      } else {
        texts[idx].clear();
        for (uint64_t i = random.below(12); i > 0; --i) {
          texts[idx].push_back(static_cast<int32_t>(random.below(2)));
        }
        const std::vector<int32_t> found = manager.match({texts[idx], ""});
        num_adopted += std::ssize(found);
        manager.adopt(found, table);
        if (manager.reserve(table, std::ssize(texts[idx]))) manager.offer(table, {texts[idx], ""});
      }
      const Status status = manager.check_invariants(views);
      ASSERT_TRUE(status.ok()) << status.message();
    }
    EXPECT_GT(num_adopted, 1000);
  }
}

}  // namespace
}  // namespace slipstream
