// Owns arithmetic, containment, slicing and subscripts. Integers are 64 bit: a result that does
// not fit is an error, where Python would go on with a longer integer.
#include "text/jinja/operators.h"

#include <algorithm>
#include <cmath>

#include "base/strings.h"
#include "text/jinja/print.h"
#include "text/jinja/unicode.h"

namespace slipstream::jinja {
namespace {

constexpr const char* kOpNames[] = {"+", "-", "*", "/", "//", "%", "** or pow()"};

[[noreturn]] void overflow() { raise(ErrorKind::kLimitError, "an integer does not fit 64 bits"); }

[[noreturn]] void unsupported(BinaryOp op, const Value& a, const Value& b) {
  raise_type_error(str("unsupported operand type(s) for ", kOpNames[static_cast<int>(op)], ": '",
                       type_name(a), "' and '", type_name(b), "'"));
}

int64_t floor_divide(int64_t a, int64_t b) {
  if (a == INT64_MIN && b == -1) overflow();
  const int64_t quotient = a / b;
  return a % b != 0 && ((a < 0) != (b < 0)) ? quotient - 1 : quotient;
}

Value integer_power(int64_t base, int64_t exponent) {
  if (exponent < 0) {
    if (base == 0) {
      raise(ErrorKind::kZeroDivisionError, "0.0 cannot be raised to a negative power");
    }
    return Value::number(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
  }
  int64_t result = 1;
  while (exponent > 0) {
    if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result)) overflow();
    exponent >>= 1;
    if (exponent > 0 && __builtin_mul_overflow(base, base, &base)) overflow();
  }
  return Value::integer(result);
}

Value integer_operation(BinaryOp op, int64_t a, int64_t b) {
  int64_t result = 0;
  switch (op) {
    case BinaryOp::kAdd:
      if (__builtin_add_overflow(a, b, &result)) overflow();
      return Value::integer(result);
    case BinaryOp::kSub:
      if (__builtin_sub_overflow(a, b, &result)) overflow();
      return Value::integer(result);
    case BinaryOp::kMul:
      if (__builtin_mul_overflow(a, b, &result)) overflow();
      return Value::integer(result);
    case BinaryOp::kPow:
      return integer_power(a, b);
    case BinaryOp::kDiv:
      if (b == 0) raise(ErrorKind::kZeroDivisionError, "division by zero");
      return Value::number(static_cast<double>(a) / static_cast<double>(b));
    case BinaryOp::kFloorDiv:
      if (b == 0) raise(ErrorKind::kZeroDivisionError, "integer division or modulo by zero");
      return Value::integer(floor_divide(a, b));
    case BinaryOp::kMod:
      if (b == 0) raise(ErrorKind::kZeroDivisionError, "integer modulo by zero");
      if (b == -1) return Value::integer(0);
      result = a % b;
      return Value::integer(result != 0 && ((result < 0) != (b < 0)) ? result + b : result);
  }
  return Value::none();
}

Value float_operation(BinaryOp op, double a, double b) {
  switch (op) {
    case BinaryOp::kAdd:
      return Value::number(a + b);
    case BinaryOp::kSub:
      return Value::number(a - b);
    case BinaryOp::kMul:
      return Value::number(a * b);
    case BinaryOp::kPow:
      if (a == 0 && b < 0) {
        raise(ErrorKind::kZeroDivisionError, "0.0 cannot be raised to a negative power");
      }
      return Value::number(std::pow(a, b));
    default:
      break;
  }
  if (b == 0) {
    raise(ErrorKind::kZeroDivisionError,
          op == BinaryOp::kDiv ? "float division by zero" : "float floor division by zero");
  }
  if (op == BinaryOp::kDiv) return Value::number(a / b);
  double remainder = std::fmod(a, b);
  if (remainder != 0 && ((remainder < 0) != (b < 0))) remainder += b;
  if (op == BinaryOp::kMod) return Value::number(remainder);
  return Value::number(std::round((a - remainder) / b));
}

Value add_strings(const Value& a, const Value& b, Budget& budget) {
  budget.produce(a.text().size() + b.text().size());
  if (!a.is_markup() && !b.is_markup()) return Value::string(a.text() + b.text());
  const auto escaped = [](const Value& v) {
    return v.is_markup() ? v.text() : html_escape(v.text());
  };
  return Value::markup(escaped(a) + escaped(b));
}

Value repeat(const Value& value, int64_t count, Budget& budget) {
  const auto times = static_cast<uint64_t>(std::max<int64_t>(count, 0));
  const bool text = value.is_string();
  const uint64_t unit = text ? value.text().size() : value.sequence_object().items.size();
  uint64_t total = 0;
  if (__builtin_mul_overflow(unit, times, &total) || total > (uint64_t{1} << 40)) {
    raise(ErrorKind::kLimitError, "the template produces too much data");
  }
  budget.produce(text ? total : total * sizeof(Value));
  if (unit == 0 || times == 0) {
    if (!text) return Value::sequence(value.sequence_object().type, {});
    return value.is_markup() ? Value::markup("") : Value::string("");
  }
  if (!text) {
    ValueList out;
    out.reserve(total);
    const ValueList& items = value.sequence_object().items;
    for (uint64_t k = 0; k < times; ++k) out.insert(out.end(), items.begin(), items.end());
    return Value::sequence(value.sequence_object().type, std::move(out));
  }
  std::string out;
  out.reserve(total);
  for (uint64_t k = 0; k < times; ++k) out += value.text();
  return value.is_markup() ? Value::markup(std::move(out)) : Value::string(std::move(out));
}

bool is_plain_sequence(const Value& value) {
  return value.is_sequence(SequenceType::kList) || value.is_sequence(SequenceType::kTuple);
}

Value add_sequences(const Value& a, const Value& b, Budget& budget) {
  const SequenceType type = a.sequence_object().type;
  if (!b.is_sequence(type)) {
    const std::string name = type_name(a);
    raise_type_error(str("can only concatenate ", name, " (not \"", type_name(b), "\") to ", name));
  }
  const ValueList& x = a.sequence_object().items;
  const ValueList& y = b.sequence_object().items;
  budget.produce((x.size() + y.size()) * sizeof(Value));
  ValueList out;
  out.reserve(x.size() + y.size());
  out.insert(out.end(), x.begin(), x.end());
  out.insert(out.end(), y.begin(), y.end());
  return Value::sequence(type, std::move(out));
}

Value add(const Value& a, const Value& b, Budget& budget) {
  if (a.is_string() && b.is_string()) return add_strings(a, b, budget);
  if (a.is_string()) {
    raise_type_error(str("can only concatenate str (not \"", type_name(b), "\") to str"));
  }
  if (is_plain_sequence(a)) return add_sequences(a, b, budget);
  unsupported(BinaryOp::kAdd, a, b);
}

Value multiply(const Value& a, const Value& b, Budget& budget) {
  const bool left = a.is_string() || is_plain_sequence(a);
  const bool right = b.is_string() || is_plain_sequence(b);
  if (left && b.is_integral()) return repeat(a, b.as_int(), budget);
  if (right && a.is_integral()) return repeat(b, a.as_int(), budget);
  if (left || right) {
    const Value& other = left ? b : a;
    raise_type_error(str("can't multiply sequence by non-int of type '", type_name(other), "'"));
  }
  unsupported(BinaryOp::kMul, a, b);
}

// The slice as concrete bounds over `length` elements, as Python clamps them.
struct Bounds {
  int64_t start, stop, step, count;
};

Bounds slice_bounds(const Slice& slice, int64_t length) {
  const int64_t step = std::max(slice.step.value_or(1), -INT64_MAX);
  if (step == 0) raise(ErrorKind::kValueError, "slice step cannot be zero");
  const int64_t low = step > 0 ? 0 : -1;
  const int64_t high = step > 0 ? length : length - 1;
  const auto clamp = [&](std::optional<int64_t> bound, int64_t open) {
    if (!bound) return open;
    const int64_t index = *bound < 0 ? *bound + length : *bound;
    return std::clamp(index, low, high);
  };
  const int64_t start = clamp(slice.start, step > 0 ? low : high);
  const int64_t stop = clamp(slice.stop, step > 0 ? high : low);
  int64_t count = 0;
  if (step > 0 && start < stop) count = (stop - start - 1) / step + 1;
  if (step < 0 && start > stop) count = (start - stop - 1) / -step + 1;
  return {start, stop, step, count};
}

Value like(const Value& model, std::string text) {
  return model.is_markup() ? Value::markup(std::move(text)) : Value::string(std::move(text));
}

Value slice_string(const Value& value, const Slice& slice, Budget& budget) {
  const StringObject& object = value.string_object();
  const Bounds bounds = slice_bounds(slice, object.length);
  const std::string& text = object.text;
  if (bounds.count == 0) return like(value, "");
  if (bounds.step == 1) {
    budget.scan(text.size());
    const auto count = static_cast<size_t>(bounds.count);
    const size_t begin =
        object.ascii() ? static_cast<size_t>(bounds.start) : byte_offset(text, bounds.start);
    const size_t size =
        object.ascii() ? count : byte_offset(std::string_view(text).substr(begin), bounds.count);
    budget.produce(size);
    return like(value, text.substr(begin, size));
  }
  budget.produce(text.size() * 4);
  const std::u32string points = to_code_points(text);
  std::u32string out;
  for (int64_t k = 0; k < bounds.count; ++k) {
    out += points[static_cast<size_t>(bounds.start + k * bounds.step)];
  }
  return like(value, to_utf8(out));
}

Value missing_element(const Value& object, const Value& key, Budget& budget);

std::string object_type_text(const Value& object) {
  switch (object.kind()) {
    case Kind::kNone:
      return "None";
    case Kind::kNamespace:
      return "jinja2.utils.Namespace object";
    case Kind::kLoop:
      return "jinja2.runtime.LoopContext object";
    case Kind::kFunction:
      if (object.function().native == nullptr) return "jinja2.runtime.Macro object";
      break;
    default:
      break;
  }
  return type_name(object) + " object";
}

Value missing_element(const Value& object, const Value& key, Budget& budget) {
  return Value::undefined(object_type_text(object) + " has no element " + to_repr(key, budget));
}

Value missing_attribute(const Value& object, const std::string& name) {
  std::string message(1, '\'');
  message.append(object_type_text(object)).append("' has no attribute ");
  append_string_repr(message, name);
  return Value::undefined(std::move(message));
}

Value string_at(const Value& value, int64_t index) {
  const StringObject& object = value.string_object();
  if (object.ascii()) return like(value, std::string(1, object.text[static_cast<size_t>(index)]));
  const size_t begin = byte_offset(object.text, index);
  const size_t size = byte_offset(std::string_view(object.text).substr(begin), 1);
  return like(value, object.text.substr(begin, size));
}

bool is_indexable(const Value& value) {
  if (value.is_string()) return true;
  if (!value.is(Kind::kSequence)) return false;
  const SequenceType type = value.sequence_object().type;
  return type == SequenceType::kList || type == SequenceType::kTuple ||
         type == SequenceType::kRange || type == SequenceType::kGroup;
}

Value refuse_change(Interpreter&, const Value& self, const Args&) {
  raise(ErrorKind::kSecurityError,
        str("the sandbox refuses to change a ", type_name(self), " object"));
}

Value loop_attribute(const LoopObject& loop, const std::string& name) {
  const auto length = static_cast<int64_t>(loop.items.size());
  const auto index0 = static_cast<int64_t>(loop.index0);
  if (name == "index0") return Value::integer(index0);
  if (name == "index") return Value::integer(index0 + 1);
  if (name == "first") return Value::boolean(index0 == 0);
  if (name == "last") return Value::boolean(index0 + 1 == length);
  if (name == "length") return Value::integer(length);
  if (name == "revindex") return Value::integer(length - index0);
  if (name == "revindex0") return Value::integer(length - index0 - 1);
  if (name == "depth") return Value::integer(loop.nesting + 1);
  if (name == "depth0") return Value::integer(loop.nesting);
  if (name == "previtem") {
    if (index0 == 0) return Value::undefined("there is no previous item");
    return loop.items[loop.index0 - 1];
  }
  if (name == "nextitem") {
    if (index0 + 1 >= length) return Value::undefined("there is no next item");
    return loop.items[loop.index0 + 1];
  }
  return Value();
}

// Attributes that are data, not methods; undefined without a message when there is none.
Value data_attribute(const Value& object, const std::string& name) {
  if (object.is(Kind::kLoop)) return loop_attribute(object.loop(), name);
  if (object.is(Kind::kNamespace)) {
    const Value* value = object.ns().find(name);
    return value == nullptr ? Value() : *value;
  }
  if (object.is_sequence(SequenceType::kGroup)) {
    if (name == "grouper") return object.sequence_object().items[0];
    if (name == "list") return object.sequence_object().items[1];
  }
  if (object.is(Kind::kFunction) && object.function().native == nullptr && name == "name") {
    return Value::string(object.function().name);
  }
  return Value();
}

bool is_dunder(const std::string& name) { return name.size() > 4 && starts_with(name, "__"); }

// The attribute of a builtin object, or an undefined value without a message.
Value builtin_attribute(const Value& object, const std::string& name) {
  if (is_dunder(name)) {
    return Value::undefined(
        str("access to attribute '", name, "' of '", type_name(object), "' object is unsafe."),
        ErrorKind::kSecurityError);
  }
  if (NativeFunction method = find_method(object, name)) {
    if (method == refuse_change) {
      return Value::undefined(
          str("access to attribute '", name, "' of '", type_name(object), "' object is unsafe."),
          ErrorKind::kSecurityError);
    }
    auto function = std::make_shared<FunctionObject>();
    function->name = name;
    function->native = method;
    function->self = object;
    function->depth = object.depth() + 1;
    if (function->depth > kMaxValueDepth) {
      raise(ErrorKind::kRecursionError, "values are nested too deeply");
    }
    return Value::object(Kind::kFunction, std::move(function));
  }
  return data_attribute(object, name);
}

bool has_value(const Value& value) { return !value.is_undefined() || value.identity() != nullptr; }

}  // namespace

