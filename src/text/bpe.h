// Byte-pair encoding of one piece of text: the lowest-ranked pair of neighbours merges first, and
// of equal ranks the leftmost, until no pair is left.
//
// Owns the merge tables. Two rules for "does this pair merge": a table of id pairs (merges.txt,
// tokenizer.json, GGUF gpt2), or any two neighbours whose joined text is a token (SentencePiece
// scores). Does not split text into pieces. Immutable once built; scratch space is the caller's.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "text/rank_queue.h"
#include "text/vocab.h"

namespace slipstream {

struct Merge {
  uint32_t rank = UINT32_MAX;
  int32_t id = -1;
};

// Open-addressed hash from a pair of ids to its merge.
class MergeTable {
 public:
  void reserve(size_t num_merges);
  // The later of two equal pairs wins.
  void insert(int32_t left, int32_t right, Merge merge);
  Merge find(int32_t left, int32_t right) const;
  // One above the highest rank.
  size_t num_ranks() const { return num_ranks_; }
  // Starts to fetch what insert() and find() of this pair will read.
  void prefetch(int32_t left, int32_t right) const;

 private:
  struct Slot {
    uint64_t key = UINT64_MAX;
    Merge merge;
  };
  std::vector<Slot> slots_;
  size_t num_ranks_ = 0;
};

struct BpeOptions {
  bool byte_level = false;     // pieces are raw bytes, one starting symbol per byte
  bool byte_fallback = false;  // unknown characters become <0xNN> tokens
  bool fuse_unk = false;       // neighbouring unknown characters share one unknown token
  bool ignore_merges = false;  // a piece that is a token needs no merges
  int32_t unk_id = -1;         // -1: unknown characters are dropped
};

class BpeModel {
 public:
  struct Symbol {
    int32_t id = -1;  // -1: unknown so far
    uint32_t begin = 0;
    uint32_t length = 0;  // 0 once merged into its left neighbour
    int32_t prev = -1;
    int32_t next = -1;
  };
  // Reused between pieces so that encoding does not allocate.
  struct Scratch {
    std::vector<Symbol> symbols;
    std::vector<Merge> merges;
    RankQueue queue;
  };

  // `vocab` is indexed (by bytes too, for a byte-level model that ignores merges) and outlives the
  // model.
  static BpeModel from_merges(const Vocab& vocab, MergeTable merges, BpeOptions options);
  // `scores` has one entry per token; higher merges first.
  static BpeModel from_scores(const Vocab& vocab, const std::vector<float>& scores,
                              BpeOptions options);

  // `piece` is valid UTF-8 unless the model is byte-level.
  void encode(std::string_view piece, Scratch& scratch, std::vector<int32_t>& out) const;
  const BpeOptions& options() const { return options_; }

 private:
  BpeModel(const Vocab& vocab, BpeOptions options);
  void start_symbols(std::string_view piece, std::vector<Symbol>& symbols) const;
  void add_unknown(std::string_view character, uint32_t begin, std::vector<Symbol>& symbols) const;
  Merge find_merge(std::string_view piece, const Symbol& left, const Symbol& right) const;
  void merge_by_scan(std::string_view piece, Scratch& scratch) const;
  void merge_by_queue(std::string_view piece, Scratch& scratch) const;

  const Vocab* vocab_;
  BpeOptions options_;
  MergeTable merges_;
  bool by_scores_ = false;
  size_t num_ranks_ = 0;
  std::vector<uint32_t> ranks_;  // per token; UINT32_MAX for tokens that nothing merges into
  size_t max_token_bytes_ = 0;   // of tokens that something merges into
  std::array<int32_t, 256> byte_ids_{};  // -1 where the vocabulary lacks the byte
};

}  // namespace slipstream
