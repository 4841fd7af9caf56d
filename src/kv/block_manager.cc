#include "kv/block_manager.h"

#include <limits>

#include "base/check.h"
#include "base/strings.h"

namespace slipstream {

BlockManager::BlockManager(int64_t num_blocks, int32_t block_size) : block_size_(block_size) {
  SLIPSTREAM_CHECK(block_size > 0, "a block has positions");
  SLIPSTREAM_CHECK(num_blocks > 0 && num_blocks <= std::numeric_limits<int32_t>::max(),
                   "block ids are 31 bits");
  const auto count = static_cast<size_t>(num_blocks);
  ref_counts_.assign(count, 0);
  free_.reserve(count);
  for (int64_t block = num_blocks - 1; block >= 0; --block) {
    free_.push_back(static_cast<int32_t>(block));
  }
}

bool BlockManager::reserve(BlockTable& table, int64_t num_tokens) {
  const int64_t held = static_cast<int64_t>(table.blocks.size());
  const int64_t wanted = blocks_for(num_tokens);
  if (wanted - held > num_free()) return false;
  for (int64_t i = held; i < wanted; ++i) {
    const int32_t block = free_.back();
    free_.pop_back();
    SLIPSTREAM_CHECK(ref_counts_[static_cast<size_t>(block)] == 0, "a free block has no holder");
    ref_counts_[static_cast<size_t>(block)] = 1;
    table.blocks.push_back(block);
  }
  return true;
}

void BlockManager::truncate(BlockTable& table, int64_t num_tokens) {
  SLIPSTREAM_CHECK(num_tokens >= 0, "a length is not negative");
  const auto kept = static_cast<size_t>(blocks_for(num_tokens));
  while (table.blocks.size() > kept) {
    const int32_t block = table.blocks.back();
    table.blocks.pop_back();
    int32_t& count = ref_counts_[static_cast<size_t>(block)];
    SLIPSTREAM_CHECK(count > 0, "a held block has a count");
    if (--count == 0) free_.push_back(block);
  }
}

void BlockManager::share(const BlockTable& source, int64_t num_blocks, BlockTable& table) {
  SLIPSTREAM_CHECK(table.blocks.empty(), "a shared prefix comes first");
  SLIPSTREAM_CHECK(num_blocks <= static_cast<int64_t>(source.blocks.size()),
                   "only held blocks can be shared");
  for (int64_t i = 0; i < num_blocks; ++i) {
    const int32_t block = source.blocks[static_cast<size_t>(i)];
    ++ref_counts_[static_cast<size_t>(block)];
    table.blocks.push_back(block);
  }
}

Status BlockManager::check_invariants(std::span<const BlockTable* const> tables) const {
  std::vector<int32_t> holders(ref_counts_.size(), 0);
  for (const BlockTable* table : tables) {
    for (const int32_t block : table->blocks) {
      if (block < 0 || block >= num_blocks()) return failed(str("block ", block, " is outside"));
      ++holders[static_cast<size_t>(block)];
    }
  }
  std::vector<int32_t> times_free(ref_counts_.size(), 0);
  for (const int32_t block : free_) ++times_free[static_cast<size_t>(block)];
  for (size_t block = 0; block < ref_counts_.size(); ++block) {
    if (holders[block] != ref_counts_[block]) {
      return failed(str("block ", block, " counts ", ref_counts_[block], " holders and has ",
                        holders[block]));
    }
    if (times_free[block] != (holders[block] == 0 ? 1 : 0)) {
      return failed(str("block ", block, " with ", holders[block], " holders is on the free list ",
                        times_free[block], " times"));
    }
  }
  return {};
}

}  // namespace slipstream
