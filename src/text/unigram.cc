#include "text/unigram.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/strings.h"
#include "base/utf8.h"
#include "text/pretokenize.h"

namespace slipstream {
namespace {

// SentencePiece's penalty below the lowest score for a character that no token covers.
constexpr double kUnknownPenalty = 10.0;
constexpr double kUnreached = -std::numeric_limits<double>::infinity();

}  // namespace

UnigramModel::UnigramModel(const Vocab& vocab, std::vector<float> scores, UnigramOptions options)
    : vocab_(&vocab), scores_(std::move(scores)), options_(options), byte_ids_(256, -1) {}

Result<UnigramModel> UnigramModel::create(const Vocab& vocab, std::vector<float> scores,
                                          UnigramOptions options) {
  UnigramModel model(vocab, std::move(scores), options);
  double lowest = std::numeric_limits<double>::max();
  for (int32_t id = 0; id < vocab.size(); ++id) {
    const double score = static_cast<double>(model.scores_[static_cast<size_t>(id)]);
    if (!std::isfinite(score))
      return invalid_model(str("the score of token ", id, " is not finite"));
    if (vocab.kind(id) == TokenKind::kNormal) lowest = std::min(lowest, score);
    if (vocab.kind(id) == TokenKind::kByte) {
      model.byte_ids_[static_cast<uint8_t>(vocab.bytes(id)[0])] = id;
    }
  }
  model.unk_score_ = lowest - kUnknownPenalty;
  model.build_trie();
  return model;
}

void UnigramModel::build_trie() {
  std::vector<int32_t> ids;
  for (int32_t id = 0; id < vocab_->size(); ++id) {
    const TokenKind kind = vocab_->kind(id);
    const bool wanted = kind == TokenKind::kNormal || kind == TokenKind::kUserDefined;
    if (wanted && !vocab_->text(id).empty()) ids.push_back(id);
  }
  std::sort(ids.begin(), ids.end(),
            [&](int32_t a, int32_t b) { return vocab_->text(a) < vocab_->text(b); });
  // Breadth first over ranges of the sorted tokens, so that a node's edges lie together.
  struct Range {
    size_t begin;
    size_t end;
    size_t depth;
  };
  std::vector<Range> ranges = {{0, ids.size(), 0}};
  nodes_.assign(1, Node{});
  for (size_t node = 0; node < ranges.size(); ++node) {
    auto [begin, end, depth] = ranges[node];
    while (begin < end && vocab_->text(ids[begin]).size() == depth) nodes_[node].id = ids[begin++];
    nodes_[node].first_edge = static_cast<uint32_t>(edges_.size());
    while (begin < end) {
      const char byte = vocab_->text(ids[begin])[depth];
      size_t stop = begin;
      while (stop < end && vocab_->text(ids[stop])[depth] == byte) ++stop;
      edges_.push_back({static_cast<uint8_t>(byte), static_cast<uint32_t>(nodes_.size())});
      nodes_.push_back(Node{});
      ranges.push_back({begin, stop, depth + 1});
      begin = stop;
    }
    nodes_[node].num_edges = static_cast<uint32_t>(edges_.size()) - nodes_[node].first_edge;
  }
}

int64_t UnigramModel::find_child(uint32_t node, uint8_t byte) const {
  const Node& at = nodes_[node];
  const auto first = edges_.begin() + at.first_edge;
  const auto last = first + at.num_edges;
  const auto edge =
      std::lower_bound(first, last, byte, [](const Edge& e, uint8_t b) { return e.byte < b; });
  return edge != last && edge->byte == byte ? static_cast<int64_t>(edge->node) : -1;
}

void UnigramModel::append_unknown(std::string_view text, std::vector<int32_t>& out) const {
  const auto has_byte = [&](char byte) { return byte_ids_[static_cast<uint8_t>(byte)] >= 0; };
  if (options_.byte_fallback && std::all_of(text.begin(), text.end(), has_byte)) {
    for (const char byte : text) out.push_back(byte_ids_[static_cast<uint8_t>(byte)]);
  } else if (options_.unk_id >= 0) {
    out.push_back(options_.unk_id);
  }
}

void UnigramModel::encode(std::string_view piece, Scratch& scratch,
                          std::vector<int32_t>& out) const {
  std::vector<double>& best = scratch.best;
  best.assign(piece.size() + 1, kUnreached);
  scratch.last_id.assign(piece.size() + 1, -1);
  scratch.last_begin.assign(piece.size() + 1, 0);
  best[0] = 0;
  for (size_t begin = 0; begin < piece.size();) {
    const size_t length = utf8_decode(piece, begin).length;
    bool covers_character = false;
    const auto relax = [&](size_t end, int32_t id, double score) {
      if (best[begin] + score <= best[end]) return;
      best[end] = best[begin] + score;
      scratch.last_id[end] = id;
      scratch.last_begin[end] = static_cast<uint32_t>(begin);
    };
    int64_t node = 0;
    for (size_t at = begin; at < piece.size();) {
      node = find_child(static_cast<uint32_t>(node), static_cast<uint8_t>(piece[at++]));
      if (node < 0) break;
      const int32_t id = nodes_[static_cast<size_t>(node)].id;
      if (id < 0) continue;
      relax(at, id, static_cast<double>(scores_[static_cast<size_t>(id)]));
      covers_character |= at == begin + length;
    }
    if (!covers_character) relax(begin + length, -1, unk_score_);
    begin += length;
  }
  // The path from its end; unknown neighbours are joined while walking.
  std::vector<std::pair<TextRange, int32_t>> path;
  for (size_t end = piece.size(); end > 0; end = scratch.last_begin[end]) {
    const TextRange range = {scratch.last_begin[end], end};
    if (scratch.last_id[end] < 0 && !path.empty() && path.back().second < 0) {
      path.back().first.begin = range.begin;
    } else {
      path.push_back({range, scratch.last_id[end]});
    }
  }
  for (auto step = path.rbegin(); step != path.rend(); ++step) {
    const auto& [range, id] = *step;
    if (id >= 0) {
      out.push_back(id);
    } else {
      append_unknown(piece.substr(range.begin, range.end - range.begin), out);
    }
  }
}

}  // namespace slipstream
