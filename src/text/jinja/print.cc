// Owns the text form of values; format strings ('%5d', '{:>8}') are in string_format.cc.
#include "text/jinja/print.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/strings.h"
#include "base/utf8.h"
#include "text/jinja/unicode.h"

namespace slipstream::jinja {
namespace {

void append_hex(std::string& out, uint32_t value, int digits) {
  constexpr char kDigits[] = "0123456789abcdef";
  for (int k = digits - 1; k >= 0; --k) out += kDigits[(value >> (4 * k)) & 0xF];
}

// A namespace can hold itself, so inside another value it prints without its contents.
void append_nested_repr(std::string& out, const Value& value, Budget& budget) {
  if (value.is(Kind::kNamespace)) {
    out += "<Namespace>";
  } else {
    append_repr(out, value, budget);
  }
}

void append_items(std::string& out, const ValueList& items, Budget& budget) {
  bool first = true;
  for (const Value& item : items) {
    if (!first) out += ", ";
    first = false;
    append_nested_repr(out, item, budget);
  }
}

void append_dict_repr(std::string& out, const DictObject& dict, Budget& budget) {
  out += '{';
  bool first = true;
  for (const auto& [key, value] : dict.entries) {
    if (!first) out += ", ";
    first = false;
    append_repr(out, key, budget);
    out += ": ";
    append_nested_repr(out, value, budget);
  }
  out += '}';
}

void append_sequence_repr(std::string& out, const SequenceObject& sequence, Budget& budget) {
  switch (sequence.type) {
    case SequenceType::kList:
      out += '[';
      append_items(out, sequence.items, budget);
      out += ']';
      return;
    case SequenceType::kTuple:
    case SequenceType::kGroup:
      out += '(';
      append_items(out, sequence.items, budget);
      if (sequence.items.size() == 1) out += ',';
      out += ')';
      return;
    case SequenceType::kRange:
    case SequenceType::kGenerator:
      out += sequence.generator_repr;
      return;
    case SequenceType::kDictKeys:
      out += "dict_keys([";
      break;
    case SequenceType::kDictValues:
      out += "dict_values([";
      break;
    case SequenceType::kDictItems:
      out += "dict_items([";
      break;
  }
  append_items(out, sequence.items, budget);
  out += "])";
}

void append_namespace_repr(std::string& out, const NamespaceObject& ns, Budget& budget) {
  out += "<Namespace {";
  bool first = true;
  for (const auto& [key, value] : ns.attributes) {
    if (!first) out += ", ";
    first = false;
    append_string_repr(out, key);
    out += ": ";
    append_nested_repr(out, value, budget);
  }
  out += "}>";
}

void append_json_string(std::string& out, std::string_view text, bool ensure_ascii) {
  out += '"';
  for (size_t pos = 0; pos < text.size();) {
    const auto c = static_cast<unsigned char>(text[pos]);
    if (c < 0x80) {
      switch (c) {
        case '"':
          out += "\\\"";
          break;
        case '\\':
          out += "\\\\";
          break;
        case '\n':
          out += "\\n";
          break;
        case '\r':
          out += "\\r";
          break;
        case '\t':
          out += "\\t";
          break;
        case '\b':
          out += "\\b";
          break;
        case '\f':
          out += "\\f";
          break;
        default:
          if (c < 0x20 || (c == 0x7F && ensure_ascii)) {
            if (c == 0x7F) {
              out += static_cast<char>(c);
            } else {
              out += "\\u";
              append_hex(out, c, 4);
            }
          } else {
            out += static_cast<char>(c);
          }
      }
      ++pos;
      continue;
    }
    const Utf8Step step = utf8_decode(text, pos);
    if (!ensure_ascii) {
      out += text.substr(pos, step.length);
    } else if (step.code_point < 0x10000) {
      out += "\\u";
      append_hex(out, step.code_point, 4);
    } else {
      const uint32_t offset = step.code_point - 0x10000;
      out += "\\u";
      append_hex(out, 0xD800 + (offset >> 10), 4);
      out += "\\u";
      append_hex(out, 0xDC00 + (offset & 0x3FF), 4);
    }
    pos += step.length;
  }
  out += '"';
}

std::string json_float(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
  return float_repr(value);
}

class JsonWriter {
 public:
  JsonWriter(const JsonStyle& style, Budget& budget) : style_(style), budget_(budget) {}

