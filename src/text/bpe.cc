#include "text/bpe.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "base/utf8.h"

namespace slipstream {
namespace {

// Up to this many symbols a scan over all pairs is faster than a queue.
constexpr size_t kMaxScanSymbols = 48;

uint64_t pair_key(int32_t left, int32_t right) {
  return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) | static_cast<uint32_t>(right);
}

size_t pair_hash(uint64_t key) {
  key *= 0x9E3779B97F4A7C15u;
  return static_cast<size_t>(key ^ (key >> 32));
}

}  // namespace

void MergeTable::reserve(size_t num_merges) {
  size_t num_slots = 16;
  while (num_slots < num_merges * 3 / 2) num_slots *= 2;
  slots_.assign(num_slots, Slot{});
}

void MergeTable::insert(int32_t left, int32_t right, Merge merge) {
  num_ranks_ = std::max(num_ranks_, size_t{merge.rank} + 1);
  const uint64_t key = pair_key(left, right);
  const size_t mask = slots_.size() - 1;
  for (size_t at = pair_hash(key) & mask;; at = (at + 1) & mask) {
    if (slots_[at].key == UINT64_MAX || slots_[at].key == key) {
      slots_[at] = {key, merge};
      return;
    }
  }
}

void MergeTable::prefetch(int32_t left, int32_t right) const {
  __builtin_prefetch(&slots_[pair_hash(pair_key(left, right)) & (slots_.size() - 1)], 1);
}

Merge MergeTable::find(int32_t left, int32_t right) const {
  if (slots_.empty()) return {};
  const uint64_t key = pair_key(left, right);
  const size_t mask = slots_.size() - 1;
  for (size_t at = pair_hash(key) & mask;; at = (at + 1) & mask) {
    if (slots_[at].key == key) return slots_[at].merge;
    if (slots_[at].key == UINT64_MAX) return {};
  }
}

BpeModel::BpeModel(const Vocab& vocab, BpeOptions options) : vocab_(&vocab), options_(options) {
  byte_ids_.fill(-1);
  for (int32_t id = 0; id < vocab.size(); ++id) {
    const std::string_view bytes = vocab.bytes(id);
    if (bytes.size() != 1) continue;
    const TokenKind wanted = options_.byte_level ? TokenKind::kNormal : TokenKind::kByte;
    if (vocab.kind(id) == wanted) byte_ids_[static_cast<uint8_t>(bytes[0])] = id;
  }
}

BpeModel BpeModel::from_merges(const Vocab& vocab, MergeTable merges, BpeOptions options) {
  BpeModel model(vocab, options);
  model.num_ranks_ = merges.num_ranks();
  model.merges_ = std::move(merges);
  return model;
}

BpeModel BpeModel::from_scores(const Vocab& vocab, const std::vector<float>& scores,
                               BpeOptions options) {
  BpeModel model(vocab, options);
  model.by_scores_ = true;
  const size_t num_tokens = static_cast<size_t>(vocab.size());
  std::vector<int32_t> ids(num_tokens);
  std::iota(ids.begin(), ids.end(), 0);
  const auto score = [&](int32_t id) { return scores[static_cast<size_t>(id)]; };
  std::sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) {
    return score(a) != score(b) ? score(a) > score(b) : a < b;
  });
  model.ranks_.assign(num_tokens, UINT32_MAX);
  uint32_t rank = 0;
  float last_score = std::numeric_limits<float>::infinity();
  for (const int32_t id : ids) {
    const TokenKind kind = vocab.kind(id);
    if (kind != TokenKind::kNormal && kind != TokenKind::kUserDefined) continue;
    // Equal scores share a rank, so that the leftmost of them merges first.
    if (score(id) < last_score) {
      last_score = score(id);
      ++rank;
    }
    model.ranks_[static_cast<size_t>(id)] = rank;
    model.max_token_bytes_ = std::max(model.max_token_bytes_, vocab.text(id).size());
  }
  model.num_ranks_ = size_t{rank} + 1;
  return model;
}

void BpeModel::add_unknown(std::string_view character, uint32_t begin,
                           std::vector<Symbol>& symbols) const {
  const auto has_byte = [&](char byte) { return byte_ids_[static_cast<uint8_t>(byte)] >= 0; };
  if (options_.byte_fallback && std::all_of(character.begin(), character.end(), has_byte)) {
    for (const char byte : character) {
      symbols.push_back({byte_ids_[static_cast<uint8_t>(byte)], begin++, 1, -1, -1});
    }
    return;
  }
  if (options_.unk_id < 0) return;
  if (options_.fuse_unk && !symbols.empty() && symbols.back().id == options_.unk_id) {
    symbols.back().length += static_cast<uint32_t>(character.size());
    return;
  }
  symbols.push_back({options_.unk_id, begin, static_cast<uint32_t>(character.size()), -1, -1});
}