Value binary_operation(BinaryOp op, const Value& a, const Value& b, Budget& budget) {
  if (a.is_undefined()) a.raise_undefined();
  if (op == BinaryOp::kMod && a.is_string()) {
    std::string text = format_percent(a.text(), b, budget);
    return a.is_markup() ? Value::markup(std::move(text)) : Value::string(std::move(text));
  }
  if (b.is_undefined()) b.raise_undefined();
  if (a.is_integral() && b.is_integral()) return integer_operation(op, a.as_int(), b.as_int());
  if (a.is_number() && b.is_number()) return float_operation(op, a.as_double(), b.as_double());
  if (op == BinaryOp::kAdd) return add(a, b, budget);
  if (op == BinaryOp::kMul) return multiply(a, b, budget);
  unsupported(op, a, b);
}

Value negate(const Value& value) {
  if (value.is_undefined()) value.raise_undefined();
  if (value.is(Kind::kFloat)) return Value::number(-value.as_double());
  if (!value.is_integral()) {
    raise_type_error(str("bad operand type for unary -: '", type_name(value), "'"));
  }
  if (value.as_int() == INT64_MIN) overflow();
  return Value::integer(-value.as_int());
}

bool contains(const Value& container, const Value& item, Budget& budget) {
  switch (container.kind()) {
    case Kind::kUndefined:
      return false;
    case Kind::kString:
      if (item.is_undefined()) item.raise_undefined();
      if (!item.is_string()) {
        raise_type_error(
            str("'in <string>' requires string as left operand, not ", type_name(item)));
      }
      budget.scan(container.text().size() * 2);
      return find_text(container.text(), item.text()) != std::string::npos;
    case Kind::kDict:
      return container.dict().find(item, budget) != nullptr;
    case Kind::kSequence: {
      if (container.is_sequence(SequenceType::kGenerator)) {
        const ValueList items = iterate(container, budget);
        return std::any_of(items.begin(), items.end(),
                           [&](const Value& v) { return equal(v, item, budget); });
      }
      for (const Value& candidate : container.sequence_object().items) {
        if (equal(candidate, item, budget)) return true;
      }
      return false;
    }
    default:
      raise_type_error(str("argument of type '", type_name(container), "' is not iterable"));
  }
}