  void write(const Value& value, int level) {
    budget_.steps();
    const size_t before = out_.size();
    switch (value.kind()) {
      case Kind::kNone:
        out_ += "null";
        break;
      case Kind::kBool:
        out_ += value.as_bool() ? "true" : "false";
        break;
      case Kind::kInt:
        out_ += std::to_string(value.as_int());
        break;
      case Kind::kFloat:
        budget_.call();
        out_ += json_float(value.as_double());
        break;
      case Kind::kString:
        budget_.scan(value.text().size() * 3);
        append_json_string(out_, value.text(), style_.ensure_ascii);
        break;
      case Kind::kDict:
        return write_dict(value.dict(), level);
      case Kind::kSequence:
        return write_sequence(value, level);
      default:
        refuse(value);
    }
    budget_.produce(out_.size() - before);
  }
  std::string take() { return std::move(out_); }

 private:
  [[noreturn]] static void refuse(const Value& value) {
    raise_type_error(str("Object of type ", type_name(value), " is not JSON serializable"));
  }

  void new_line(int level) {
    if (!style_.pretty) return;
    budget_.produce(style_.indent.size() * static_cast<size_t>(level) + 1);
    out_ += '\n';
    for (int k = 0; k < level; ++k) out_ += style_.indent;
  }

  void write_sequence(const Value& value, int level) {
    const SequenceObject& sequence = value.sequence_object();
    const bool listed = sequence.type == SequenceType::kList ||
                        sequence.type == SequenceType::kTuple ||
                        sequence.type == SequenceType::kGroup;
    if (!listed) refuse(value);
    if (sequence.items.empty()) {
      out_ += "[]";
      return;
    }
    out_ += '[';
    bool first = true;
    for (const Value& item : sequence.items) {
      if (!first) out_ += style_.item_separator;
      first = false;
      new_line(level + 1);
      write(item, level + 1);
    }
    new_line(level);
    out_ += ']';
  }

  static std::string key_text(const Value& key) {
    switch (key.kind()) {
      case Kind::kString:
        return key.text();
      case Kind::kInt:
        return std::to_string(key.as_int());
      case Kind::kFloat:
        return json_float(key.as_double());
      case Kind::kBool:
        return key.as_bool() ? "true" : "false";
      case Kind::kNone:
        return "null";
      default:
        raise_type_error(str("keys must be str, int, float, bool or None, not ", type_name(key)));
    }
  }

  void write_dict(const DictObject& dict, int level) {
    if (dict.entries.empty()) {
      out_ += "{}";
      return;
    }
    std::vector<const std::pair<Value, Value>*> order;
    order.reserve(dict.entries.size());
    for (const auto& entry : dict.entries) order.push_back(&entry);
    if (style_.sort_keys) {
      std::stable_sort(order.begin(), order.end(), [this](const auto* a, const auto* b) {
        return compare(a->first, b->first, "<", budget_) < 0;
      });
    }
    out_ += '{';
    bool first = true;
    for (const auto* entry : order) {
      if (!first) out_ += style_.item_separator;
      first = false;
      new_line(level + 1);
      append_json_string(out_, key_text(entry->first), style_.ensure_ascii);
      out_ += style_.key_separator;
      write(entry->second, level + 1);
    }
    new_line(level);
    out_ += '}';
  }

