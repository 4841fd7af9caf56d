// Owns formatting by pattern: "%s %5.2f" % values, and "{} {name:>8}".format(...).
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "base/strings.h"
#include "text/jinja/operators.h"
#include "text/jinja/print.h"
#include "text/jinja/string_functions.h"
#include "text/jinja/unicode.h"

namespace slipstream::jinja {
namespace {

constexpr int64_t kMaxPrecision = 300;

[[noreturn]] void bad_format(std::string message) {
  raise(ErrorKind::kValueError, std::move(message));
}

// [[fill]align][sign][#][0][width][,][.precision][type], the format specification of Python.
struct Spec {
  std::string fill = " ";
  char align = '\0';
  char sign = '-';
  bool alternate = false;
  bool thousands = false;
  int64_t width = 0;
  int64_t precision = -1;
  char type = '\0';
};

// Digits at `pos`; refuses what no output limit would allow.
int64_t parse_number(std::string_view text, size_t& pos, int64_t absent) {
  if (pos >= text.size() || text[pos] < '0' || text[pos] > '9') return absent;
  int64_t value = 0;
  while (pos < text.size() && text[pos] >= '0' && text[pos] <= '9') {
    value = value * 10 + (text[pos++] - '0');
    if (value > INT32_MAX) bad_format("Too many decimal digits in format string");
  }
  return value;
}

std::string printf_double(const Spec& spec, char conversion, double value) {
  const int precision = static_cast<int>(spec.precision < 0 ? 6 : spec.precision);
  const std::string pattern = std::string(spec.alternate ? "%#.*" : "%.*") + conversion;
  const char* format = pattern.c_str();
  const int size = std::snprintf(nullptr, 0, format, precision, value);
  std::string out(static_cast<size_t>(size) + 1, '\0');
  std::snprintf(out.data(), out.size(), format, precision, value);
  out.pop_back();
  return out;
}

std::string in_base(uint64_t value, unsigned base, bool upper) {
  std::string out;
  do {
    const char digit = "0123456789abcdef"[value % base];
    out += upper && digit >= 'a' ? static_cast<char>(digit - 32) : digit;
    value /= base;
  } while (value != 0);
  std::reverse(out.begin(), out.end());
  return out;
}

std::string group_thousands(const std::string& digits) {
  const size_t whole = std::min(digits.find_first_not_of("0123456789"), digits.size());
  std::string out;
  for (size_t k = 0; k < whole; ++k) {
    if (k > 0 && (whole - k) % 3 == 0) out += ',';
    out += digits[k];
  }
  return out + digits.substr(whole);
}

std::string pad(const Spec& spec, const std::string& sign, const std::string& body,
                char default_align, Budget& budget) {
  const char align = spec.align == '\0' ? default_align : spec.align;
  const int64_t padding = spec.width - static_cast<int64_t>(sign.size()) - count_code_points(body);
  if (padding <= 0) return sign + body;
  if (align == '=') return sign + repeat_text(spec.fill, padding, budget) + body;
  const int64_t left = align == '<' ? 0 : align == '>' ? padding : padding / 2;
  return repeat_text(spec.fill, left, budget) + sign + body +
         repeat_text(spec.fill, padding - left, budget);
}

std::string sign_text(const Spec& spec, bool negative) {
  if (negative) return "-";
  return spec.sign == '-' ? "" : std::string(1, spec.sign);
}

std::string format_integer(const Spec& spec, int64_t value, Budget& budget) {
  const bool negative = value < 0;
  const uint64_t magnitude =
      negative ? 0 - static_cast<uint64_t>(value) : static_cast<uint64_t>(value);
  std::string digits;
  std::string prefix;
  switch (spec.type) {
    case 'x':
    case 'X':
      digits = in_base(magnitude, 16, spec.type == 'X');
      if (spec.alternate) prefix.append(1, '0').append(1, spec.type);
      break;
    case 'o':
      digits = in_base(magnitude, 8, false);
      if (spec.alternate) prefix.append("0o");
      break;
    case 'b':
      digits = in_base(magnitude, 2, false);
      if (spec.alternate) prefix.append("0b");
      break;
    default:
      digits = in_base(magnitude, 10, false);
  }
  if (spec.thousands) digits = group_thousands(digits);
  return pad(spec, sign_text(spec, negative) + prefix, digits, '>', budget);
}

std::string format_float(const Spec& spec, double value, Budget& budget) {
  const bool negative = std::signbit(value) && !std::isnan(value);
  const double magnitude = std::fabs(value);
  budget.call();
  budget.produce(512);
  std::string body;
  if (spec.type == '\0' && spec.precision < 0) {
    body = float_repr(magnitude);
  } else if (spec.type == '%') {
    body = printf_double(spec, 'f', magnitude * 100) + "%";
  } else {
    body = printf_double(spec, spec.type == '\0' ? 'g' : spec.type, magnitude);
  }
  if (spec.thousands) body = group_thousands(body);
  return pad(spec, sign_text(spec, negative), body, '>', budget);
}

std::string format_text(const Spec& spec, const std::string& text, Budget& budget) {
  std::string body = text;
  if (spec.precision >= 0) body = text.substr(0, byte_offset(text, spec.precision));
  budget.produce(body.size());
  return pad(spec, "", body, '<', budget);
}

Spec parse_spec(std::string_view text) {
  Spec spec;
  size_t pos = 0;
  const auto is_align = [](char c) { return c == '<' || c == '>' || c == '^' || c == '='; };
  const size_t first = text.empty() ? 0 : byte_offset(text, 1);
  if (first < text.size() && is_align(text[first])) {
    spec.fill = std::string(text.substr(0, first));
    spec.align = text[first];
    pos = first + 1;
  } else if (!text.empty() && is_align(text[0])) {
    spec.align = text[pos++];
  }
  const auto take = [&](char c) {
    if (pos >= text.size() || text[pos] != c) return false;
    ++pos;
    return true;
  };
  if (pos < text.size() && (text[pos] == '+' || text[pos] == ' ' || text[pos] == '-')) {
    spec.sign = text[pos++];
  }
  spec.alternate = take('#');
  if (take('0') && spec.align == '\0') {
    spec.fill.assign(1, '0');
    spec.align = '=';
  }
  spec.width = parse_number(text, pos, 0);
  spec.thousands = take(',');
  if (take('.')) {
    spec.precision = parse_number(text, pos, -1);
    if (spec.precision < 0) bad_format("Format specifier missing precision");
  }
  if (pos < text.size()) spec.type = text[pos++];
  if (pos < text.size()) bad_format("Invalid format specifier");
  return spec;
}

bool is_one_of(char c, std::string_view set) { return c != '\0' && set.find(c) != set.npos; }

std::string format_value(const Value& value, std::string_view spec_text, Budget& budget) {
  if (spec_text.empty()) return to_str(value, budget);
  const Spec spec = parse_spec(spec_text);
  const auto unknown = [&] {
    bad_format(
        str("Unknown format code '", spec.type, "' for object of type '", type_name(value), "'"));
  };
  const bool text = value.is_string() || value.is_none() || value.is_undefined();
  if (text) {
    if (!value.is_string()) raise_type_error("unsupported format string passed to __format__");
    if (spec.type != '\0' && spec.type != 's') unknown();
    if (spec.align == '=') bad_format("'=' alignment not allowed in string format specifier");
    return format_text(spec, value.text(), budget);
  }
  if (!value.is_number()) raise_type_error("unsupported format string passed to __format__");
  const bool as_float = value.is(Kind::kFloat) || is_one_of(spec.type, "eEfFgG%");
  if (as_float) {
    if (spec.type != '\0' && !is_one_of(spec.type, "eEfFgG%")) unknown();
    if (spec.precision > kMaxPrecision) bad_format("precision too big");
    return format_float(spec, value.as_double(), budget);
  }
  if (spec.precision >= 0) bad_format("Precision not allowed in integer format specifier");
  if (spec.type != '\0' && !is_one_of(spec.type, "dxXobn")) unknown();
  return format_integer(spec, value.as_int(), budget);
}

// Hands out the values of a % format: by position from a tuple, by name from a mapping.
class PercentArguments {
 public:
  PercentArguments(const Value& args, Budget& budget) : args_(args), budget_(budget) {
    if (args.is_sequence(SequenceType::kTuple)) {
      items_ = args.sequence_object().items;
      return;
    }
    items_.push_back(args);
  }

