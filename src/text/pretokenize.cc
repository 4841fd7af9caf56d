// Regex over PCRE2 (the rest of pretokenize.h is in split_steps.cc): translates Oniguruma's syntax,
// bounds what a hostile pattern can cost.
//
// Patterns known to run in linear time (known_patterns.h) are compiled to machine code. All others
// run in the interpreter inside a window that grows only when the match needs it; each growth, and
// each raise of the step limit, is charged to a budget proportional to the text.
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <optional>

#include "base/strings.h"
#include "base/utf8.h"
#include "text/known_patterns.h"
#include "text/newer_code_points.h"
#include "text/pretokenize.h"

namespace slipstream {
namespace {

constexpr size_t kMaxPatternBytes = 64u << 10;
constexpr uint32_t kMaxNesting = 64;
constexpr uint32_t kHeapLimitKib = 64u << 10;

// Steps and window bytes an attempt may use before it is charged, and how fast both grow.
constexpr uint32_t kFreeSteps = 4096;
constexpr size_t kFreeWindowBytes = 512;
constexpr uint32_t kGrowth = 8;
constexpr uint64_t kBaseBudget = 1u << 20;
constexpr uint64_t kBudgetPerByte = 64;
constexpr uint32_t kKnownPatternSteps = 1u << 30;

// Unicode White_Space. PCRE2's own \s has U+180E as well.
constexpr std::string_view kSpaces =
    "\\x09-\\x0d\\x20\\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}"
    "\\x{3000}";
// PCRE2's own \w lacks marks and connectors.
constexpr std::string_view kWordCharacters = "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}";
constexpr std::string_view kHexDigits = "0-9A-Fa-f";

// The members of a shorthand class; empty when the escape is not one that needs rewriting.
std::string_view shorthand_members(char escape) {
  switch (escape) {
    case 's':
    case 'S':
      return kSpaces;
    case 'w':
    case 'W':
      return kWordCharacters;
    case 'h':
    case 'H':
      return kHexDigits;
    default:
      return {};
  }
}

// Rewrites a category such as \p{L} at `at`, adding what newer Unicode versions added to it.
// Returns the bytes of the pattern it stands for; 0 when there is nothing to rewrite.
size_t append_category(std::string_view pattern, size_t at, bool in_class, std::string& out) {
  const std::string_view head = pattern.substr(at, 3);
  const size_t end = pattern.find('}', at);
  if ((head != "\\p{" && head != "\\P{") || end == std::string_view::npos) return 0;
  const std::string_view added = newer_code_points(pattern.substr(at + 3, end - at - 3));
  const bool negated = head[1] == 'P';
  // A negated category inside a class cannot be narrowed there.
  if (added.empty() || (negated && in_class)) return 0;
  const std::string_view name = pattern.substr(at + 2, end - at - 1);
  out += str(in_class ? "" : negated ? "[^" : "[", "\\p", name, added, in_class ? "" : "]");
  return end + 1 - at;
}

// Oniguruma's pattern in PCRE2's syntax.
Result<std::string> translate(std::string_view pattern) {
  std::string out;
  bool in_class = false;
  size_t class_begin = 0;
  for (size_t at = 0; at < pattern.size(); ++at) {
    const char c = pattern[at];
    if (const size_t used = append_category(pattern, at, in_class, out); used > 0) {
      at += used - 1;
      continue;
    }
    if (c == '\\' && at + 1 < pattern.size()) {
      const char escape = pattern[++at];
      const std::string_view members = shorthand_members(escape);
      const bool negated = escape == 'S' || escape == 'W' || escape == 'H';
      if (members.empty()) {
        out.append({c, escape});
      } else if (!in_class) {
        out += str(negated ? "[^" : "[", members, "]");
      } else if (!negated) {
        out += members;
      } else if (escape == 'S') {
        out += "\\S\\x{180e}";
      } else {
        return invalid_model(str("the class escape \\", escape, " inside [] is not supported"));
      }
      continue;
    }
    if (!in_class && c == '[') {
      in_class = true;
      out.push_back(c);
      if (at + 1 < pattern.size() && pattern[at + 1] == '^') out.push_back(pattern[++at]);
      class_begin = at + 1;
      continue;
    }
    if (in_class && c == '[' && at + 1 < pattern.size() && pattern[at + 1] == ':') {
      const size_t end = pattern.find(":]", at + 2);
      if (end == std::string_view::npos) return invalid_model("[: without :]");
      out.append(pattern.substr(at, end + 2 - at));
      at = end + 1;
      continue;
    }
    if (in_class && (c == '[' || pattern.substr(at, 2) == "&&")) {
      return invalid_model("nested classes and && inside [] are not supported");
    }
    if (in_class && c == ']' && at > class_begin) in_class = false;
    out.push_back(c);
  }
  return out;
}

struct CodeDeleter {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};
struct CompileContextDeleter {
  void operator()(pcre2_compile_context* context) const { pcre2_compile_context_free(context); }
};
struct MatchContextDeleter {
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};
struct MatchDataDeleter {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};
struct JitStackDeleter {
  void operator()(pcre2_jit_stack* stack) const { pcre2_jit_stack_free(stack); }
};

std::string error_text(int code) {
  char buffer[160] = {};
  pcre2_get_error_message(code, reinterpret_cast<PCRE2_UCHAR*>(buffer), sizeof(buffer));
  return buffer;
}

size_t code_point_bytes(std::string_view text, size_t position) {
  return position < text.size() ? utf8_decode(text, position).length : 1;
}

}  // namespace

struct Regex::Compiled {
  std::unique_ptr<pcre2_code, CodeDeleter> code;
  bool known = false;  // linear on every text
};

namespace {

// One scan over one text.
class Scan {
 public:
  Scan(const pcre2_code* code, bool known, std::string_view text)
      : code_(code),
        known_(known),
        text_(text),
        data_(pcre2_match_data_create_from_pattern(code, nullptr)),
        context_(pcre2_match_context_create(nullptr)),
        budget_(kBaseBudget + kBudgetPerByte * text.size()) {
    pcre2_set_heap_limit(context_.get(), kHeapLimitKib);
    pcre2_set_match_limit(context_.get(), known ? kKnownPatternSteps : kFreeSteps);
  }

