// Owns the code-point helpers of the template engine; not the tokenizers' normalisation.
#include "text/jinja/unicode.h"

#include <algorithm>
#include <cstring>

#include "base/utf8.h"
#include "text/jinja/unicode_tables.h"

namespace slipstream::jinja {
namespace {

template <size_t N>
bool in_ranges(const CodePointRange (&ranges)[N], char32_t c) {
  const auto* it =
      std::upper_bound(std::begin(ranges), std::end(ranges), uint32_t{c},
                       [](uint32_t v, const CodePointRange& r) { return v < r.first; });
  return it != std::begin(ranges) && c <= std::prev(it)->last;
}

template <size_t N>
char32_t map_simple(const CaseRun (&runs)[N], char32_t c) {
  const auto* it = std::upper_bound(std::begin(runs), std::end(runs), uint32_t{c},
                                    [](uint32_t v, const CaseRun& r) { return v < r.first; });
  // Runs with a stride may overlap their successor, so two predecessors are looked at.
  for (int back = 0; back < 4 && it != std::begin(runs); ++back) {
    --it;
    if (c <= it->last && (c - it->first) % it->stride == 0) {
      return static_cast<char32_t>(static_cast<int32_t>(c) + it->delta);
    }
  }
  return c;
}

template <size_t N>
const CaseExpansion* find_expansion(const CaseExpansion (&table)[N], char32_t c) {
  const auto* it = std::lower_bound(std::begin(table), std::end(table), uint32_t{c},
                                    [](const CaseExpansion& e, uint32_t v) { return e.from < v; });
  return it != std::end(table) && it->from == c ? it : nullptr;
}

void append_upper(std::string& out, char32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(c >= 'a' && c <= 'z' ? c - 32 : c);
  } else if (const CaseExpansion* e = find_expansion(kUpperExpansion, c)) {
    for (uint32_t to : e->to) {
      if (to != 0) utf8_append(out, to);
    }
  } else {
    utf8_append(out, map_simple(kToUpper, c));
  }
}

void append_lower(std::string& out, char32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
  } else if (const CaseExpansion* e = find_expansion(kLowerExpansion, c)) {
    for (uint32_t to : e->to) {
      if (to != 0) utf8_append(out, to);
    }
  } else {
    utf8_append(out, map_simple(kToLower, c));
  }
}

// A titlecase letter: the first code point of the upper-case mapping, the others lowered.
void append_title(std::string& out, char32_t c) {
  const CaseExpansion* e = c < 0x80 ? nullptr : find_expansion(kUpperExpansion, c);
  if (e == nullptr) return append_upper(out, c);
  utf8_append(out, e->to[0]);
  for (int k = 1; k < 3; ++k) {
    if (e->to[k] != 0) append_lower(out, e->to[k]);
  }
}

// Greek sigma is lowered to its final form at the end of a word.
bool is_final_sigma(const std::u32string& text, size_t position) {
  const bool before = position > 0 && is_alpha(text[position - 1]);
  const bool after = position + 1 < text.size() && is_alpha(text[position + 1]);
  return before && !after;
}

void append_lower_at(std::string& out, const std::u32string& text, size_t position) {
  if (text[position] == 0x3A3 && is_final_sigma(text, position)) return utf8_append(out, 0x3C2);
  append_lower(out, text[position]);
}

bool is_cased(char32_t c) { return is_upper(c) || is_lower(c); }

size_t previous_start(std::string_view text, size_t end) {
  size_t start = end - 1;
  while (start > 0 && (static_cast<unsigned char>(text[start]) & 0xC0) == 0x80) --start;
  return start;
}

bool stripped(char32_t c, const std::u32string* set) {
  return set == nullptr ? is_space(c) : set->find(c) != std::u32string::npos;
}

}  // namespace

int64_t count_code_points(std::string_view text) {
  int64_t count = 0;
  for (char c : text) count += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  return count;
}

std::u32string to_code_points(std::string_view text) {
  std::u32string out;
  out.reserve(text.size());
  for (size_t pos = 0; pos < text.size();) {
    const Utf8Step step = utf8_decode(text, pos);
    out += static_cast<char32_t>(step.code_point);
    pos += step.length;
  }
  return out;
}

