#include "text/normalize.h"

#include <unicode/normalizer2.h>
#include <unicode/stringoptions.h>
#include <unicode/uchar.h>
#include <utf8proc.h>

#include <cstdlib>
#include <memory>

#include "base/strings.h"
#include "base/utf8.h"
#include "text/vocab.h"

namespace slipstream {
namespace {

// Whether Unicode 12.1 does not know `code_point` yet.
bool is_newer(uint32_t code_point) {
  // Nothing below this point was assigned a decomposition or a combining class after 12.1, except
  // in blocks that the age tells apart; the shortcut keeps Latin text fast.
  if (code_point < 0x0300) return false;
  UVersionInfo age = {};
  u_charAge(static_cast<UChar32>(code_point), age);
  return age[0] == 0 || age[0] > 12 || (age[0] == 12 && age[1] > 1);
}

Result<std::string> canonical_with_icu(std::string_view text, UnicodeForm form) {
  UErrorCode error = U_ZERO_ERROR;
  const icu::Normalizer2* normalizer = form == UnicodeForm::kNfc
                                           ? icu::Normalizer2::getNFCInstance(error)
                                           : icu::Normalizer2::getNFDInstance(error);
  if (U_FAILURE(error)) return failed(str("ICU normalizer: ", u_errorName(error)));
  const icu::StringPiece piece(text.data(), static_cast<int32_t>(text.size()));
  if (normalizer->isNormalizedUTF8(piece, error) && U_SUCCESS(error)) return std::string(text);
  std::string out;
  icu::StringByteSink<std::string> sink(&out);
  normalizer->normalizeUTF8(0, piece, sink, nullptr, error);
  if (U_FAILURE(error)) return failed(str("ICU normalizer: ", u_errorName(error)));
  return out;
}

struct FreeDeleter {
  void operator()(utf8proc_uint8_t* text) const { std::free(text); }
};

Result<std::string> compatible_with_utf8proc(std::string_view text, UnicodeForm form) {
  const utf8proc_option_t direction =
      form == UnicodeForm::kNfkc ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
  utf8proc_uint8_t* raw = nullptr;
  const utf8proc_ssize_t size =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                   static_cast<utf8proc_ssize_t>(text.size()), &raw,
                   static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPAT | direction));
  const std::unique_ptr<utf8proc_uint8_t, FreeDeleter> owned(raw);
  if (size < 0) return failed(str("utf8proc: ", utf8proc_errmsg(size)));
  return std::string(reinterpret_cast<const char*>(raw), static_cast<size_t>(size));
}

Result<std::string> normalize_known(std::string_view text, UnicodeForm form) {
  if (form == UnicodeForm::kNfc || form == UnicodeForm::kNfd) return canonical_with_icu(text, form);
  return compatible_with_utf8proc(text, form);
}

// A code point unknown to Unicode 12.1 has no decomposition and combining class 0 there, so the
// text on either side of it normalizes by itself.
Result<std::string> to_form(std::string_view text, UnicodeForm form) {
  std::string out;
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    if (static_cast<uint8_t>(text[at]) < 0x80) {
      ++at;
      continue;
    }
    const Utf8Step step = utf8_decode(text, at);
    if (is_newer(step.code_point)) {
      SLIPSTREAM_ASSIGN_OR_RETURN(const std::string part,
                                  normalize_known(text.substr(begin, at - begin), form));
      out += part;
      out += text.substr(at, step.length);
      begin = at + step.length;
    }
    at += step.length;
  }
  if (begin == 0) return normalize_known(text, form);
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::string part, normalize_known(text.substr(begin), form));
  return out + part;
}

template <typename Function>
std::string map_code_points(std::string_view text, Function append) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = utf8_decode(text, at);
    append(out, step.code_point);
    at += step.length;
  }
  return out;
}

std::string lowercase(std::string_view text) {
  return map_code_points(text, [](std::string& out, uint32_t code_point) {
    if (code_point == 0x130) {  // the one code point whose lower case is two
      out += "i\xCC\x87";
    } else {
      utf8_append(
          out, static_cast<uint32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(code_point))));
    }
  });
}