Value slice_value(const Value& value, const Slice& slice, Budget& budget) {
  if (value.is_undefined()) value.raise_undefined();
  if (value.is_string()) return slice_string(value, slice, budget);
  if (!is_indexable(value))
    return Value::undefined(object_type_text(value) + " has no element slice");
  const SequenceObject& sequence = value.sequence_object();
  const Bounds bounds = slice_bounds(slice, static_cast<int64_t>(sequence.items.size()));
  budget.produce(static_cast<uint64_t>(bounds.count) * sizeof(Value));
  ValueList out;
  out.reserve(static_cast<size_t>(bounds.count));
  for (int64_t k = 0; k < bounds.count; ++k) {
    out.push_back(sequence.items[static_cast<size_t>(bounds.start + k * bounds.step)]);
  }
  const SequenceType type = sequence.type == SequenceType::kGroup   ? SequenceType::kTuple
                            : sequence.type == SequenceType::kRange ? SequenceType::kList
                                                                    : sequence.type;
  return Value::sequence(type, std::move(out));
}

Value get_item(const Value& object, const Value& key, Budget& budget) {
  if (object.is_undefined()) object.raise_undefined();
  if (object.is(Kind::kDict)) {
    const bool hashable = !key.is(Kind::kDict) && !key.is_sequence(SequenceType::kList);
    const Value* value = hashable ? object.dict().find(key, budget) : nullptr;
    if (value != nullptr) return *value;
  } else if (is_indexable(object) && key.is_integral()) {
    const int64_t length = length_of(object);
    const int64_t index = key.as_int() < 0 ? key.as_int() + length : key.as_int();
    if (index >= 0 && index < length) {
      if (!object.is_string()) return object.sequence_object().items[static_cast<size_t>(index)];
      budget.scan(object.text().size());
      return string_at(object, index);
    }
  }
  if (!key.is_string()) return missing_element(object, key, budget);
  Value value = builtin_attribute(object, key.text());
  return has_value(value) ? value : missing_attribute(object, key.text());
}

