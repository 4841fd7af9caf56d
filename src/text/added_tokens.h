// AddedTokens: tokens found in the text as a whole, before or after normalization.
//
// Owns the search: leftmost, of those the longest, with the strip and whole-word rules of
// tokenizer.json. Immutable once built.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/pretokenize.h"
#include "text/tokenizer.h"

namespace slipstream {

struct AddedToken {
  int32_t id = -1;
  std::string content;
  bool special = false;      // matched only when special tokens are parsed
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // takes the white space behind it
  bool single_word = false;  // not next to a word character
  bool normalized = false;   // searched in the normalized text
};

// A stretch of text: ordinary (id < 0) or one added token.
struct AddedSegment {
  TextRange range;
  int32_t id = -1;
};

// One set of tokens, searched together.
class AddedTokenSet {
 public:
  AddedTokenSet();
  // `spelling` is what the text has to contain; empty spellings are never found.
  void add(const AddedToken& token, std::string_view spelling);
  bool empty() const { return tokens_.empty(); }

  // Cuts `text` into segments that cover it, apart from white space that a token takes.
  // Special tokens that touch one of `plain_ranges` (sorted, disjoint) are not found.
  void split(std::string_view text, bool parse_special, std::span<const TextRange> plain_ranges,
             std::vector<AddedSegment>& out) const;
  // Where special tokens are spelled, each as long as it can be; they may overlap.
  void find_special(std::string_view text, std::vector<TextRange>& out) const;

 private:
  struct Node {
    int32_t token_idx = -1;
    int32_t first_child = -1;
    int32_t next_sibling = -1;
    uint8_t byte = 0;
  };
  struct Rule {
    int32_t id = -1;
    bool special = false;
    bool lstrip = false;
    bool rstrip = false;
    bool single_word = false;
  };
  int32_t find_child(int32_t node, uint8_t byte) const;
  // The longest token that starts at `position`; nothing found leaves `length` 0.
  const Rule* longest_at(std::string_view text, size_t position, size_t& length) const;

  std::vector<Rule> tokens_;
  std::vector<Node> nodes_;
  std::array<int32_t, 256> roots_{};  // the first level, by byte; -1: none
};

}  // namespace slipstream