std::string strip_accents(std::string_view text) {
  return map_code_points(text, [](std::string& out, uint32_t code_point) {
    const utf8proc_category_t category =
        utf8proc_category(static_cast<utf8proc_int32_t>(code_point));
    const bool is_mark = category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_MC ||
                         category == UTF8PROC_CATEGORY_ME;
    if (!is_mark) utf8_append(out, code_point);
  });
}

std::string strip(std::string_view text, const StripStep& step) {
  size_t begin = 0;
  while (step.left && begin < text.size()) {
    const Utf8Step next = utf8_decode(text, begin);
    if (!is_white_space(next.code_point)) break;
    begin += next.length;
  }
  size_t end = text.size();
  while (step.right && end > begin) {
    size_t last = end - 1;
    while (last > begin && (static_cast<uint8_t>(text[last]) & 0xC0) == 0x80) --last;
    if (!is_white_space(utf8_decode(text, last).code_point)) break;
    end = last;
  }
  return std::string(text.substr(begin, end - begin));
}

std::string collapse_spaces(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == ' ' && (out.empty() || out.back() == ' ')) continue;
    out.push_back(c);
  }
  if (!out.empty() && out.back() == ' ') out.pop_back();
  return out;
}

Result<std::string> replace(std::string_view text, const ReplaceStep& step, size_t max_bytes) {
  std::vector<TextRange> matches;
  SLIPSTREAM_RETURN_IF_ERROR(step.pattern.find_all(text, matches));
  if (matches.size() > max_bytes / (step.content.size() + 1)) {
    return failed(str("a Replace normalizer makes the text longer than ", max_bytes, " bytes"));
  }
  std::string out;
  size_t at = 0;
  for (const TextRange& match : matches) {
    out.append(text, at, match.begin - at);
    out += step.content;
    at = match.end;
  }
  out.append(text, at);
  return out;
}

Result<std::string> apply_step(const Normalizer::Step& step, std::string text, size_t max_bytes) {
  if (const auto* form = std::get_if<FormStep>(&step)) return to_form(text, form->form);
  if (const auto* prepend = std::get_if<PrependStep>(&step)) {
    return text.empty() ? text : prepend->text + text;
  }
  if (const auto* rule = std::get_if<ReplaceStep>(&step)) return replace(text, *rule, max_bytes);
  if (std::holds_alternative<LowercaseStep>(step)) return lowercase(text);
  if (const auto* rule = std::get_if<StripStep>(&step)) return strip(text, *rule);
  if (std::holds_alternative<StripAccentsStep>(step)) return strip_accents(text);
  if (std::holds_alternative<CollapseSpacesStep>(step)) return collapse_spaces(text);
  std::string spelled;
  append_byte_spelled(spelled, text);
  return spelled;
}

}  // namespace

bool is_white_space(uint32_t code_point) {
  return (code_point >= 0x09 && code_point <= 0x0D) || code_point == 0x20 || code_point == 0x85 ||
         code_point == 0xA0 || code_point == 0x1680 ||
         (code_point >= 0x2000 && code_point <= 0x200A) || code_point == 0x2028 ||
         code_point == 0x2029 || code_point == 0x202F || code_point == 0x205F ||
         code_point == 0x3000;
}

bool is_word_character(uint32_t code_point) {
  if (code_point == '_') return true;
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(code_point))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return false;
  }
}

bool Normalizer::spells_bytes() const {
  for (const Step& step : steps_) {
    if (std::holds_alternative<SpellBytesStep>(step)) return true;
  }
  return false;
}

Result<std::string> Normalizer::apply(std::string_view text, size_t max_bytes) const {
  std::string out(text);
  for (const Step& step : steps_) {
    SLIPSTREAM_ASSIGN_OR_RETURN(out, apply_step(step, std::move(out), max_bytes));
    if (out.size() > max_bytes) {
      return failed(str("the normalizer makes the text longer than ", max_bytes, " bytes"));
    }
  }
  return out;
}

}  // namespace slipstream
