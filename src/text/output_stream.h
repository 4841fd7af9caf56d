// OutputStream: generated token ids in, the text a user may see out, one piece per token.
//
// Owns the hold-back rules: a code point or a possible stop string is never shown in part. Does not
// decide on stop ids, lengths or finish reasons. One stream per choice; one thread at a time.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace slipstream {

// Finds the first of several strings in a text that arrives in pieces, in time linear in the text.
// The match that ends first wins; of those that end together, the longest. How the text is cut
// into pieces makes no difference.
class StopMatcher {
 public:
  // Empty strings and strings that are not valid UTF-8 never match.
  explicit StopMatcher(const std::vector<std::string>& stops, bool include_stop_str = false);

  // The text that is now certain to lie before any stop string. Nothing once stopped.
  std::string push(std::string_view text);
  // The held text, at the end of a generation that did not stop here.
  std::string flush();

  bool stopped() const { return stop_idx_.has_value(); }
  // Index into the constructor's list.
  std::optional<size_t> stop_idx() const { return stop_idx_; }
  size_t held_bytes() const { return held_.size(); }

 private:
  struct Node {
    std::vector<std::pair<uint8_t, int32_t>> children;
    int32_t suffix = 0;         // the longest proper suffix that is a prefix of a stop string
    int32_t depth = 0;          // bytes
    int32_t longest_stop = -1;  // the longest stop string that ends here
  };

  void insert(const std::string& stop, int32_t stop_idx);
  void link_suffixes();
  int32_t child(int32_t node, uint8_t byte) const;
  int32_t step(int32_t node, uint8_t byte) const;

  std::vector<Node> nodes_;
  std::vector<size_t> stop_bytes_;
  bool include_stop_str_ = false;
  int32_t state_ = 0;
  std::string held_;
  std::optional<size_t> stop_idx_;
};

struct OutputOptions {
  std::vector<std::string> stop;
  bool include_stop_str = false;
  bool skip_special = true;
  // See DecodeOptions: false when the ids continue a prompt.
  bool at_text_start = false;
};

class OutputStream {
 public:
  // `tokenizer` must outlive the stream.
  OutputStream(const Tokenizer& tokenizer, const OutputOptions& options);

  // The text that this token makes visible; often empty while something is held back.
  std::string push(int32_t id);
  // The rest, at the end of a generation: an incomplete code point becomes U+FFFD.
  std::string flush();

  bool stopped() const { return matcher_.stopped(); }
  std::optional<size_t> stop_idx() const { return matcher_.stop_idx(); }

 private:
  DecodeStream decoder_;
  StopMatcher matcher_;
};

}  // namespace slipstream
