// Owns splitting, replacing and repeating text, with Python's corner cases.
#include "text/jinja/string_functions.h"

#include "base/checked_math.h"
#include "base/utf8.h"
#include "text/jinja/unicode.h"

namespace slipstream::jinja {
namespace {

[[noreturn]] void too_much() {
  raise(ErrorKind::kLimitError, "the template produces too much data");
}

bool is_line_end(char32_t c) {
  return (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 ||
         c == 0x2029;
}

// An empty `from` matches before every code point and at the end.
std::string interleave(std::string_view text, std::string_view to, uint64_t matches) {
  std::string out;
  size_t pos = 0;
  while (matches > 0) {
    --matches;
    out += to;
    if (pos >= text.size()) break;
    const size_t length = utf8_decode(text, pos).length;
    out += text.substr(pos, length);
    pos += length;
  }
  out += text.substr(std::min(pos, text.size()));
  return out;
}

}  // namespace

Value same_kind(const Value& model, std::string text) {
  return model.is_markup() ? Value::markup(std::move(text)) : Value::string(std::move(text));
}

Value string_list(const Value& model, const std::vector<std::string_view>& pieces, Budget& budget) {
  budget.produce(pieces.size() * (sizeof(Value) + sizeof(StringObject)));
  ValueList items;
  items.reserve(pieces.size());
  for (std::string_view piece : pieces) {
    budget.produce(piece.size());
    items.push_back(same_kind(model, std::string(piece)));
  }
  return Value::list(std::move(items));
}

std::vector<std::string_view> split_text(std::string_view text, std::string_view separator,
                                         int64_t limit, Budget& budget) {
  if (separator.empty()) raise(ErrorKind::kValueError, "empty separator");
  budget.scan(text.size());
  std::vector<std::string_view> pieces;
  size_t pos = 0;
  while (limit != 0) {
    const size_t found = find_text(text, separator, pos);
    if (found == std::string_view::npos) break;
    budget.produce(sizeof(std::string_view));
    pieces.push_back(text.substr(pos, found - pos));
    pos = found + separator.size();
    if (limit > 0) --limit;
  }
  pieces.push_back(text.substr(pos));
  return pieces;
}

std::vector<std::string_view> split_space(std::string_view text, int64_t limit, Budget& budget) {
  budget.scan(text.size() * 2);
  std::vector<std::string_view> pieces;
  std::string_view rest = strip(text, {.left = true, .right = false}, nullptr);
  while (!rest.empty()) {
    if (limit == 0) {
      // The last piece keeps its inner white space, not what ends it.
      pieces.push_back(strip(rest, {.left = false, .right = true}, nullptr));
      break;
    }
    size_t end = 0;
    while (end < rest.size()) {
      const Utf8Step step = utf8_decode(rest, end);
      if (is_space(step.code_point)) break;
      end += step.length;
    }
    budget.produce(sizeof(std::string_view));
    pieces.push_back(rest.substr(0, end));
    rest = strip(rest.substr(end), {.left = true, .right = false}, nullptr);
    if (limit > 0) --limit;
  }
  return pieces;
}

std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends, Budget& budget) {
  budget.scan(text.size() * 2);
  std::vector<std::string_view> lines;
  size_t begin = 0;
  size_t pos = 0;
  while (pos < text.size()) {
    const Utf8Step step = utf8_decode(text, pos);
    const size_t line_end = pos;
    pos += step.length;
    if (!is_line_end(step.code_point)) continue;
    if (step.code_point == '\r' && pos < text.size() && text[pos] == '\n') ++pos;
    budget.produce(sizeof(std::string_view));
    lines.push_back(text.substr(begin, (keep_ends ? pos : line_end) - begin));
    begin = pos;
  }
  if (begin < text.size()) lines.push_back(text.substr(begin));
  return lines;
}

size_t count_occurrences(std::string_view text, std::string_view needle) {
  size_t count = 0;
  for (size_t pos = 0; (pos = find_text(text, needle, pos)) != std::string_view::npos;) {
    ++count;
    pos += needle.size();
  }
  return count;
}

std::string replace_text(std::string_view text, std::string_view from, std::string_view to,
                         int64_t limit, Budget& budget) {
  budget.scan(text.size() * 8);
  uint64_t matches = from.empty() ? static_cast<uint64_t>(count_code_points(text)) + 1
                                  : count_occurrences(text, from);
  if (limit >= 0) matches = std::min(matches, static_cast<uint64_t>(limit));
  const auto added = checked_mul(matches, to.size());
  if (!added) too_much();
  budget.steps(matches);
  budget.produce(*added);
  budget.produce(text.size());
  if (from.empty()) return interleave(text, to, matches);
  std::string out;
  size_t pos = 0;
  for (uint64_t k = 0; k < matches; ++k) {
    const size_t found = find_text(text, from, pos);
    out += text.substr(pos, found - pos);
    out += to;
    pos = found + from.size();
  }
  out += text.substr(pos);
  return out;
}

std::string repeat_text(std::string_view text, int64_t count, Budget& budget) {
  if (count <= 0 || text.empty()) return "";
  const auto total = checked_mul(text.size(), static_cast<uint64_t>(count));
  if (!total) too_much();
  budget.produce(*total);
  std::string out;
  out.reserve(*total);
  for (int64_t k = 0; k < count; ++k) out += text;
  return out;
}

}  // namespace slipstream::jinja
