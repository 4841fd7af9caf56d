// How values become text: Python's str() and repr(), and JSON as Hugging Face's tojson writes it.
#pragma once

#include <string>

#include "text/jinja/value.h"

namespace slipstream::jinja {

std::string float_repr(double value);
void append_string_repr(std::string& out, std::string_view text);

void append_str(std::string& out, const Value& value, Budget& budget);
void append_repr(std::string& out, const Value& value, Budget& budget);
std::string to_str(const Value& value, Budget& budget);
std::string to_repr(const Value& value, Budget& budget);

struct JsonStyle {
  bool ensure_ascii = false;
  bool sort_keys = false;
  bool pretty = false;  // one item a line, indented by `indent` per level
  std::string indent;
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};
std::string to_json(const Value& value, const JsonStyle& style, Budget& budget);

std::string html_escape(std::string_view text);

}  // namespace slipstream::jinja