  // The first match at or after `from`; nothing when there is none.
  Result<std::optional<TextRange>> next(size_t from) {
    return known_ ? next_known(from) : next_bounded(from);
  }

 private:
  using Found = Result<std::optional<TextRange>>;

  int match(size_t from, size_t end, uint32_t options) {
    return pcre2_match(code_, reinterpret_cast<PCRE2_SPTR>(text_.data()), end, from,
                       options | PCRE2_NO_UTF_CHECK, data_.get(), context_.get());
  }

  Found found(size_t from) const {
    const PCRE2_SIZE* range = pcre2_get_ovector_pointer(data_.get());
    if (range[0] < from || range[1] < range[0]) {
      return invalid_model("a pattern matches text before its own start (\\K or a look-behind)");
    }
    return std::optional<TextRange>({range[0], range[1]});
  }

  Found next_known(size_t from) {
    int rc = match(from, text_.size(), 0);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) {
      // The default stack is 32 KiB; long runs of backtracking need more.
      jit_stack_.reset(pcre2_jit_stack_create(64u << 10, 64u << 20, nullptr));
      pcre2_jit_stack_assign(context_.get(), nullptr, jit_stack_.get());
      rc = match(from, text_.size(), 0);
    }
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) rc = match(from, text_.size(), PCRE2_NO_JIT);
    if (rc == PCRE2_ERROR_NOMATCH) return std::optional<TextRange>();
    if (rc < 0) return failed(str("pre-tokenizer pattern: ", error_text(rc)));
    return found(from);
  }

  Found next_bounded(size_t from) {
    for (size_t start = from;; start += code_point_bytes(text_, start)) {
      SLIPSTREAM_ASSIGN_OR_RETURN(const bool matched, attempt(start));
      if (matched) return found(from);
      if (start >= text_.size()) return std::optional<TextRange>();
    }
  }

