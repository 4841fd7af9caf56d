// What operators, subscripts and attribute access mean for each pair of values.
#pragma once

#include <optional>
#include <string>

#include "text/jinja/ast.h"

namespace slipstream::jinja {

Value binary_operation(BinaryOp op, const Value& a, const Value& b, Budget& budget);
Value negate(const Value& value);
bool contains(const Value& container, const Value& item, Budget& budget);

// Bounds of a slice; absent means open.
struct Slice {
  std::optional<int64_t> start, stop, step;
};
Value slice_value(const Value& value, const Slice& slice, Budget& budget);

// Items by key or index, then attributes: x[key]. Missing ones are undefined values.
Value get_item(const Value& object, const Value& key, Budget& budget);
// Attributes, then items: x.name.
Value get_attribute(const Value& object, const Value& name, Budget& budget);
int64_t length_of(const Value& value);  // raises TypeError where Python's len() does

// A method of a builtin type, or null. Methods that would change their object are refused with
// an error when they are called.
NativeFunction find_method(const Value& object, const std::string& name);
NativeFunction find_string_method(const std::string& name);

// printf-style and str.format formatting.
std::string format_percent(const std::string& format, const Value& args, Budget& budget);
std::string format_braces(const std::string& format, const Args& args, Budget& budget);

}  // namespace slipstream::jinja
