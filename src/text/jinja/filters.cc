// Owns the filters over single values and text, and the table of all; those over sequences are in
// sequence_filters.cc.
#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "base/strings.h"
#include "text/jinja/args.h"
#include "text/jinja/filters.h"
#include "text/jinja/operators.h"
#include "text/jinja/print.h"
#include "text/jinja/runtime.h"
#include "text/jinja/string_functions.h"
#include "text/jinja/unicode.h"

namespace slipstream::jinja {
namespace {

// soft_str: text stays what it is (Markup too), everything else is printed.
Value soft_string(Interpreter& in, const Value& value) {
  return value.is_string() ? value : Value::string(to_str(value, in.budget()));
}

template <std::string (*kMap)(std::string_view)>
Value filter_map_text(Interpreter& in, const Value& self, const Args& args) {
  const BoundArgs bound("filter", args, {});
  const Value text = soft_string(in, self);
  in.budget().scan(text.text().size() * 3);
  in.budget().produce(text.text().size() * 4);
  return same_kind(text, kMap(text.text()));
}

// Unlike str.title(): a word starts after white space, '-', or an opening bracket only.
std::string title_words(std::string_view text) {
  std::string out;
  std::u32string word;
  const auto flush = [&] {
    if (!word.empty()) out += capitalize(to_utf8(word));
    word.clear();
  };
  for (char32_t c : to_code_points(text)) {
    if (is_space(c) || c == '-' || c == '(' || c == '{' || c == '[' || c == '<') {
      flush();
      out += to_utf8(std::u32string(1, c));
    } else {
      word += c;
    }
  }
  flush();
  return out;
}

Value filter_trim(Interpreter& in, const Value& self, const Args& args) {
  const BoundArgs bound("trim", args, {"chars"});
  const Value text = soft_string(in, self);
  in.budget().scan(text.text().size() * 3);
  if (bound.get_some(0) == nullptr) {
    return same_kind(text, std::string(strip(text.text(), {}, nullptr)));
  }
  const std::string_view chars = bound.text(0);
  return same_kind(text, std::string(strip(text.text(), {}, &chars)));
}

Value filter_string(Interpreter& in, const Value& self, const Args& args) {
  const BoundArgs bound("string", args, {});
  return soft_string(in, self);
}

Value filter_default(Interpreter&, const Value& self, const Args& args) {
  const BoundArgs bound("default", args, {"default_value", "boolean"});
  const bool missing = self.is_undefined() || (bound.truthy(1, false) && !self.truthy());
  if (!missing) return self;
  return bound.get(0) == nullptr ? Value::string("") : *bound.get(0);
}

Value filter_replace(Interpreter& in, const Value& self, const Args& args) {
  const BoundArgs bound("replace", args, {"old", "new", "count"}, 2);
  const int64_t limit = bound.get_some(2) == nullptr ? -1 : bound.integer(2, -1);
  return Value::string(replace_text(to_str(self, in.budget()), to_str(*bound.get(0), in.budget()),
                                    to_str(*bound.get(1), in.budget()), limit, in.budget()));
}

Value filter_indent(Interpreter& in, const Value& self, const Args& args) {
  const BoundArgs bound("indent", args, {"width", "first", "blank"});
  const bool by_text = bound.get(0) != nullptr && bound.get(0)->is_string();
  const std::string margin =
      by_text ? bound.text(0) : repeat_text(" ", bound.integer(0, 4), in.budget());
  const bool blank = bound.truthy(2, false);
  const std::string text = to_str(self, in.budget()) + "\n";  // so that a last line end counts
  const auto lines = split_lines(text, false, in.budget());
  std::string out;
  if (bound.truthy(1, false)) out = margin;
  for (size_t k = 0; k < lines.size(); ++k) {
    in.budget().produce(lines[k].size() + margin.size() + 1);
    if (k > 0) out += '\n';
    if (k > 0 && (blank || !lines[k].empty())) out += margin;
    out += lines[k];
  }
  return same_kind(self, std::move(out));
}

Value filter_format(Interpreter& in, const Value& self, const Args& args) {
  if (!args.keywords.empty() && !args.positional.empty()) {
    raise_type_error("can't handle positional and keyword arguments at the same time");
  }
  const Value format = soft_string(in, self);
  Value values;
  if (args.keywords.empty()) {
    values = Value::tuple(args.positional);
  } else {
    auto dict = std::make_shared<DictObject>();
    for (const auto& [name, value] : args.keywords) {
      dict->set(Value::string(name), value, in.budget());
    }
    values = make_dict(std::move(dict));
  }
  return same_kind(format, format_percent(format.text(), values, in.budget()));
}

Value filter_center(Interpreter& in, const Value& self, const Args& args) {
  const BoundArgs bound("center", args, {"width"});
  const Value width = Value::integer(bound.integer(0, 80));
  return find_string_method("center")(in, soft_string(in, self), {{width}, {}});
}

Value filter_truncate(Interpreter& in, const Value& self, const Args& args) {
  const BoundArgs bound("truncate", args, {"length", "killwords", "end", "leeway"});
  const Value text = soft_string(in, self);
  const std::string end = bound.get(2) == nullptr ? "..." : bound.text(2);
  const int64_t length = bound.integer(0, 255);
  const int64_t leeway = bound.get_some(3) == nullptr ? 5 : bound.integer(3, 5);
  const int64_t kept = length - count_code_points(end);
  if (kept < 0 || leeway < 0) raise(ErrorKind::kValueError, "truncate: length or leeway too small");
  if (text.string_object().length - leeway <= length) return text;
  in.budget().produce(text.text().size() + end.size());
  std::string out = text.text().substr(0, byte_offset(text.text(), kept));
  if (!bound.truthy(1, false)) out = out.substr(0, out.rfind(' '));
  return same_kind(text, out + end);
}

Value filter_wordcount(Interpreter& in, const Value& self, const Args& args) {
  const BoundArgs bound("wordcount", args, {});
  const Value text = soft_string(in, self);
  in.budget().scan(text.text().size() * 16);
  int64_t count = 0;
  bool in_word = false;
  for (char32_t c : to_code_points(text.text())) {
    const bool word = c == '_' || is_alpha(c) || is_digit(c);
    count += word && !in_word;
    in_word = word;
  }
  return Value::integer(count);
}

std::string percent_encode(std::string_view text, bool keep_slash) {
  std::string out;
  for (char c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '_' || c == '.' || c == '-' || c == '~' || (keep_slash && c == '/');
    if (plain) {
      out += c;
    } else {
      constexpr char kHex[] = "0123456789ABCDEF";
      const auto byte = static_cast<unsigned char>(c);
      out += '%';
      out += kHex[byte >> 4];
      out += kHex[byte & 15];
    }
  }
  return out;
}

Value filter_urlencode(Interpreter& in, const Value& self, const Args& args) {
  const BoundArgs bound("urlencode", args, {});
  const std::string text = to_str(self, in.budget());
  in.budget().produce(text.size() * 3);
  return Value::string(percent_encode(text, true));
}

Value filter_safe(Interpreter& in, const Value& self, const Args& args) {
  const BoundArgs bound("safe", args, {});
  return self.is_markup() ? self : Value::markup(to_str(self, in.budget()));
}

Value filter_forceescape(Interpreter& in, const Value& self, const Args& args) {
  const BoundArgs bound("escape", args, {});
  const std::string text = to_str(self, in.budget());
  in.budget().produce(text.size() * 5);
  return Value::markup(html_escape(text));
}

Value filter_escape(Interpreter& in, const Value& self, const Args& args) {
  return self.is_markup() ? self : filter_forceescape(in, self, args);
}

// Hugging Face's tojson: json.dumps, so nothing is HTML-escaped and the result is plain text.
Value filter_tojson(Interpreter& in, const Value& self, const Args& args) {
  const BoundArgs bound("tojson", args, {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  style.ensure_ascii = bound.truthy(0, false);
  style.sort_keys = bound.truthy(3, false);
  if (const Value* indent = bound.get_some(1)) {
    style.pretty = true;
    style.item_separator.assign(1, ',');
    style.indent =
        indent->is_string() ? indent->text() : repeat_text(" ", bound.integer(1, 0), in.budget());
  }
  if (const Value* separators = bound.get_some(2)) {
    const ValueList parts = iterate(*separators, in.budget());
    if (parts.size() != 2 || !parts[0].is_string() || !parts[1].is_string()) {
      raise(ErrorKind::kValueError, "tojson: separators is a pair of strings");
    }
    style.item_separator = parts[0].text();
    style.key_separator = parts[1].text();
  }
  return Value::string(to_json(self, style, in.budget()));
}

// Longer texts are no numbers: nothing that fits a value is spelled so.
constexpr size_t kMaxNumberBytes = 1024;

// Text as int() or float() reads it: surrounding white space goes.
std::optional<double> parse_double(std::string_view text) {
  text = strip(text, {}, nullptr);
  if (text.size() > kMaxNumberBytes) return std::nullopt;
  if (!text.empty() && text[0] == '+') text.remove_prefix(1);
  double value = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || parsed.ptr != text.data() + text.size()) return std::nullopt;
  if (parsed.ec != std::errc()) return std::nullopt;
  return value;
}

std::optional<int64_t> parse_integer(std::string_view text, int base) {
  text = strip(text, {}, nullptr);
  const bool negative = !text.empty() && text[0] == '-';
  if (!text.empty() && (text[0] == '-' || text[0] == '+')) text.remove_prefix(1);
  const char mark = text.size() > 2 && text[0] == '0' ? static_cast<char>(text[1] | 0x20) : '\0';
  if ((base == 16 && mark == 'x') || (base == 8 && mark == 'o') || (base == 2 && mark == 'b')) {
    text.remove_prefix(2);
  }
  int64_t value = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value, base);
  const bool whole = !text.empty() && text[0] != '-' && parsed.ptr == text.data() + text.size();
  if (!whole || parsed.ec != std::errc()) return std::nullopt;
  return negative ? -value : value;
}

std::optional<int64_t> truncate_double(double value) {
  if (!(std::fabs(value) < 9.2e18)) return std::nullopt;
  return static_cast<int64_t>(value);
}

Value filter_int(Interpreter& in, const Value& self, const Args& args) {
  const BoundArgs bound("int", args, {"default", "base"});
  if (self.is_undefined()) self.raise_undefined();
  if (self.is_integral()) return Value::integer(self.as_int());
  std::optional<int64_t> result;
  if (self.is(Kind::kFloat)) result = truncate_double(self.as_double());
  if (self.is_string()) {
    const int64_t base = bound.integer(1, 10);
    in.budget().scan(self.text().size() * 2);
    if (base < 2 || base > 36) raise(ErrorKind::kValueError, "int: base must be from 2 to 36");
    result = parse_integer(self.text(), static_cast<int>(base));
    if (!result) {
      if (const auto number = parse_double(self.text())) result = truncate_double(*number);
    }
  }
  if (result) return Value::integer(*result);
  return bound.get(0) == nullptr ? Value::integer(0) : *bound.get(0);
}

Value filter_float(Interpreter& in, const Value& self, const Args& args) {
  const BoundArgs bound("float", args, {"default"});
  if (self.is_undefined()) self.raise_undefined();
  if (self.is_number()) return Value::number(self.as_double());
  if (self.is_string()) {
    in.budget().scan(self.text().size());
    if (const auto number = parse_double(self.text())) return Value::number(*number);
  }
  return bound.get(0) == nullptr ? Value::number(0.0) : *bound.get(0);
}

Value filter_abs(Interpreter&, const Value& self, const Args& args) {
  const BoundArgs bound("abs", args, {});
  if (self.is(Kind::kFloat)) return Value::number(std::fabs(self.as_double()));
  if (!self.is_undefined() && !self.is_integral()) {
    raise_type_error(str("bad operand type for abs(): '", type_name(self), "'"));
  }
  const Value negated = negate(self);
  return negated.as_int() > 0 ? negated : Value::integer(self.as_int());
}

Value filter_round(Interpreter&, const Value& self, const Args& args) {
  const BoundArgs bound("round", args, {"precision", "method"});
  if (self.is_undefined()) self.raise_undefined();
  if (!self.is_number()) {
    raise_type_error(str("type ", type_name(self), " doesn't define __round__ method"));
  }
  const std::string method = bound.get(1) == nullptr ? "common" : bound.text(1);
  const int64_t precision = std::clamp<int64_t>(bound.integer(0, 0), -300, 300);
  const double scale = std::pow(10.0, static_cast<double>(precision));
  const double value = self.as_double();
  if (method == "ceil") return Value::number(std::ceil(value * scale) / scale);
  if (method == "floor") return Value::number(std::floor(value * scale) / scale);
  if (method != "common") {
    raise(ErrorKind::kRuntimeError, "method must be common, ceil or floor");
  }
  if (precision < 0) return Value::number(std::nearbyint(value * scale) / scale);
  // Rounding the exact decimal expansion, half to even, is what printf does.
  char buffer[700];
  std::snprintf(buffer, sizeof(buffer), "%.*f", static_cast<int>(precision), value);
  const double rounded = std::strtod(buffer, nullptr);
  if (self.is_integral()) return Value::integer(self.as_int());
  return Value::number(rounded);
}

Value filter_attr(Interpreter& in, const Value& self, const Args& args) {
  const BoundArgs bound("attr", args, {"name"}, 1);
  const bool only_items = self.is(Kind::kDict) && find_method(self, bound.text(0)) == nullptr;
  if (!only_items) return get_attribute(self, *bound.get(0), in.budget());
  return Value::undefined(str("'dict object' has no attribute ", quote(bound.text(0))));
}

Value filter_length(Interpreter&, const Value& self, const Args& args) {
  const BoundArgs bound("length", args, {});
  return Value::integer(length_of(self));
}

constexpr auto kFilters = std::to_array<std::pair<std::string_view, FilterFunction>>({
    {"abs", filter_abs},
    {"attr", filter_attr},
    {"batch", filter_batch},
    {"capitalize", filter_map_text<capitalize>},
    {"center", filter_center},
    {"count", filter_length},
    {"d", filter_default},
    {"default", filter_default},
    {"dictsort", filter_dictsort},
    {"e", filter_escape},
    {"escape", filter_escape},
    {"first", filter_first},
    {"float", filter_float},
    {"forceescape", filter_forceescape},
    {"format", filter_format},
    {"groupby", filter_groupby},
    {"indent", filter_indent},
    {"int", filter_int},
    {"items", filter_items},
    {"join", filter_join},
    {"last", filter_last},
    {"length", filter_length},
    {"list", filter_list},
    {"lower", filter_map_text<to_lower>},
    {"map", filter_map},
    {"max", filter_max},
    {"min", filter_min},
    {"reject", filter_reject},
    {"rejectattr", filter_rejectattr},
    {"replace", filter_replace},
    {"reverse", filter_reverse},
    {"round", filter_round},
    {"safe", filter_safe},
    {"select", filter_select},
    {"selectattr", filter_selectattr},
    {"slice", filter_slice},
    {"sort", filter_sort},
    {"string", filter_string},
    {"sum", filter_sum},
    {"title", filter_map_text<title_words>},
    {"tojson", filter_tojson},
    {"trim", filter_trim},
    {"truncate", filter_truncate},
    {"unique", filter_unique},
    {"upper", filter_map_text<to_upper>},
    {"urlencode", filter_urlencode},
    {"wordcount", filter_wordcount},
});

}  // namespace

FilterFunction find_filter(const std::string& name) {
  for (const auto& [candidate, filter] : kFilters) {
    if (candidate == name) return filter;
  }
  return nullptr;
}

}  // namespace slipstream::jinja
