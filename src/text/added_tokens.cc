#include "text/added_tokens.h"

#include "base/utf8.h"
#include "text/normalize.h"

namespace slipstream {
namespace {

// Where the code point that ends at `position` (> 0) begins.
size_t previous_code_point(std::string_view text, size_t position) {
  --position;
  while (position > 0 && (static_cast<uint8_t>(text[position]) & 0xC0) == 0x80) --position;
  return position;
}

bool word_before(std::string_view text, size_t position) {
  if (position == 0) return false;
  return is_word_character(utf8_decode(text, previous_code_point(text, position)).code_point);
}

bool word_after(std::string_view text, size_t position) {
  return position < text.size() && is_word_character(utf8_decode(text, position).code_point);
}

size_t skip_space_left(std::string_view text, size_t position, size_t limit) {
  while (position > limit) {
    const size_t before = previous_code_point(text, position);
    if (before < limit || !is_white_space(utf8_decode(text, before).code_point)) break;
    position = before;
  }
  return position;
}

size_t skip_space_right(std::string_view text, size_t position) {
  while (position < text.size()) {
    const Utf8Step step = utf8_decode(text, position);
    if (!is_white_space(step.code_point)) break;
    position += step.length;
  }
  return position;
}

}  // namespace

AddedTokenSet::AddedTokenSet() { roots_.fill(-1); }

int32_t AddedTokenSet::find_child(int32_t node, uint8_t byte) const {
  for (int32_t child = nodes_[static_cast<size_t>(node)].first_child; child >= 0;
       child = nodes_[static_cast<size_t>(child)].next_sibling) {
    if (nodes_[static_cast<size_t>(child)].byte == byte) return child;
  }
  return -1;
}

void AddedTokenSet::add(const AddedToken& token, std::string_view spelling) {
  if (spelling.empty()) return;
  const uint8_t first = static_cast<uint8_t>(spelling[0]);
  if (roots_[first] < 0) {
    roots_[first] = static_cast<int32_t>(nodes_.size());
    nodes_.push_back({.byte = first});
  }
  int32_t node = roots_[first];
  for (const char c : spelling.substr(1)) {
    const uint8_t byte = static_cast<uint8_t>(c);
    int32_t child = find_child(node, byte);
    if (child < 0) {
      child = static_cast<int32_t>(nodes_.size());
      const int32_t sibling = nodes_[static_cast<size_t>(node)].first_child;
      nodes_.push_back({.next_sibling = sibling, .byte = byte});
      nodes_[static_cast<size_t>(node)].first_child = child;
    }
    node = child;
  }
  nodes_[static_cast<size_t>(node)].token_idx = static_cast<int32_t>(tokens_.size());
  tokens_.push_back({token.id, token.special, token.lstrip, token.rstrip, token.single_word});
}

const AddedTokenSet::Rule* AddedTokenSet::longest_at(std::string_view text, size_t position,
                                                     size_t& length) const {
  const Rule* found = nullptr;
  int32_t node = roots_[static_cast<uint8_t>(text[position])];
  for (size_t at = position + 1; node >= 0; ++at) {
    const int32_t token_idx = nodes_[static_cast<size_t>(node)].token_idx;
    if (token_idx >= 0) {
      found = &tokens_[static_cast<size_t>(token_idx)];
      length = at - position;
    }
    if (at >= text.size()) break;
    node = find_child(node, static_cast<uint8_t>(text[at]));
  }
  return found;
}

void AddedTokenSet::split(std::string_view text, bool parse_special,
                          std::span<const TextRange> plain_ranges,
                          std::vector<AddedSegment>& out) const {
  size_t done = 0;
  auto plain = plain_ranges.begin();
  for (size_t at = 0; at < text.size();) {
    size_t length = 0;
    const Rule* rule = longest_at(text, at, length);
    if (rule == nullptr) {
      ++at;
      continue;
    }
    const size_t end = at + length;
    const bool inside_word = rule->single_word && (word_before(text, at) || word_after(text, end));
    while (plain != plain_ranges.end() && plain->end <= at) ++plain;
    const bool is_plain = plain != plain_ranges.end() && plain->begin < end;
    // A match that does not count is passed over as a whole.
    if ((rule->special && (!parse_special || is_plain)) || inside_word || at < done) {
      at = end;
      continue;
    }
    const size_t from = rule->lstrip ? skip_space_left(text, at, done) : at;
    const size_t to = rule->rstrip ? skip_space_right(text, end) : end;
    if (from > done) out.push_back({{done, from}, -1});
    out.push_back({{from, to}, rule->id});
    done = to;
    at = end;
  }
  if (done < text.size()) out.push_back({{done, text.size()}, -1});
}

void AddedTokenSet::find_special(std::string_view text, std::vector<TextRange>& out) const {
  for (size_t at = 0; at < text.size(); ++at) {
    size_t length = 0;
    const Rule* rule = longest_at(text, at, length);
    if (rule != nullptr && rule->special) out.push_back({at, at + length});
  }
}

}  // namespace slipstream
