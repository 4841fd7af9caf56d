// Unigram language model: the segmentation of a piece whose token scores sum highest.
//
// Owns the scores and the search. Immutable once built.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "text/vocab.h"

namespace slipstream {

struct UnigramOptions {
  bool byte_fallback = false;
  int32_t unk_id = -1;
};

class UnigramModel {
 public:
  // `vocab` outlives the model; `scores` has one entry per token.
  static Result<UnigramModel> create(const Vocab& vocab, std::vector<float> scores,
                                     UnigramOptions options);

  struct Scratch {
    std::vector<double> best;      // [bytes + 1], score of the best path up to here
    std::vector<int32_t> last_id;  // its last token; -1 for an unknown character
    std::vector<uint32_t> last_begin;
  };

  // `piece` is valid UTF-8. Neighbouring unknown characters share one unknown token.
  void encode(std::string_view piece, Scratch& scratch, std::vector<int32_t>& out) const;

 private:
  UnigramModel(const Vocab& vocab, std::vector<float> scores, UnigramOptions options);
  void append_unknown(std::string_view text, std::vector<int32_t>& out) const;

  // A trie over the tokens' spellings, as sorted edges.
  struct Node {
    uint32_t first_edge = 0;
    uint32_t num_edges = 0;
    int32_t id = -1;
  };
  struct Edge {
    uint8_t byte = 0;
    uint32_t node = 0;
  };
  void build_trie();
  int64_t find_child(uint32_t node, uint8_t byte) const;

  const Vocab* vocab_;
  std::vector<float> scores_;
  UnigramOptions options_;
  double unk_score_ = 0;
  std::vector<Node> nodes_;
  std::vector<Edge> edges_;
  std::vector<int32_t> byte_ids_;
};

}  // namespace slipstream
