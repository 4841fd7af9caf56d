// BlockManager: which KV block belongs to whom. Host bookkeeping only: it never touches pages.
//
// Blocks are counted by reference: a block with several holders (a shared prefix) returns to the
// free list when the last one lets go. All memory is taken in the constructor, except that a
// BlockTable grows with its sequence. Owned by the scheduler's state; engine thread only.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"

namespace slipstream {

// The blocks of one sequence, in order of position. Block i holds positions
// [i * block_size, (i + 1) * block_size).
struct BlockTable {
  std::vector<int32_t> blocks;
};

class BlockManager {
 public:
  BlockManager(int64_t num_blocks, int32_t block_size);

  int32_t block_size() const { return block_size_; }
  int64_t num_blocks() const { return static_cast<int64_t>(ref_counts_.size()); }
  int64_t num_free() const { return static_cast<int64_t>(free_.size()); }
  int64_t num_used() const { return num_blocks() - num_free(); }
  int64_t blocks_for(int64_t num_tokens) const {
    return (num_tokens + block_size_ - 1) / block_size_;
  }

  // Extends `table` to hold `num_tokens` positions. False, and nothing changed, when the free
  // blocks do not suffice. Never shrinks.
  bool reserve(BlockTable& table, int64_t num_tokens);

  // Gives back the blocks that positions >= num_tokens occupy alone.
  void truncate(BlockTable& table, int64_t num_tokens);
  void release(BlockTable& table) { truncate(table, 0); }

  // Adds the first `num_blocks` blocks of `source` to the empty `table`; both then hold them.
  void share(const BlockTable& source, int64_t num_blocks, BlockTable& table);

  int32_t ref_count(int32_t block) const { return ref_counts_[static_cast<size_t>(block)]; }

  // Every block is either free, once, or held by exactly as many entries of `tables` as it counts.
  Status check_invariants(std::span<const BlockTable* const> tables) const;

 private:
  int32_t block_size_;
  std::vector<int32_t> free_;        // a stack: the block freed last is still warm in the cache
  std::vector<int32_t> ref_counts_;  // [num_blocks]
};

}  // namespace slipstream
