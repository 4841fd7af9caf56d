#include "kv/block_manager.h"

#include <algorithm>
#include <limits>

#include "base/check.h"
#include "base/strings.h"

namespace slipstream {

BlockManager::BlockManager(int64_t num_blocks, int32_t block_size, const PrefixCacheOptions& cache)
    : block_size_(block_size), cache_(num_blocks, block_size, cache) {
  SLIPSTREAM_CHECK(block_size > 0, "a block has positions");
  SLIPSTREAM_CHECK(num_blocks > 0 && num_blocks <= std::numeric_limits<int32_t>::max(),
                   "block ids are 31 bits");
  const auto count = static_cast<size_t>(num_blocks);
  ref_counts_.assign(count, 0);
  links_.resize(count + 1);
  const auto ends = static_cast<int32_t>(num_blocks);
  links_.back() = {.before = ends, .after = ends};
  free_.reserve(count);
  for (int64_t block = num_blocks - 1; block >= 0; --block) {
    free_.push_back(static_cast<int32_t>(block));
  }
}

void BlockManager::append_idle(int32_t block) {
  const auto ends = static_cast<int32_t>(num_blocks());
  link(block) = {.before = link(ends).before, .after = ends};
  link(link(block).before).after = block;
  link(ends).before = block;
  ++num_idle_;
}

void BlockManager::remove_idle(int32_t block) {
  link(link(block).before).after = link(block).after;
  link(link(block).after).before = link(block).before;
  link(block) = Link();
  --num_idle_;
}

void BlockManager::hold(int32_t block) {
  if (ref_counts_[static_cast<size_t>(block)]++ == 0) remove_idle(block);
}

void BlockManager::let_go(int32_t block) {
  int32_t& count = ref_counts_[static_cast<size_t>(block)];
  SLIPSTREAM_CHECK(count > 0, "a held block has a count");
  if (--count > 0) return;
  if (cache_.contains(block)) {
    append_idle(block);
  } else {
    free_.push_back(block);
  }
}

int32_t BlockManager::take_free() {
  if (free_.empty()) {
    const int32_t oldest = links_.back().after;
    remove_idle(oldest);
    cache_.erase(oldest);
    free_.push_back(oldest);
  }
  const int32_t block = free_.back();
  free_.pop_back();
  SLIPSTREAM_CHECK(ref_counts_[static_cast<size_t>(block)] == 0, "a free block has no holder");
  ref_counts_[static_cast<size_t>(block)] = 1;
  return block;
}

bool BlockManager::reserve(BlockTable& table, int64_t num_tokens) {
  const int64_t held = std::ssize(table.blocks);
  if (num_tokens <= held * block_size_) return true;  // as a rule, and without a division
  const int64_t wanted = blocks_for(num_tokens);
  if (wanted - held > num_free()) return false;
  for (int64_t i = held; i < wanted; ++i) table.blocks.push_back(take_free());
  return true;
}

void BlockManager::truncate(BlockTable& table, int64_t num_tokens) {
  SLIPSTREAM_CHECK(num_tokens >= 0, "a length is not negative");
  SLIPSTREAM_CHECK(num_tokens == 0 || num_tokens >= table.num_offered * block_size_,
                   "what others may share is not written again");
  const int64_t kept = blocks_for(num_tokens);
  while (std::ssize(table.blocks) > kept) {
    let_go(table.blocks.back());
    table.blocks.pop_back();
  }
  table.num_offered = std::min(table.num_offered, kept);
}

std::vector<int32_t> BlockManager::match(const CachedText& text) const {
  std::vector<int32_t> blocks;
  if (!caching()) return blocks;
  const auto size = static_cast<size_t>(block_size_);
  int32_t parent = kNoBlock;
  for (size_t at = 0; at + size <= text.token_ids.size(); at += size) {
    parent = cache_.find({parent, text.salt, text.token_ids.subspan(at, size)});
    if (parent == kNoBlock) break;
    blocks.push_back(parent);
  }
  return blocks;
}

int64_t BlockManager::num_idle(std::span<const int32_t> blocks) const {
  int64_t count = 0;
  for (const int32_t block : blocks) count += ref_count(block) == 0 ? 1 : 0;
  return count;
}

void BlockManager::adopt(std::span<const int32_t> blocks, BlockTable& table) {
  SLIPSTREAM_CHECK(table.blocks.empty(), "a shared prefix comes first");
  for (const int32_t block : blocks) {
    SLIPSTREAM_CHECK(cache_.contains(block), "only cached blocks can be shared");
    hold(block);
    table.blocks.push_back(block);
  }
  table.num_offered = std::ssize(blocks);
}

void BlockManager::offer(BlockTable& table, const CachedText& text) {
  // As a rule no further block is full.
  if (!caching() || std::ssize(text.token_ids) < (table.num_offered + 1) * block_size_) return;
  const auto size = static_cast<size_t>(block_size_);
  const int64_t num_full = std::ssize(text.token_ids) / block_size_;
  for (; table.num_offered < num_full; ++table.num_offered) {
    const auto idx = static_cast<size_t>(table.num_offered);
    const int32_t parent = idx == 0 ? kNoBlock : table.blocks[idx - 1];
    // What follows a forgotten block has no name to be found by.
    if (parent != kNoBlock && !cache_.contains(parent)) continue;
    const int32_t block = table.blocks[idx];
    const int32_t cached =
        cache_.find_or_insert(block, {parent, text.salt, text.token_ids.subspan(idx * size, size)});
    if (cached == block) continue;
    hold(cached);
    let_go(block);
    table.blocks[idx] = cached;
  }
}

void BlockManager::forget(const BlockTable& table) {
  if (!caching()) return;
  for (const int32_t block : cache_.erase_with_descendants(table.blocks)) {
    if (ref_count(block) > 0) continue;
    remove_idle(block);
    free_.push_back(block);
  }
}

Status BlockManager::check_table(const BlockTable& table) const {
  for (size_t i = 0; i < table.blocks.size(); ++i) {
    const int32_t block = table.blocks[i];
    if (block < 0 || block >= num_blocks()) return failed(str("block ", block, " is outside"));
    if (!cache_.contains(block)) continue;
    if (cache_.parent(block) != (i == 0 ? kNoBlock : table.blocks[i - 1])) {
      return failed(str("block ", block, " is held without its parent"));
    }
  }
  return {};
}

// Counts the idle blocks as free, and checks their order.
Status BlockManager::check_idle(std::vector<int32_t>& times_free) const {
  const auto ends = static_cast<int32_t>(num_blocks());
  std::vector<bool> seen(ref_counts_.size(), false);
  int64_t count = 0;
  for (int32_t block = links_.back().after; block != ends;) {
    if (block < 0 || block > ends || ++count > num_idle_) return failed("the idle list is broken");
    if (!cache_.contains(block)) return failed(str("idle block ", block, " is not cached"));
    const int32_t parent = cache_.parent(block);
    if (parent != kNoBlock && seen[static_cast<size_t>(parent)]) {
      return failed(str("block ", block, " would be evicted after its parent"));
    }
    seen[static_cast<size_t>(block)] = true;
    ++times_free[static_cast<size_t>(block)];
    block = links_[static_cast<size_t>(block)].after;
  }
  return count == num_idle_ ? Status() : failed("the idle list is cut short");
}

Status BlockManager::check_invariants(std::span<const BlockTable* const> tables) const {
  std::vector<int32_t> holders(ref_counts_.size(), 0);
  for (const BlockTable* table : tables) {
    SLIPSTREAM_RETURN_IF_ERROR(check_table(*table));
    for (const int32_t block : table->blocks) ++holders[static_cast<size_t>(block)];
  }
  std::vector<int32_t> times_free(ref_counts_.size(), 0);
  for (const int32_t block : free_) {
    if (cache_.contains(block)) return failed(str("free block ", block, " is cached"));
    ++times_free[static_cast<size_t>(block)];
  }
  SLIPSTREAM_RETURN_IF_ERROR(check_idle(times_free));
  for (size_t block = 0; block < ref_counts_.size(); ++block) {
    if (holders[block] != ref_counts_[block]) {
      return failed(str("block ", block, " counts ", ref_counts_[block], " holders and has ",
                        holders[block]));
    }
    if (times_free[block] != (holders[block] == 0 ? 1 : 0)) {
      return failed(str("block ", block, " with ", holders[block], " holders is free ",
                        times_free[block], " times"));
    }
  }
  return cache_.check_invariants();
}

}  // namespace slipstream