  const JsonStyle& style_;
  Budget& budget_;
  std::string out_;
};

}  // namespace

std::string float_repr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  char buffer[64];
  const auto result =
      std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::scientific);
  const std::string_view text(buffer, static_cast<size_t>(result.ptr - buffer));
  const size_t e = text.find('e');
  const bool negative = text[0] == '-';
  std::string digits;
  for (char c : text.substr(0, e)) {
    if (c >= '0' && c <= '9') digits += c;
  }
  int exponent = 0;
  std::string_view exponent_text = text.substr(e + 1);
  if (exponent_text[0] == '+') exponent_text.remove_prefix(1);
  std::from_chars(exponent_text.data(), exponent_text.data() + exponent_text.size(), exponent);

  std::string out = negative ? "-" : "";
  if (exponent < -4 || exponent >= 16) {
    out += digits[0];
    if (digits.size() > 1) out.append(1, '.').append(digits, 1);
    out += exponent < 0 ? "e-" : "e+";
    const std::string magnitude = std::to_string(std::abs(exponent));
    return out + (magnitude.size() < 2 ? "0" : "") + magnitude;
  }
  if (exponent < 0)
    return out + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  const auto whole = static_cast<size_t>(exponent) + 1;
  if (digits.size() <= whole) {
    return out + digits + std::string(whole - digits.size(), '0') + ".0";
  }
  return out + digits.substr(0, whole) + "." + digits.substr(whole);
}

void append_string_repr(std::string& out, std::string_view text) {
  const bool single = text.find('\'') != std::string_view::npos;
  const bool both = single && text.find('"') != std::string_view::npos;
  const char quote = single && !both ? '"' : '\'';
  out += quote;
  for (size_t pos = 0; pos < text.size();) {
    const Utf8Step step = utf8_decode(text, pos);
    const uint32_t c = step.code_point;
    if (c == static_cast<uint32_t>(quote) || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (is_printable(c)) {
      out += text.substr(pos, step.length);
    } else if (c < 0x100) {
      out += "\\x";
      append_hex(out, c, 2);
    } else if (c < 0x10000) {
      out += "\\u";
      append_hex(out, c, 4);
    } else {
      out += "\\U";
      append_hex(out, c, 8);
    }
    pos += step.length;
  }
  out += quote;
}

void append_repr(std::string& out, const Value& value, Budget& budget) {
  budget.steps();
  const size_t before = out.size();
  switch (value.kind()) {
    case Kind::kUndefined:
      out += "Undefined";
      break;
    case Kind::kNone:
      out += "None";
      break;
    case Kind::kBool:
      out += value.as_bool() ? "True" : "False";
      break;
    case Kind::kInt:
      out += std::to_string(value.as_int());
      break;
    case Kind::kFloat:
      out += float_repr(value.as_double());
      break;
    case Kind::kString:
      if (value.is_markup()) out += "Markup(";
      append_string_repr(out, value.text());
      if (value.is_markup()) out += ')';
      break;
    case Kind::kDict:
      return append_dict_repr(out, value.dict(), budget);
    case Kind::kSequence:
      return append_sequence_repr(out, value.sequence_object(), budget);
    case Kind::kNamespace:
      return append_namespace_repr(out, value.ns(), budget);
    case Kind::kLoop:
      out += str("<LoopContext ", value.loop().index0 + 1, "/", value.loop().items.size(), ">");
      break;
    case Kind::kFunction: {
      const FunctionObject& function = value.function();
      out += function.native == nullptr ? "<Macro " : "<function ";
      append_string_repr(out, function.name);
      out += '>';
      break;
    }
    case Kind::kCycler:
      out += value.cycler().is_joiner ? "<Joiner>" : "<Cycler>";
      break;
  }
  budget.produce(out.size() - before);
}

void append_str(std::string& out, const Value& value, Budget& budget) {
  if (value.is_string()) {
    budget.produce(value.text().size());
    out += value.text();
  } else if (!value.is_undefined()) {
    append_repr(out, value, budget);
  }
}

std::string to_str(const Value& value, Budget& budget) {
  std::string out;
  append_str(out, value, budget);
  return out;
}

std::string to_repr(const Value& value, Budget& budget) {
  std::string out;
  append_repr(out, value, budget);
  return out;
}

std::string to_json(const Value& value, const JsonStyle& style, Budget& budget) {
  JsonWriter writer(style, budget);
  writer.write(value, 0);
  return writer.take();
}

std::string html_escape(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&#34;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

}  // namespace slipstream::jinja