Value get_attribute(const Value& object, const Value& name, Budget& budget) {
  if (object.is_undefined()) object.raise_undefined();
  const std::string& text = name.text();
  Value value = builtin_attribute(object, text);
  if (has_value(value)) return value;
  if (object.is(Kind::kDict)) {
    const Value* item = object.dict().find(name, budget);
    if (item != nullptr) return *item;
  }
  return missing_attribute(object, text);
}

int64_t length_of(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
      return 0;
    case Kind::kString:
      return value.string_object().length;
    case Kind::kDict:
      return static_cast<int64_t>(value.dict().entries.size());
    case Kind::kSequence:
      if (value.is_sequence(SequenceType::kGenerator)) break;
      return static_cast<int64_t>(value.sequence_object().items.size());
    case Kind::kLoop:
      return static_cast<int64_t>(value.loop().items.size());
    default:
      break;
  }
  raise_type_error(str("object of type '", type_name(value), "' has no len()"));
}

NativeFunction find_container_method(const Value& object, const std::string& name);

NativeFunction find_method(const Value& object, const std::string& name) {
  if (object.is_string()) return find_string_method(name);
  static constexpr std::string_view kListChanges[] = {"append", "clear",  "extend",  "insert",
                                                      "pop",    "remove", "reverse", "sort"};
  static constexpr std::string_view kDictChanges[] = {"clear", "pop", "popitem", "setdefault",
                                                      "update"};
  const auto changes = [&name](const auto& names) {
    return std::find(std::begin(names), std::end(names), name) != std::end(names);
  };
  if (object.is_sequence(SequenceType::kList) && changes(kListChanges)) return refuse_change;
  if (object.is(Kind::kDict) && changes(kDictChanges)) return refuse_change;
  return find_container_method(object, name);
}

}  // namespace slipstream::jinja
