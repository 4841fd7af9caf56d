// Owns tokenizing. A tag is found by scanning for '{' followed by '%', '{' or '#'; inside a tag an
// end delimiter counts only when brackets are balanced, so that '{{ {"a": {}} }}' works.
#include "text/jinja/lexer.h"

#include <charconv>
#include <cstdlib>

#include "base/strings.h"
#include "base/utf8.h"
#include "text/jinja/unicode.h"

namespace slipstream::jinja {
namespace {

// "\r\n" and "\r" become "\n"; one newline at the very end is dropped.
std::string normalize_newlines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t k = 0; k < source.size(); ++k) {
    if (source[k] == '\r') {
      out += '\n';
      if (k + 1 < source.size() && source[k + 1] == '\n') ++k;
    } else {
      out += source[k];
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

bool is_digit_char(char c) { return c >= '0' && c <= '9'; }
bool is_name_start(char32_t c) { return c == '_' || is_alpha(c); }

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(normalize_newlines(source)) {}

  std::vector<Token> run() {
    while (pos_ < source_.size()) {
      const size_t tag = find_tag(pos_);
      const char kind = tag == std::string::npos ? '\0' : source_[tag + 1];
      emit_data(tag);
      if (tag == std::string::npos) break;
      pos_ = tag + 2;
      const bool sign = pos_ < source_.size() && (source_[pos_] == '-' || source_[pos_] == '+');
      if (kind == '%' && raw_tag(sign)) continue;
      if (sign) ++pos_;
      if (kind == '#') {
        skip_comment();
      } else {
        lex_tag(kind == '%');
      }
    }
    push(TokenType::kEnd, "");
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void fail(std::string message) const {
    throw Raise{{ErrorKind::kSyntaxError, std::move(message), line_}};
  }

  bool at(std::string_view text) const { return source_.compare(pos_, text.size(), text) == 0; }

  void push(TokenType type, std::string text) {
    tokens_.push_back({type, line_, std::move(text), 0, 0.0});
  }

  size_t find_tag(size_t from) const {
    for (size_t k = from; (k = source_.find('{', k)) != std::string::npos; ++k) {
      if (k + 1 < source_.size() &&
          (source_[k + 1] == '%' || source_[k + 1] == '{' || source_[k + 1] == '#')) {
        return k;
      }
    }
    return std::string::npos;
  }

  void count_lines(std::string_view text) {
    for (char c : text) line_ += c == '\n';
  }

  // The text before a tag; `line_starting` of the text is true when what precedes it ended a line.
  std::string_view trimmed_before(std::string_view text, size_t tag) const {
    const char sign = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
    if (sign == '-') return strip(text, {.left = false, .right = true}, nullptr);
    if (sign == '+' || source_[tag + 1] == '{') return text;
    const size_t newline = text.rfind('\n');
    const size_t line_begin = newline == std::string_view::npos ? 0 : newline + 1;
    const bool whole_line =
        newline != std::string_view::npos || pos_ == 0 || source_[pos_ - 1] == '\n';
    if (whole_line && strip(text.substr(line_begin), {}, nullptr).empty()) {
      return text.substr(0, line_begin);
    }
    return text;
  }

  void emit_data(size_t tag) {
    const bool last = tag == std::string::npos;
    const std::string_view text =
        std::string_view(source_).substr(pos_, last ? std::string::npos : tag - pos_);
    const std::string_view kept = last ? text : trimmed_before(text, tag);
    if (!kept.empty()) push(TokenType::kData, std::string(kept));
    count_lines(text);
  }

  void skip_space() {
    while (pos_ < source_.size()) {
      const Utf8Step step = utf8_decode(source_, pos_);
      if (!is_space(step.code_point)) return;
      line_ += source_[pos_] == '\n';
      pos_ += step.length;
    }
  }

  void skip_newline() {
    if (pos_ < source_.size() && source_[pos_] == '\n') {
      ++pos_;
      ++line_;
    }
  }

  // Is the end delimiter (two characters) here, with an optional sign? Consumes it and what its
  // sign or trim_blocks removes.
  bool take_end(std::string_view delimiter, bool trims) {
    size_t end = pos_;
    const char sign = end < source_.size() ? source_[end] : '\0';
    const bool has_sign = sign == '-' || (sign == '+' && trims);
    if (has_sign) ++end;
    if (source_.compare(end, delimiter.size(), delimiter) != 0) return false;
    pos_ = end + delimiter.size();
    if (sign == '-') {
      skip_space();
    } else if (trims && sign != '+') {
      skip_newline();
    }
    return true;
  }

  void skip_comment() {
    for (size_t end = pos_; (end = source_.find("#}", end)) != std::string::npos; ++end) {
      // The sign belongs to the end delimiter, when there is room for one.
      const bool sign = end > pos_ && (source_[end - 1] == '-' || source_[end - 1] == '+');
      const size_t stop = sign ? end - 1 : end;
      count_lines(std::string_view(source_).substr(pos_, stop - pos_));
      pos_ = stop;
      take_end("#}", true);
      return;
    }
    fail("Missing end of comment tag");
  }

  // "{% raw %}": everything up to "{% endraw %}" is data.
  bool raw_tag(bool sign) {
    size_t end = pos_ + (sign ? 1 : 0);
    if (!keyword_tag(end, "raw") || source_[end] == '+') return false;
    const bool strip_after = source_[end] == '-';
    pos_ = end + (strip_after ? 3 : 2);
    if (strip_after) skip_space();
    for (size_t tag = pos_; (tag = source_.find("{%", tag)) != std::string::npos; tag += 2) {
      const char tag_sign = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
      size_t after = tag + 2 + (tag_sign == '-' || tag_sign == '+' ? 1 : 0);
      if (!keyword_tag(after, "endraw")) continue;
      emit_data(tag);
      pos_ = after;
      take_end("%}", true);
      return true;
    }
    fail("Missing end of raw directive");
  }

  // At `pos` (after the sign): white space, `keyword`, white space, "%}" or "-%}". Leaves `pos` at
  // the end delimiter.
  bool keyword_tag(size_t& pos, std::string_view keyword) const {
    size_t k = pos;
    const auto skip = [&] {
      while (k < source_.size() && is_space(static_cast<unsigned char>(source_[k]))) ++k;
    };
    skip();
    if (source_.compare(k, keyword.size(), keyword) != 0) return false;
    k += keyword.size();
    skip();
    const size_t delimiter =
        k < source_.size() && (source_[k] == '-' || source_[k] == '+') ? k + 1 : k;
    if (source_.compare(delimiter, 2, "%}") != 0) return false;
    pos = k;
    return true;
  }

  void lex_tag(bool block) {
    push(block ? TokenType::kBlockBegin : TokenType::kVariableBegin, "");
    std::string brackets;
    while (true) {
      skip_space();
      if (pos_ >= source_.size()) return;  // the parser reports the unexpected end
      if (brackets.empty() && take_tag_end(block)) return;
      const char c = source_[pos_];
      if (is_digit_char(c)) {
        lex_number();
      } else if (c == '\'' || c == '"') {
        lex_string();
      } else if (is_name_start(utf8_decode(source_, pos_).code_point)) {
        lex_name();
      } else {
        lex_operator(brackets);
      }
    }
  }

  bool take_tag_end(bool block) {
    const int line = line_;
    if (!take_end(block ? "%}" : "}}", block)) return false;
    push(block ? TokenType::kBlockEnd : TokenType::kVariableEnd, "");
    tokens_.back().line = line;
    return true;
  }

  void lex_name() {
    const size_t begin = pos_;
    while (pos_ < source_.size()) {
      const Utf8Step step = utf8_decode(source_, pos_);
      if (!is_name_start(step.code_point) && !is_digit(step.code_point)) break;
      pos_ += step.length;
    }
    push(TokenType::kName, source_.substr(begin, pos_ - begin));
  }

  void take_digits(std::string& digits, int base) {
    while (pos_ < source_.size()) {
      const char c = source_[pos_];
      const bool hex = base == 16 && ((c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'));
      const bool digit = c >= '0' && c <= (base < 10 ? '0' + base - 1 : '9');
      const bool separator = c == '_' && pos_ + 1 < source_.size() && !digits.empty();
      if (!hex && !digit && !separator) return;
      if (!separator) digits += c;
      ++pos_;
    }
  }

  void lex_number() {
    int base = 10;
    if (source_[pos_] == '0' && pos_ + 2 < source_.size()) {
      const char mark = static_cast<char>(source_[pos_ + 1] | 0x20);
      base = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 10;
      if (base != 10) pos_ += 2;
    }
    std::string digits;
    take_digits(digits, base);
    const bool fraction = base == 10 && pos_ + 1 < source_.size() && source_[pos_] == '.' &&
                          is_digit_char(source_[pos_ + 1]);
    if (fraction) {
      digits += source_[pos_++];
      take_digits(digits, 10);
    }
    if ((base == 10 && take_exponent(digits)) || fraction) {
      push(TokenType::kFloat, digits);
      tokens_.back().number = std::strtod(digits.c_str(), nullptr);
      return;
    }
    push(TokenType::kInteger, digits);
    const char* end = tokens_.back().text.data() + digits.size();
    const auto parsed =
        std::from_chars(tokens_.back().text.data(), end, tokens_.back().integer, base);
    if (parsed.ec != std::errc() || parsed.ptr != end) fail("an integer literal is out of range");
  }

  bool take_exponent(std::string& digits) {
    if (pos_ >= source_.size() || (source_[pos_] | 0x20) != 'e') return false;
    size_t k = pos_ + 1;
    if (k < source_.size() && (source_[k] == '-' || source_[k] == '+')) ++k;
    if (k >= source_.size() || !is_digit_char(source_[k])) return false;
    digits += source_.substr(pos_, k - pos_);
    pos_ = k;
    take_digits(digits, 10);
    return true;
  }

  void lex_string() {
    const char delimiter = source_[pos_];
    const int line = line_;
    std::string text;
    size_t k = pos_ + 1;
    while (k < source_.size() && source_[k] != delimiter) {
      if (source_[k] == '\\' && k + 1 < source_.size()) {
        k = append_escape(text, k + 1);
      } else {
        line_ += source_[k] == '\n';
        text += source_[k++];
      }
    }
    if (k >= source_.size())
      fail(str("unexpected char ", quote(std::string(1, delimiter)), " at ", pos_));
    pos_ = k + 1;
    push(TokenType::kString, std::move(text));
    tokens_.back().line = line;
  }

  // Python's escapes; an unknown one keeps its backslash. `k` is after the backslash.
  size_t append_escape(std::string& text, size_t k) {
    const char c = source_[k];
    switch (c) {
      case '\n':
        ++line_;
        return k + 1;
      case '\\':
      case '\'':
      case '"':
        text += c;
        return k + 1;
      case 'a':
        text += '\a';
        return k + 1;
      case 'b':
        text += '\b';
        return k + 1;
      case 'f':
        text += '\f';
        return k + 1;
      case 'n':
        text += '\n';
        return k + 1;
      case 'r':
        text += '\r';
        return k + 1;
      case 't':
        text += '\t';
        return k + 1;
      case 'v':
        text += '\v';
        return k + 1;
      case 'x':
        return append_code_point(text, k + 1, 2);
      case 'u':
        return append_code_point(text, k + 1, 4);
      case 'U':
        return append_code_point(text, k + 1, 8);
      default:
        break;
    }
    if (c >= '0' && c <= '7') {
      uint32_t value = 0;
      const size_t limit = k + 3;
      while (k < limit && k < source_.size() && source_[k] >= '0' && source_[k] <= '7') {
        value = value * 8 + static_cast<uint32_t>(source_[k++] - '0');
      }
      utf8_append(text, value);
      return k;
    }
    text += '\\';
    text += c;
    return k + 1;
  }

  size_t append_code_point(std::string& text, size_t k, size_t digits) {
    uint32_t value = 0;
    const std::string_view hex = std::string_view(source_).substr(k, digits);
    const auto parsed = std::from_chars(hex.data(), hex.data() + hex.size(), value, 16);
    const bool scalar = value < 0xD800 || (value > 0xDFFF && value <= 0x10FFFF);
    if (hex.size() != digits || parsed.ptr != hex.data() + hex.size() || !scalar) {
      fail("a string literal has an invalid \\x, \\u or \\U escape");
    }
    utf8_append(text, value);
    return k + digits;
  }

  void lex_operator(std::string& brackets) {
    static constexpr std::string_view kOperators[] = {
        "//", "**", "==", "!=", "<=", ">=", "+", "-", "*", "/", "%", "~", "(",
        ")",  "[",  "]",  "{",  "}",  "<",  ">", "=", ".", ":", ",", "|", ";"};
    for (std::string_view op : kOperators) {
      if (!at(op)) continue;
      balance(brackets, op);
      push(TokenType::kOperator, std::string(op));
      pos_ += op.size();
      return;
    }
    const size_t length = utf8_decode(source_, pos_).length;
    fail(str("unexpected char ", quote(source_.substr(pos_, length)), " at ", pos_));
  }

  void balance(std::string& brackets, std::string_view op) {
    constexpr size_t kMaxOpenBrackets = 1000;
    if (op == "(") brackets += ')';
    if (op == "[") brackets += ']';
    if (op == "{") brackets += '}';
    if (brackets.size() > kMaxOpenBrackets) fail("brackets are nested too deeply");
    if (op != ")" && op != "]" && op != "}") return;
    if (brackets.empty()) fail(str("unexpected '", op, "'"));
    if (brackets.back() != op[0]) {
      fail(str("unexpected '", op, "', expected '", brackets.back(), "'"));
    }
    brackets.pop_back();
  }

  std::string source_;
  size_t pos_ = 0;
  int line_ = 1;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source) {
  if (!utf8_valid(source)) return Lexer(utf8_sanitized(source)).run();
  return Lexer(source).run();
}

}  // namespace slipstream::jinja