std::string to_utf8(std::u32string_view code_points) {
  std::string out;
  out.reserve(code_points.size());
  for (char32_t c : code_points) utf8_append(out, c);
  return out;
}

size_t byte_offset(std::string_view text, int64_t index) {
  size_t pos = 0;
  for (; index > 0 && pos < text.size(); --index) {
    ++pos;
    while (pos < text.size() && (static_cast<unsigned char>(text[pos]) & 0xC0) == 0x80) ++pos;
  }
  return pos;
}

size_t find_text(std::string_view text, std::string_view needle, size_t from) {
  if (from > text.size()) return std::string_view::npos;
  if (needle.empty()) return from;
  const void* found = memmem(text.data() + from, text.size() - from, needle.data(), needle.size());
  if (found == nullptr) return std::string_view::npos;
  return static_cast<size_t>(static_cast<const char*>(found) - text.data());
}

size_t rfind_text(std::string_view text, std::string_view needle) {
  const std::string reversed_text(text.rbegin(), text.rend());
  const std::string reversed_needle(needle.rbegin(), needle.rend());
  const size_t found = find_text(reversed_text, reversed_needle);
  return found == std::string_view::npos ? found : text.size() - found - needle.size();
}

bool is_space(char32_t c) {
  if (c < 0x80) return c == ' ' || (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x1F);
  return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
         c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool is_printable(char32_t c) {
  if (c < 0x7F) return c >= 0x20;
  return !in_ranges(kNotPrintable, c);
}

bool is_alpha(char32_t c) { return in_ranges(kAlphabetic, c); }
bool is_digit(char32_t c) { return in_ranges(kDigit, c); }

bool is_upper(char32_t c) {
  if (c < 0x80) return c >= 'A' && c <= 'Z';
  return map_simple(kToLower, c) != c || find_expansion(kLowerExpansion, c) != nullptr;
}

bool is_lower(char32_t c) {
  if (c < 0x80) return c >= 'a' && c <= 'z';
  return map_simple(kToUpper, c) != c || find_expansion(kUpperExpansion, c) != nullptr;
}

std::string to_upper(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (char32_t c : to_code_points(text)) append_upper(out, c);
  return out;
}

std::string to_lower(std::string_view text) {
  const std::u32string points = to_code_points(text);
  std::string out;
  out.reserve(text.size());
  for (size_t k = 0; k < points.size(); ++k) append_lower_at(out, points, k);
  return out;
}

std::string capitalize(std::string_view text) {
  const std::u32string points = to_code_points(text);
  std::string out;
  out.reserve(text.size());
  for (size_t k = 0; k < points.size(); ++k) {
    if (k == 0) {
      append_title(out, points[k]);
    } else {
      append_lower_at(out, points, k);
    }
  }
  return out;
}

std::string title(std::string_view text) {
  const std::u32string points = to_code_points(text);
  std::string out;
  out.reserve(text.size());
  bool in_word = false;
  for (size_t k = 0; k < points.size(); ++k) {
    if (in_word) {
      append_lower_at(out, points, k);
    } else {
      append_title(out, points[k]);
    }
    in_word = is_cased(points[k]);
  }
  return out;
}

std::string swap_case(std::string_view text) {
  const std::u32string points = to_code_points(text);
  std::string out;
  out.reserve(text.size());
  for (size_t k = 0; k < points.size(); ++k) {
    if (is_upper(points[k])) {
      append_lower_at(out, points, k);
    } else {
      append_upper(out, points[k]);
    }
  }
  return out;
}

std::string_view strip(std::string_view text, StripSides sides, const std::string_view* chars) {
  std::u32string set;
  if (chars != nullptr) set = to_code_points(*chars);
  const std::u32string* wanted = chars == nullptr ? nullptr : &set;
  size_t begin = 0;
  size_t end = text.size();
  while (sides.left && begin < end) {
    const Utf8Step step = utf8_decode(text, begin);
    if (!stripped(step.code_point, wanted)) break;
    begin += step.length;
  }
  while (sides.right && end > begin) {
    const size_t start = previous_start(text, end);
    if (!stripped(utf8_decode(text, start).code_point, wanted)) break;
    end = start;
  }
  return text.substr(begin, end - begin);
}

}  // namespace slipstream::jinja