  // Whether the pattern matches exactly at `start`.
  Result<bool> attempt(size_t start) {
    size_t window = kFreeWindowBytes;
    uint32_t steps = kFreeSteps;
    for (;;) {
      size_t end = window < text_.size() - start ? start + window : text_.size();
      while (end < text_.size() && (static_cast<uint8_t>(text_[end]) & 0xC0) == 0x80) ++end;
      const uint32_t partial = end < text_.size() ? PCRE2_PARTIAL_HARD : 0;
      const int rc = match(start, end, PCRE2_ANCHORED | PCRE2_NO_JIT | partial);
      if (rc == PCRE2_ERROR_PARTIAL) {
        window *= kGrowth;
        SLIPSTREAM_RETURN_IF_ERROR(charge(std::min(window, text_.size() - start)));
      } else if (rc == PCRE2_ERROR_MATCHLIMIT && steps < UINT32_MAX / kGrowth) {
        steps *= kGrowth;
        SLIPSTREAM_RETURN_IF_ERROR(charge(steps));
        pcre2_set_match_limit(context_.get(), steps);
      } else {
        if (steps != kFreeSteps) pcre2_set_match_limit(context_.get(), kFreeSteps);
        if (rc == PCRE2_ERROR_NOMATCH) return false;
        if (rc < 0) return failed(str("pre-tokenizer pattern: ", error_text(rc)));
        return true;
      }
    }
  }

  Status charge(uint64_t amount) {
    if (amount > budget_) {
      return failed("a pre-tokenizer pattern backtracks too much on this text");
    }
    budget_ -= amount;
    return {};
  }

  const pcre2_code* code_;
  bool known_;
  std::string_view text_;
  std::unique_ptr<pcre2_match_data, MatchDataDeleter> data_;
  std::unique_ptr<pcre2_match_context, MatchContextDeleter> context_;
  std::unique_ptr<pcre2_jit_stack, JitStackDeleter> jit_stack_;
  uint64_t budget_;
};

}  // namespace

Result<Regex> Regex::compile(std::string_view pattern) {
  if (pattern.size() > kMaxPatternBytes) {
    return invalid_model(
        str("a pattern has ", pattern.size(), " bytes, the limit is ", kMaxPatternBytes));
  }
  if (!utf8_valid(pattern)) return invalid_model("a pattern is not valid UTF-8");
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::string translated, translate(pattern));
  const std::unique_ptr<pcre2_compile_context, CompileContextDeleter> context(
      pcre2_compile_context_create(nullptr));
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  pcre2_set_parens_nest_limit(context.get(), kMaxNesting);
  // Oniguruma's ^ and $ match at every line.
  const uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
  int error = 0;
  PCRE2_SIZE offset = 0;
  auto compiled = std::make_shared<Compiled>();
  compiled->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()),
                                     translated.size(), options, &error, &offset, context.get()));
  if (!compiled->code) {
    return invalid_model(str("pattern ", quote(pattern), ": ", error_text(error)));
  }
  compiled->known = is_known_pattern(pattern);
  // Where writable executable memory is refused this fails and matching is interpreted.
  if (compiled->known) pcre2_jit_compile(compiled->code.get(), PCRE2_JIT_COMPLETE);
  return Regex(std::move(compiled));
}

Status Regex::find_all(std::string_view text, std::vector<TextRange>& matches) const {
  matches.clear();
  if (text.empty()) return {};
  Scan scan(compiled_->code.get(), compiled_->known, text);
  size_t from = 0;
  std::optional<size_t> last_end;
  while (from <= text.size()) {
    SLIPSTREAM_ASSIGN_OR_RETURN(const std::optional<TextRange> match, scan.next(from));
    if (!match) break;
    from = match->end;
    if (match->begin == match->end) {
      from += code_point_bytes(text, match->end);
      // An empty match right behind the previous match is not one.
      if (last_end == match->end) continue;
    }
    last_end = match->end;
    matches.push_back(*match);
  }
  return {};
}

}  // namespace slipstream
