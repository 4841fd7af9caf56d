#include "kv/block_manager.h"

#include <gtest/gtest.h>

#include <array>

#include "base/random.h"

namespace slipstream {
namespace {

TEST(BlockManagerTest, ReserveIsAllOrNothing) {
  BlockManager manager(4, 16);
  BlockTable first, second;
  ASSERT_TRUE(manager.reserve(first, 33));  // 3 blocks
  EXPECT_EQ(first.blocks.size(), 3u);
  EXPECT_FALSE(manager.reserve(second, 17));
  EXPECT_TRUE(second.blocks.empty());
  EXPECT_EQ(manager.num_free(), 1);
  EXPECT_TRUE(manager.reserve(second, 16));
  EXPECT_TRUE(manager.reserve(first, 48)) << "the third block has room for position 47";
  EXPECT_FALSE(manager.reserve(first, 49));
}

TEST(BlockManagerTest, TruncateKeepsPartlyUsedBlocks) {
  BlockManager manager(4, 16);
  BlockTable table;
  ASSERT_TRUE(manager.reserve(table, 64));
  manager.truncate(table, 17);
  EXPECT_EQ(table.blocks.size(), 2u);
  manager.truncate(table, 16);
  EXPECT_EQ(table.blocks.size(), 1u);
  manager.release(table);
  EXPECT_EQ(manager.num_free(), 4);
}

TEST(BlockManagerTest, InvariantsCatchALeakAndADoubleHold) {
  BlockManager manager(4, 16);
  BlockTable table;
  ASSERT_TRUE(manager.reserve(table, 32));
  EXPECT_FALSE(manager.check_invariants({}).ok()) << "two blocks leaked";
  const std::array<const BlockTable*, 2> twice{&table, &table};
  EXPECT_FALSE(manager.check_invariants(twice).ok());
}

TEST(BlockManagerTest, RandomUseConservesBlocks) {
  SplitMix64 random(7);
  BlockManager manager(16, 4);
  std::array<BlockTable, 5> tables;
  std::array<const BlockTable*, 5> views{};
  for (size_t i = 0; i < tables.size(); ++i) views[i] = &tables[i];
  for (int step = 0; step < 5000; ++step) {
    BlockTable& table = tables[random.below(tables.size())];
    const auto num_tokens = static_cast<int64_t>(random.below(40));
    if (random.below(2) == 0) {
      manager.reserve(table, num_tokens);
    } else {
      manager.truncate(table, num_tokens);
    }
    const Status status = manager.check_invariants(views);
    ASSERT_TRUE(status.ok()) << status.message();
  }
}

}  // namespace
}  // namespace slipstream