void BpeModel::start_symbols(std::string_view piece, std::vector<Symbol>& symbols) const {
  symbols.clear();
  if (options_.byte_level) {
    for (size_t at = 0; at < piece.size(); ++at) {
      const int32_t id = byte_ids_[static_cast<uint8_t>(piece[at])];
      if (id >= 0) {
        symbols.push_back({id, static_cast<uint32_t>(at), 1, -1, -1});
      } else {
        add_unknown(piece.substr(at, 1), static_cast<uint32_t>(at), symbols);
      }
    }
  } else {
    for (size_t at = 0; at < piece.size();) {
      const size_t length = utf8_decode(piece, at).length;
      const std::string_view character = piece.substr(at, length);
      const int32_t id = vocab_->find(character);
      // By scores an unknown character may still be part of a longer token, so it stays open.
      if (id >= 0 || by_scores_) {
        symbols.push_back({id, static_cast<uint32_t>(at), static_cast<uint32_t>(length), -1, -1});
      } else {
        add_unknown(character, static_cast<uint32_t>(at), symbols);
      }
      at += length;
    }
  }
}

Merge BpeModel::find_merge(std::string_view piece, const Symbol& left, const Symbol& right) const {
  if (!by_scores_) return merges_.find(left.id, right.id);
  const size_t length = size_t{left.length} + right.length;
  if (length > max_token_bytes_) return {};
  const int32_t id = vocab_->find(piece.substr(left.begin, length));
  if (id < 0 || ranks_[static_cast<size_t>(id)] == UINT32_MAX) return {};
  return {ranks_[static_cast<size_t>(id)], id};
}

void BpeModel::merge_by_scan(std::string_view piece, Scratch& scratch) const {
  std::vector<Symbol>& symbols = scratch.symbols;
  std::vector<Merge>& merges = scratch.merges;  // merges[i]: of symbols i and i + 1
  merges.clear();
  for (size_t i = 0; i + 1 < symbols.size(); ++i) {
    merges.push_back(find_merge(piece, symbols[i], symbols[i + 1]));
  }
  while (!merges.empty()) {
    size_t best = 0;
    for (size_t i = 1; i < merges.size(); ++i) {
      if (merges[i].rank < merges[best].rank) best = i;
    }
    if (merges[best].id < 0) return;
    symbols[best].id = merges[best].id;
    symbols[best].length += symbols[best + 1].length;
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(best + 1));
    merges.erase(merges.begin() + static_cast<std::ptrdiff_t>(best));
    if (best < merges.size()) {
      merges[best] = find_merge(piece, symbols[best], symbols[best + 1]);
    }
    if (best > 0) merges[best - 1] = find_merge(piece, symbols[best - 1], symbols[best]);
  }
}

void BpeModel::merge_by_queue(std::string_view piece, Scratch& scratch) const {
  std::vector<Symbol>& symbols = scratch.symbols;
  RankQueue& queue = scratch.queue;
  queue.reset(num_ranks_);
  const int32_t num_symbols = static_cast<int32_t>(symbols.size());
  const auto at = [&](int32_t idx) -> Symbol& { return symbols[static_cast<size_t>(idx)]; };
  const auto push = [&](int32_t left) {
    const Symbol& a = at(left);
    const Symbol& b = at(a.next);
    const Merge merge = find_merge(piece, a, b);
    if (merge.id < 0) return;
    queue.push(merge.rank, {static_cast<uint32_t>(left), a.length + b.length, merge.id});
  };
  for (int32_t i = 0; i < num_symbols; ++i) {
    at(i).prev = i - 1;
    at(i).next = i + 1 < num_symbols ? i + 1 : -1;
  }
  for (int32_t i = 0; i + 1 < num_symbols; ++i) push(i);
  while (!queue.empty()) {
    const RankQueue::Entry best = queue.pop();
    const int32_t left = static_cast<int32_t>(best.position);
    Symbol& a = at(left);
    // A symbol only ever grows, so an outdated merge shows in the joined length.
    if (a.length == 0 || a.next < 0 || a.length + at(a.next).length != best.length) continue;
    Symbol& b = at(a.next);
    a.id = best.id;
    a.length += b.length;
    a.next = b.next;
    b.length = 0;
    if (a.next >= 0) at(a.next).prev = left;
    if (a.next >= 0) push(left);
    if (a.prev >= 0) push(a.prev);
  }
  std::erase_if(symbols, [](const Symbol& symbol) { return symbol.length == 0; });
}

void BpeModel::encode(std::string_view piece, Scratch& scratch, std::vector<int32_t>& out) const {
  if (piece.empty()) return;
  if (options_.ignore_merges) {
    const int32_t id = options_.byte_level ? vocab_->find_bytes(piece) : vocab_->find(piece);
    if (id >= 0) {
      out.push_back(id);
      return;
    }
  }
  start_symbols(piece, scratch.symbols);
  if (scratch.symbols.size() <= kMaxScanSymbols) {
    merge_by_scan(piece, scratch);
  } else {
    merge_by_queue(piece, scratch);
  }
  if (!by_scores_) {
    for (const Symbol& symbol : scratch.symbols) out.push_back(symbol.id);
    return;
  }
  std::vector<Symbol> resolved;
  for (const Symbol& symbol : scratch.symbols) {
    if (symbol.id >= 0) {
      resolved.push_back(symbol);
    } else {
      add_unknown(piece.substr(symbol.begin, symbol.length), symbol.begin, resolved);
    }
  }
  for (const Symbol& symbol : resolved) out.push_back(symbol.id);
}

}  // namespace slipstream
