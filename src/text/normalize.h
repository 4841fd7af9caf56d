// Normalizer: what happens to a text before it is cut into pieces. The one door to ICU and
// utf8proc.
//
// Canonical normalization follows Unicode 12.1, as the tokenizers that trained the vocabularies do:
// later code points pass unchanged. Immutable once built.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/status.h"
#include "text/pretokenize.h"

namespace slipstream {

// Unicode White_Space.
bool is_white_space(uint32_t code_point);
// Letters, marks, decimal and letter digits, connectors: what \w means around added tokens.
bool is_word_character(uint32_t code_point);

enum class UnicodeForm { kNfc, kNfd, kNfkc, kNfkd };

struct FormStep {
  UnicodeForm form = UnicodeForm::kNfc;
};
struct PrependStep {
  std::string text;  // put before a text that is not empty
};
struct ReplaceStep {
  Pattern pattern;
  std::string content;
};
struct LowercaseStep {};
struct StripStep {
  bool left = true;
  bool right = true;
};
struct StripAccentsStep {};  // removes combining marks
struct SpellBytesStep {};    // the GPT-2 byte alphabet
// SentencePiece's remove_extra_whitespaces: none at the ends, one between words.
struct CollapseSpacesStep {};

class Normalizer {
 public:
  using Step = std::variant<FormStep, PrependStep, ReplaceStep, LowercaseStep, StripStep,
                            StripAccentsStep, SpellBytesStep, CollapseSpacesStep>;

  void add(Step step) { steps_.push_back(std::move(step)); }
  bool empty() const { return steps_.empty(); }
  // Whether the result is spelled in the GPT-2 byte alphabet.
  bool spells_bytes() const;

  // `text` is valid UTF-8. The result may be larger, never more than `max_bytes`.
  Result<std::string> apply(std::string_view text, size_t max_bytes) const;

 private:
  std::vector<Step> steps_;
};

}  // namespace slipstream
