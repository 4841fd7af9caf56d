#include "kv/prefix_cache.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "base/check.h"
#include "base/random.h"
#include "base/strings.h"

namespace slipstream {

PrefixCache::PrefixCache(int64_t num_blocks, int32_t block_size, const PrefixCacheOptions& options)
    : options_(options), block_size_(static_cast<size_t>(block_size)) {
  SLIPSTREAM_CHECK(options.hash_bits > 0 && options.hash_bits <= 64, "a hash has 1 to 64 bits");
  SplitMix64 random(options.seed);
  key_.k0 = random.next();
  key_.k1 = random.next();
  const auto count = static_cast<size_t>(num_blocks);
  nodes_.resize(count);
  if (!options.enabled) return;
  token_ids_.resize(count * block_size_);
  buckets_.assign(std::bit_ceil(count), kNoBlock);
}

std::span<const int32_t> PrefixCache::ids_of(int32_t block) const {
  return std::span(token_ids_).subspan(static_cast<size_t>(block) * block_size_, block_size_);
}

uint64_t PrefixCache::hash_of(const BlockContent& content) const {
  // The parent's hash stands for everything before; the salt's own for the empty text.
  const uint64_t before = content.parent == kNoBlock
                              ? siphash(key_, std::as_bytes(std::span(content.salt)))
                              : node(content.parent).hash;
  const SipKey chained{key_.k0 ^ before, key_.k1};
  const uint64_t hash = siphash(chained, std::as_bytes(content.token_ids));
  return hash >> (64 - options_.hash_bits);
}

int32_t PrefixCache::find_hashed(const BlockContent& content, uint64_t hash) const {
  int32_t block = buckets_[hash & (buckets_.size() - 1)];
  for (; block != kNoBlock; block = node(block).next_in_bucket) {
    const Node& candidate = node(block);
    if (candidate.hash != hash || candidate.parent != content.parent) continue;
    if (content.parent == kNoBlock && candidate.salt != content.salt) continue;
    if (std::ranges::equal(ids_of(block), content.token_ids)) break;
  }
  return block;
}

int32_t PrefixCache::find(const BlockContent& content) const {
  if (!enabled()) return kNoBlock;
  return find_hashed(content, hash_of(content));
}

int32_t PrefixCache::find_or_insert(int32_t block, const BlockContent& content) {
  SLIPSTREAM_CHECK(enabled(), "a cache that is off holds nothing");
  SLIPSTREAM_CHECK(!contains(block), "a block holds one content");
  SLIPSTREAM_CHECK(content.token_ids.size() == block_size_, "only full blocks are cached");
  SLIPSTREAM_CHECK(content.parent == kNoBlock || contains(content.parent), "the parent is cached");
  const uint64_t hash = hash_of(content);
  const int32_t found = find_hashed(content, hash);
  if (found != kNoBlock) return found;
  Node& entry = node(block);
  entry.hash = hash;
  entry.parent = content.parent;
  entry.cached = true;
  if (content.parent == kNoBlock) {
    entry.salt = content.salt;
  } else {
    ++node(content.parent).num_children;
  }
  std::ranges::copy(
      content.token_ids,
      token_ids_.begin() + static_cast<std::ptrdiff_t>(static_cast<size_t>(block) * block_size_));
  int32_t& first = buckets_[hash & (buckets_.size() - 1)];
  entry.next_in_bucket = std::exchange(first, block);
  ++size_;
  return block;
}

void PrefixCache::unlink(int32_t block) {
  Node& entry = node(block);
  int32_t* link = &buckets_[entry.hash & (buckets_.size() - 1)];
  while (*link != block) link = &node(*link).next_in_bucket;
  *link = entry.next_in_bucket;
  if (entry.parent != kNoBlock) --node(entry.parent).num_children;
  const int32_t num_children = entry.num_children;  // those erased next count themselves out
  entry = Node();
  entry.num_children = num_children;
  --size_;
}

void PrefixCache::erase(int32_t block) {
  SLIPSTREAM_CHECK(contains(block), "only what is cached is erased");
  SLIPSTREAM_CHECK(num_children(block) == 0, "a leaf goes before its parent");
  unlink(block);
}

std::vector<int32_t> PrefixCache::erase_with_descendants(std::span<const int32_t> blocks) {
  enum class Fate : uint8_t { kUnknown, kStays, kGoes };
  std::vector<Fate> fates(nodes_.size(), Fate::kUnknown);
  for (const int32_t block : blocks) {
    if (contains(block)) fates[static_cast<size_t>(block)] = Fate::kGoes;
  }
  std::vector<int32_t> erased;
  std::vector<int32_t> path;
  for (int32_t block = 0; block < static_cast<int32_t>(nodes_.size()); ++block) {
    if (!contains(block)) continue;
    path.clear();
    int32_t at = block;
    while (at != kNoBlock && fates[static_cast<size_t>(at)] == Fate::kUnknown) {
      path.push_back(at);
      at = parent(at);
    }
    const Fate fate = at == kNoBlock ? Fate::kStays : fates[static_cast<size_t>(at)];
    for (const int32_t below : path) fates[static_cast<size_t>(below)] = fate;
    if (fates[static_cast<size_t>(block)] == Fate::kGoes) erased.push_back(block);
  }
  for (const int32_t block : erased) unlink(block);
  return erased;
}

Status PrefixCache::check_invariants() const {
  std::vector<int32_t> children(nodes_.size(), 0);
  int64_t num_cached = 0;
  for (int32_t block = 0; block < static_cast<int32_t>(nodes_.size()); ++block) {
    const Node& entry = node(block);
    if (!entry.cached) continue;
    ++num_cached;
    if (entry.parent != kNoBlock) {
      if (!contains(entry.parent)) return failed(str("block ", block, " outlives its parent"));
      ++children[static_cast<size_t>(entry.parent)];
    }
    if (find({entry.parent, entry.salt, ids_of(block)}) != block) {
      return failed(str("block ", block, " is not found by its content, or not alone"));
    }
  }
  if (num_cached != size_) return failed(str(num_cached, " blocks cached, ", size_, " counted"));
  for (int32_t block = 0; block < static_cast<int32_t>(nodes_.size()); ++block) {
    if (children[static_cast<size_t>(block)] != num_children(block)) {
      return failed(str("block ", block, " counts ", num_children(block), " children"));
    }
  }
  return {};
}

}  // namespace slipstream