  Value next() {
    if (position_ >= items_.size()) raise_type_error("not enough arguments for format string");
    return items_[position_++];
  }
  Value named(const std::string& name) {
    if (!args_.is(Kind::kDict)) raise_type_error("format requires a mapping");
    budget_.produce(name.size());
    position_ = items_.size();
    const Value* value = args_.dict().find(Value::string(name), budget_);
    if (value == nullptr) raise(ErrorKind::kKeyError, str("'", name, "'"));
    return *value;
  }
  void finish() const {
    const bool mapping = args_.is(Kind::kDict) || args_.is_sequence(SequenceType::kList);
    if (position_ < items_.size() && !mapping) {
      raise_type_error("not all arguments converted during string formatting");
    }
  }

 private:
  const Value& args_;
  Budget& budget_;
  ValueList items_;
  size_t position_ = 0;
};

std::string percent_number(const Spec& spec, char conversion, const Value& value, Budget& budget) {
  if (value.is_undefined()) value.raise_undefined();
  if (!value.is_number()) {
    raise_type_error(
        str("%", conversion, " format: a real number is required, not ", type_name(value)));
  }
  Spec number = spec;
  number.type = conversion == 'i' || conversion == 'u' ? 'd' : conversion;
  if (number.precision > kMaxPrecision) bad_format("precision too big");
  if (is_one_of(number.type, "eEfFgG")) return format_float(number, value.as_double(), budget);
  if (value.is(Kind::kFloat)) {
    const double whole = std::trunc(value.as_double());
    if (!(std::fabs(whole) < 9.2e18)) bad_format("cannot convert float to integer");
    return format_integer(number, static_cast<int64_t>(whole), budget);
  }
  return format_integer(number, value.as_int(), budget);
}

// After the '%' at `pos`: one conversion.
std::string percent_conversion(const std::string& format, size_t& pos, PercentArguments& arguments,
                               Budget& budget) {
  Spec spec;
  Value value;
  bool named = false;
  if (pos < format.size() && format[pos] == '(') {
    const size_t close = format.find(')', pos);
    if (close == std::string::npos) bad_format("incomplete format key");
    value = arguments.named(format.substr(pos + 1, close - pos - 1));
    named = true;
    pos = close + 1;
  }
  spec.align = '>';
  for (; pos < format.size() && is_one_of(format[pos], "-+ #0"); ++pos) {
    if (format[pos] == '-') spec.align = '<';
    if (format[pos] == '+' || format[pos] == ' ') spec.sign = format[pos];
    if (format[pos] == '#') spec.alternate = true;
    if (format[pos] == '0' && spec.align != '<') spec.align = '=';
  }
  if (spec.align == '=') spec.fill.assign(1, '0');
  spec.width = parse_number(format, pos, 0);
  if (pos < format.size() && format[pos] == '.') spec.precision = parse_number(format, ++pos, 0);
  if (pos >= format.size()) bad_format("incomplete format");
  const char conversion = format[pos++];
  if (conversion == '%') return "%";
  if (!named) value = arguments.next();
  if (conversion == 's' || conversion == 'r') {
    if (spec.align == '=') {
      spec.align = '>';
      spec.fill.assign(1, ' ');
    }
    return format_text(spec, conversion == 's' ? to_str(value, budget) : to_repr(value, budget),
                       budget);
  }
  if (!is_one_of(conversion, "diuxXoeEfFgG")) {
    bad_format(str("unsupported format character '", conversion, "'"));
  }
  return percent_number(spec, conversion, value, budget);
}

// "0.name[key]" of a replacement field, against the arguments of format().
class FieldResolver {
 public:
  FieldResolver(const Args& args, Budget& budget) : args_(args), budget_(budget) {}

