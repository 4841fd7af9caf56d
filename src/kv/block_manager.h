// BlockManager: which KV block belongs to whom. Host bookkeeping only: it never touches pages.
//
// Blocks are counted by reference: a block may have several holders (a shared prefix). Without a
// holder it is free: at once reusable, or, while the prefix cache knows its content, kept until no
// other block is free and it has been idle the longest. Whoever holds a cached block holds its
// parents too, and lets go from the end, so children always leave the cache before their parents.
// All memory is taken in the constructor, except that a BlockTable grows with its sequence. Owned
// by the scheduler's state; engine thread only.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "kv/prefix_cache.h"

namespace slipstream {

// The blocks of one sequence, in order of position. Block i holds positions
// [i * block_size, (i + 1) * block_size).
struct BlockTable {
  std::vector<int32_t> blocks;
  int64_t num_offered = 0;  // leading blocks that the prefix cache has been offered or gave
};

// What the positions of a sequence hold, from the first on.
struct CachedText {
  std::span<const int32_t> token_ids;
  std::string_view salt;
};

class BlockManager {
 public:
  BlockManager(int64_t num_blocks, int32_t block_size, const PrefixCacheOptions& cache = {});

  int32_t block_size() const { return block_size_; }
  int64_t num_blocks() const { return static_cast<int64_t>(ref_counts_.size()); }
  // Without a holder, cached or not.
  int64_t num_free() const { return static_cast<int64_t>(free_.size()) + num_idle_; }
  int64_t num_used() const { return num_blocks() - num_free(); }
  int64_t num_cached() const { return cache_.size(); }
  bool caching() const { return cache_.enabled(); }
  int64_t blocks_for(int64_t num_tokens) const {
    return (num_tokens + block_size_ - 1) / block_size_;
  }

  // Extends `table` to hold `num_tokens` positions. False, and nothing changed, when the free
  // blocks do not suffice. Never shrinks.
  bool reserve(BlockTable& table, int64_t num_tokens);

  // Gives back the blocks that positions >= num_tokens occupy alone.
  void truncate(BlockTable& table, int64_t num_tokens);
  void release(BlockTable& table) { truncate(table, 0); }

  // The longest cached prefix of `text` in whole blocks. Nobody holds the result: adopt it before
  // anything else is reserved.
  std::vector<int32_t> match(const CachedText& text) const;
  // How many of `blocks` are free now and would not be once adopted.
  int64_t num_idle(std::span<const int32_t> blocks) const;
  // Makes `blocks`, a match, the beginning of the empty `table`.
  void adopt(std::span<const int32_t> blocks, BlockTable& table);
  // Offers the full blocks of `text`, whose K and V are computed and final, to the cache. Where it
  // has the same content in another block, `table` changes over to that one. Steps that are planned
  // may still read the block given up: it is not written before they have run.
  void offer(BlockTable& table, const CachedText& text);
  // Takes what `table` holds, and all that continues it, out of the cache: its content is in doubt.
  void forget(const BlockTable& table);

  int32_t ref_count(int32_t block) const { return ref_counts_[static_cast<size_t>(block)]; }

  // Every block is free, idle in the cache, or held by exactly as many entries of `tables` as it
  // counts, one of the three; who holds a cached block holds its parent.
  Status check_invariants(std::span<const BlockTable* const> tables) const;

 private:
  // The idle blocks are a list from the one idle longest to the one idle shortest.
  struct Link {
    int32_t before = kNoBlock;
    int32_t after = kNoBlock;
  };

  int32_t take_free();
  void hold(int32_t block);
  void let_go(int32_t block);
  void append_idle(int32_t block);
  void remove_idle(int32_t block);
  Link& link(int32_t block) { return links_[static_cast<size_t>(block)]; }
  Status check_table(const BlockTable& table) const;
  Status check_idle(std::vector<int32_t>& times_free) const;

  int32_t block_size_;
  PrefixCache cache_;
  std::vector<int32_t> free_;        // a stack: the block freed last is still warm in the cache
  std::vector<int32_t> ref_counts_;  // [num_blocks]
  std::vector<Link> links_;          // [num_blocks + 1]; the last is both ends of the idle list
  int64_t num_idle_ = 0;
};

}  // namespace slipstream
