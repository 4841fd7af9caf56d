// PrefixCache: finds the KV block that holds given tokens after a given prefix.
//
// A cached block is full and final. It is named by what it holds: its parent (the cached block
// before it; at the root the salt) and its token ids. A keyed hash, chained from the root, finds
// it; names are compared in full on every hit, so colliding hashes cost time and never give a wrong
// block. A cached block's parent is cached too. Knows nothing of holders: BlockManager decides what
// stays. All memory is taken in the constructor, but for salts. Engine thread only.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/siphash.h"
#include "base/status.h"

namespace slipstream {

constexpr int32_t kNoBlock = -1;

struct PrefixCacheOptions {
  bool enabled = false;
  uint64_t seed = 0;       // of the hash's key; secret, so that nobody can aim at collisions
  int32_t hash_bits = 64;  // fewer: collisions on purpose, for tests
};

// What a cached block holds.
struct BlockContent {
  int32_t parent = kNoBlock;           // kNoBlock: the block begins a text
  std::string_view salt;               // only texts of equal salt share blocks
  std::span<const int32_t> token_ids;  // [block_size]
};

class PrefixCache {
 public:
  PrefixCache(int64_t num_blocks, int32_t block_size, const PrefixCacheOptions& options);

  bool enabled() const { return options_.enabled; }
  int64_t size() const { return size_; }
  bool contains(int32_t block) const { return node(block).cached; }
  int32_t parent(int32_t block) const { return node(block).parent; }
  int32_t num_children(int32_t block) const { return node(block).num_children; }

  // The cached block of this content; kNoBlock if there is none.
  int32_t find(const BlockContent& content) const;
  // The same, after `block` has become the cached block of this content if there was none.
  int32_t find_or_insert(int32_t block, const BlockContent& content);
  // Of a block without cached children.
  void erase(int32_t block);
  // These blocks, as far as they are cached, and all that continue them. Returns what was erased.
  std::vector<int32_t> erase_with_descendants(std::span<const int32_t> blocks);

  // Every cached block is found by its own content, once; parents are cached and count children.
  Status check_invariants() const;

 private:
  struct Node {
    uint64_t hash = 0;
    int32_t parent = kNoBlock;
    int32_t next_in_bucket = kNoBlock;
    int32_t num_children = 0;
    bool cached = false;
    std::string salt;  // of blocks without a parent
  };

  Node& node(int32_t block) { return nodes_[static_cast<size_t>(block)]; }
  const Node& node(int32_t block) const { return nodes_[static_cast<size_t>(block)]; }
  std::span<const int32_t> ids_of(int32_t block) const;
  uint64_t hash_of(const BlockContent& content) const;
  int32_t find_hashed(const BlockContent& content, uint64_t hash) const;
  void unlink(int32_t block);

  const PrefixCacheOptions options_;
  const size_t block_size_;
  SipKey key_;
  int64_t size_ = 0;
  std::vector<Node> nodes_;         // [num_blocks]
  std::vector<int32_t> token_ids_;  // [num_blocks, block_size]
  std::vector<int32_t> buckets_;    // first block of each; a power of two of them
};

}  // namespace slipstream