  Value resolve(std::string_view field) {
    size_t pos = std::min(field.find_first_of(".["), field.size());
    Value value = first(field.substr(0, pos));
    while (pos < field.size()) {
      const bool attribute = field[pos] == '.';
      const size_t begin = pos + 1;
      const size_t end = attribute ? std::min(field.find_first_of(".[", begin), field.size())
                                   : field.find(']', begin);
      if (end == std::string_view::npos || end == begin)
        bad_format("Empty attribute in format string");
      const std::string name(field.substr(begin, end - begin));
      value = attribute ? get_attribute(value, Value::string(name), budget_)
                        : get_item(value, key_of(name), budget_);
      pos = attribute ? end : end + 1;
    }
    return value;
  }

 private:
  static bool is_number(std::string_view text) {
    return !text.empty() && text.size() < 10 &&
           text.find_first_not_of("0123456789") == std::string_view::npos;
  }
  static Value key_of(const std::string& name) {
    return is_number(name) ? Value::integer(std::stoll(name)) : Value::string(name);
  }

  Value first(std::string_view name) {
    if (name.empty() || is_number(name)) {
      const size_t k =
          name.empty() ? automatic_++ : static_cast<size_t>(std::stoll(std::string(name)));
      if (k >= args_.positional.size()) {
        raise(ErrorKind::kIndexError,
              str("Replacement index ", k, " out of range for positional args tuple"));
      }
      return args_.positional[k];
    }
    for (const auto& [keyword, value] : args_.keywords) {
      if (keyword == name) return value;
    }
    raise(ErrorKind::kKeyError, str("'", name, "'"));
  }

