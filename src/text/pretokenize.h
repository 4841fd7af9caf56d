// PreTokenizer: cuts a text into the pieces a model encodes one by one. The one door to PCRE2.
//
// Owns regular expressions and the split rules of tokenizer.json. Patterns come from untrusted
// files: compiling is bounded in size, matching in steps, so a hostile pattern gives an error and
// never a hang. Immutable once built; a Matcher is one thread's scratch space.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/status.h"
#include "text/tokenizer.h"

namespace slipstream {

// A pattern in the syntax tokenizer.json uses, which is Oniguruma's.
class Regex {
 public:
  static Result<Regex> compile(std::string_view pattern);

  // Every match in `text` (valid UTF-8), left to right, without overlap.
  Status find_all(std::string_view text, std::vector<TextRange>& matches) const;

 private:
  struct Compiled;
  explicit Regex(std::shared_ptr<const Compiled> compiled) : compiled_(std::move(compiled)) {}
  // Shared: copies of a tokenizer's rules use one compiled pattern.
  std::shared_ptr<const Compiled> compiled_;
};

// A literal string or a regular expression.
class Pattern {
 public:
  static Pattern literal(std::string text) { return Pattern(std::move(text)); }
  static Pattern regex(Regex regex) { return Pattern(std::move(regex)); }
  Status find_all(std::string_view text, std::vector<TextRange>& matches) const;

 private:
  explicit Pattern(std::variant<std::string, Regex> rule) : rule_(std::move(rule)) {}
  std::variant<std::string, Regex> rule_;
};

enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

struct SplitStep {
  Pattern pattern;
  SplitBehavior behavior = SplitBehavior::kIsolated;
  bool invert = false;
};
struct ByteLevelStep {
  bool add_prefix_space = false;
  bool use_regex = true;
};
struct MetaspaceStep {
  enum class Prepend { kAlways, kFirst, kNever };
  std::string replacement = "\xE2\x96\x81";
  Prepend prepend = Prepend::kAlways;
  bool split = true;
};
struct FixedLengthStep {
  size_t num_code_points = 5;
};

// A text and the ranges of it that are pieces, in order.
struct Pieces {
  std::string_view text;  // the caller's text, or storage
  std::string storage;
  std::vector<TextRange> ranges;
  bool byte_spelled = false;  // bytes are spelled in the GPT-2 alphabet
};

class PreTokenizer {
 public:
  using Step = std::variant<SplitStep, ByteLevelStep, MetaspaceStep, FixedLengthStep>;

  // At most one ByteLevel step.
  Status add(Step step);
  // The pieces come out as raw bytes of the text, not spelled in the GPT-2 alphabet.
  bool byte_level() const { return byte_level_; }

  // `text` is valid UTF-8 and outlives `pieces`. `at_text_start`: nothing of the caller's text
  // lies before it. `byte_spelled`: a normalizer has already spelled the bytes.
  Status split(std::string_view text, bool at_text_start, bool byte_spelled, Pieces& pieces) const;

 private:
  Status split_step(const SplitStep& step, Pieces& pieces) const;
  Status byte_level_step(const ByteLevelStep& step, bool is_last, Pieces& pieces) const;
  void metaspace_step(const MetaspaceStep& step, bool at_text_start, Pieces& pieces) const;
  void fixed_length_step(const FixedLengthStep& step, Pieces& pieces) const;
  void unspell(Pieces& pieces) const;

  std::vector<Step> steps_;
  std::vector<SplitStep> gpt2_split_;  // one entry once a ByteLevel step needs it
  bool byte_level_ = false;
};

}  // namespace slipstream