  const Args& args_;
  Budget& budget_;
  size_t automatic_ = 0;
};

std::string format_field(std::string_view field, FieldResolver& resolver, Budget& budget) {
  const size_t colon = field.find(':');
  std::string_view name = field.substr(0, colon);
  const std::string_view spec = colon == std::string_view::npos ? "" : field.substr(colon + 1);
  if (spec.find('{') != std::string_view::npos)
    bad_format("nested replacement fields are not supported");
  char conversion = '\0';
  const size_t mark = name.find('!');
  if (mark != std::string_view::npos) {
    if (mark + 2 != name.size()) bad_format("expected ':' after conversion specifier");
    conversion = name[mark + 1];
    name = name.substr(0, mark);
  }
  Value value = resolver.resolve(name);
  if (conversion == 'r') value = Value::string(to_repr(value, budget));
  if (conversion == 's') value = Value::string(to_str(value, budget));
  return format_value(value, spec, budget);
}

}  // namespace

std::string format_percent(const std::string& format, const Value& args, Budget& budget) {
  PercentArguments arguments(args, budget);
  std::string out;
  size_t pos = 0;
  while (pos < format.size()) {
    const size_t percent = std::min(format.find('%', pos), format.size());
    budget.produce(percent - pos + 1);
    budget.steps();
    out += format.substr(pos, percent - pos);
    pos = percent + 1;
    if (percent < format.size()) out += percent_conversion(format, pos, arguments, budget);
  }
  arguments.finish();
  return out;
}

std::string format_braces(const std::string& format, const Args& args, Budget& budget) {
  FieldResolver resolver(args, budget);
  std::string out;
  for (size_t pos = 0; pos < format.size();) {
    budget.steps();
    const char c = format[pos];
    const bool doubled = pos + 1 < format.size() && format[pos + 1] == c;
    if ((c == '{' || c == '}') && doubled) {
      out += c;
      pos += 2;
    } else if (c == '}') {
      bad_format("Single '}' encountered in format string");
    } else if (c == '{') {
      const size_t close = format.find('}', pos);
      if (close == std::string::npos) bad_format("expected '}' before end of string");
      out +=
          format_field(std::string_view(format).substr(pos + 1, close - pos - 1), resolver, budget);
      pos = close + 1;
    } else {
      const size_t end = std::min(format.find_first_of("{}", pos), format.size());
      budget.produce(end - pos);
      out += format.substr(pos, end - pos);
      pos = end;
    }
  }
  return out;
}

}  // namespace slipstream::jinja
