// Owns the making, comparing, hashing and iterating of values. Printing them is in print.cc.
#include "text/jinja/value.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/strings.h"
#include "base/utf8.h"
#include "text/jinja/unicode.h"

namespace slipstream::jinja {
namespace {

void nest(Object& parent, const Value& child) {
  parent.depth = std::max(parent.depth, child.depth() + 1);
  if (parent.depth > kMaxValueDepth) {
    raise(ErrorKind::kRecursionError, "values are nested too deeply");
  }
}

template <typename T>
T& checked_object(const Value& value, Kind kind, const std::shared_ptr<Object>& object) {
  SLIPSTREAM_CHECK(value.is(kind), "a template value is read as another kind");
  return static_cast<T&>(*object);
}

// Ints and floats compare by exact value; int64 beyond 2^53 does not fit a double.
int compare_numbers(const Value& a, const Value& b) {
  if (a.is_integral() && b.is_integral()) {
    return a.as_int() < b.as_int() ? -1 : a.as_int() > b.as_int();
  }
  const long double x = a.is(Kind::kFloat) ? static_cast<long double>(a.as_double())
                                           : static_cast<long double>(a.as_int());
  const long double y = b.is(Kind::kFloat) ? static_cast<long double>(b.as_double())
                                           : static_cast<long double>(b.as_int());
  return x < y ? -1 : x > y;
}

bool is_nan(const Value& value) { return value.is(Kind::kFloat) && std::isnan(value.as_double()); }

bool equal_dicts(const DictObject& a, const DictObject& b, Budget& budget) {
  if (a.entries.size() != b.entries.size()) return false;
  for (const auto& [key, value] : a.entries) {
    const Value* other = b.find(key, budget);
    if (other == nullptr || !equal(value, *other, budget)) return false;
  }
  return true;
}

bool comparable_sequences(const Value& a, const Value& b) {
  const auto group = [](SequenceType type) {
    return type == SequenceType::kGroup ? SequenceType::kTuple : type;
  };
  return group(a.sequence_object().type) == group(b.sequence_object().type);
}

bool has_identity_equality(SequenceType type) {
  return type == SequenceType::kGenerator || type == SequenceType::kDictValues;
}

uint64_t hash_nested(const Value& value, int level, Budget& budget);

uint64_t mix(uint64_t seed, uint64_t value) {
  return (seed ^ value) * 0x9E3779B97F4A7C15ull + (seed >> 29);
}

}  // namespace

const char* error_kind_name(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kTemplateError:
      return "TemplateError";
    case ErrorKind::kSyntaxError:
      return "TemplateSyntaxError";
    case ErrorKind::kRuntimeError:
      return "TemplateRuntimeError";
    case ErrorKind::kUndefinedError:
      return "UndefinedError";
    case ErrorKind::kSecurityError:
      return "SecurityError";
    case ErrorKind::kTypeError:
      return "TypeError";
    case ErrorKind::kValueError:
      return "ValueError";
    case ErrorKind::kKeyError:
      return "KeyError";
    case ErrorKind::kIndexError:
      return "IndexError";
    case ErrorKind::kOverflowError:
      return "OverflowError";
    case ErrorKind::kZeroDivisionError:
      return "ZeroDivisionError";
    case ErrorKind::kRecursionError:
      return "RecursionError";
    case ErrorKind::kLimitError:
      return "LimitError";
  }
  return "TemplateError";
}

Value Value::boolean(bool value) {
  Value out(Kind::kBool);
  out.flag_ = value;
  return out;
}

Value Value::integer(int64_t value) {
  Value out(Kind::kInt);
  out.int_ = value;
  return out;
}

Value Value::number(double value) {
  Value out(Kind::kFloat);
  out.double_ = value;
  return out;
}

Value Value::string(std::string text) {
  auto object = std::make_shared<StringObject>();
  object->text = std::move(text);
  const bool ascii = std::all_of(object->text.begin(), object->text.end(),
                                 [](char c) { return static_cast<unsigned char>(c) < 0x80; });
  if (!ascii && !utf8_valid(object->text)) object->text = utf8_sanitized(object->text);
  object->length =
      ascii ? static_cast<int64_t>(object->text.size()) : count_code_points(object->text);
  Value out(Kind::kString);
  out.object_ = std::move(object);
  return out;
}

Value Value::markup(std::string text) {
  Value out = string(std::move(text));
  out.flag_ = true;
  return out;
}

Value Value::undefined(std::string message, ErrorKind kind) {
  auto object = std::make_shared<UndefinedObject>();
  object->message = std::move(message);
  object->kind = kind;
  Value out;
  out.object_ = std::move(object);
  return out;
}

Value Value::sequence(SequenceType type, ValueList items) {
  auto object = std::make_shared<SequenceObject>();
  object->type = type;
  object->items = std::move(items);
  for (const Value& item : object->items) nest(*object, item);
  object->depth = std::max(object->depth, 1);
  Value out(Kind::kSequence);
  out.object_ = std::move(object);
  return out;
}

Value Value::generator(ValueList items, std::string repr) {
  Value out = sequence(SequenceType::kGenerator, std::move(items));
  out.mutable_sequence().generator_repr = std::move(repr);
  return out;
}

Value Value::object(Kind kind, std::shared_ptr<Object> object) {
  Value out(kind);
  out.object_ = std::move(object);
  return out;
}

Value Value::from_json(const Json& json) {
  switch (json.type()) {
    case Json::value_t::boolean:
      return boolean(json.get<bool>());
    case Json::value_t::number_integer:
      return integer(json.get<int64_t>());
    case Json::value_t::number_unsigned: {
      const uint64_t number_value = json.get<uint64_t>();
      if (number_value > uint64_t{INT64_MAX}) return number(static_cast<double>(number_value));
      return integer(static_cast<int64_t>(number_value));
    }
    case Json::value_t::number_float:
      return number(json.get<double>());
    case Json::value_t::string:
      return string(json.get_ref<const std::string&>());
    case Json::value_t::array: {
      ValueList items;
      items.reserve(json.size());
      for (const Json& item : json) items.push_back(from_json(item));
      return list(std::move(items));
    }
    case Json::value_t::object: {
      auto dict = std::make_shared<DictObject>();
      dict->entries.reserve(json.size());
      // Keys are JSON's own, so their number and size are already bounded.
      Budget budget({.max_steps = UINT64_MAX});
      for (const auto& [key, item] : json.items()) dict->set(string(key), from_json(item), budget);
      return make_dict(std::move(dict));
    }
    default:
      return none();
  }
}

bool Value::is_sequence(SequenceType type) const {
  return kind_ == Kind::kSequence && sequence_object().type == type;
}

const StringObject& Value::string_object() const {
  return checked_object<StringObject>(*this, Kind::kString, object_);
}
const SequenceObject& Value::sequence_object() const {
  return checked_object<SequenceObject>(*this, Kind::kSequence, object_);
}
SequenceObject& Value::mutable_sequence() const {
  return checked_object<SequenceObject>(*this, Kind::kSequence, object_);
}
const DictObject& Value::dict() const {
  return checked_object<DictObject>(*this, Kind::kDict, object_);
}
NamespaceObject& Value::ns() const {
  return checked_object<NamespaceObject>(*this, Kind::kNamespace, object_);
}
LoopObject& Value::loop() const { return checked_object<LoopObject>(*this, Kind::kLoop, object_); }
FunctionObject& Value::function() const {
  return checked_object<FunctionObject>(*this, Kind::kFunction, object_);
}
CyclerObject& Value::cycler() const {
  return checked_object<CyclerObject>(*this, Kind::kCycler, object_);
}

bool Value::truthy() const {
  switch (kind_) {
    case Kind::kUndefined:
    case Kind::kNone:
      return false;
    case Kind::kBool:
      return flag_;
    case Kind::kInt:
      return int_ != 0;
    case Kind::kFloat:
      return double_ != 0.0;
    case Kind::kString:
      return !text().empty();
    case Kind::kSequence:
      return sequence_object().type == SequenceType::kGenerator || !sequence_object().items.empty();
    case Kind::kDict:
      return !dict().entries.empty();
    default:
      return true;
  }
}

void Value::raise_undefined() const {
  const auto* object = static_cast<const UndefinedObject*>(object_.get());
  if (object == nullptr) raise(ErrorKind::kUndefinedError, "the value is undefined");
  raise(object->kind, object->message);
}

const Value* DictObject::find(const Value& key, Budget& budget) const {
  budget.steps();
  if (index.empty()) {
    if (!key.is_string()) hash_value(key, budget);  // only to refuse what cannot be hashed
    for (const auto& [other, value] : entries) {
      if (equal(other, key, budget)) return &value;
    }
    return nullptr;
  }
  const auto [begin, end] = index.equal_range(hash_value(key, budget));
  for (auto it = begin; it != end; ++it) {
    if (equal(entries[it->second].first, key, budget)) return &entries[it->second].second;
  }
  return nullptr;
}

void DictObject::set(Value key, Value value, Budget& budget) {
  constexpr size_t kIndexFrom = 12;
  nest(*this, key);
  nest(*this, value);
  if (const Value* existing = find(key, budget)) {
    *const_cast<Value*>(existing) = std::move(value);  // find() is const, the entry is ours
    return;
  }
  entries.emplace_back(std::move(key), std::move(value));
  if (!index.empty()) {
    index.emplace(hash_value(entries.back().first, budget), entries.size() - 1);
  } else if (entries.size() >= kIndexFrom) {
    for (size_t k = 0; k < entries.size(); ++k) {
      index.emplace(hash_value(entries[k].first, budget), k);
    }
  }
}

Value make_dict(std::shared_ptr<DictObject> dict) {
  dict->depth = std::max(dict->depth, 1);
  return Value::object(Kind::kDict, std::move(dict));
}

const Value* NamespaceObject::find(std::string_view name) const {
  for (const auto& [key, value] : attributes) {
    if (key == name) return &value;
  }
  return nullptr;
}

void NamespaceObject::set(std::string_view name, Value value) {
  for (auto& [key, old] : attributes) {
    if (key == name) {
      old = std::move(value);
      return;
    }
  }
  attributes.emplace_back(std::string(name), std::move(value));
}

std::string type_name(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
      return "Undefined";
    case Kind::kNone:
      return "NoneType";
    case Kind::kBool:
      return "bool";
    case Kind::kInt:
      return "int";
    case Kind::kFloat:
      return "float";
    case Kind::kString:
      return value.is_markup() ? "Markup" : "str";
    case Kind::kDict:
      return "dict";
    case Kind::kNamespace:
      return "Namespace";
    case Kind::kLoop:
      return "LoopContext";
    case Kind::kCycler:
      return value.cycler().is_joiner ? "Joiner" : "Cycler";
    case Kind::kFunction:
      if (value.function().native == nullptr) return "Macro";
      return value.function().self.is_undefined() ? "function" : "builtin_function_or_method";
    case Kind::kSequence:
      break;
  }
  switch (value.sequence_object().type) {
    case SequenceType::kList:
      return "list";
    case SequenceType::kTuple:
      return "tuple";
    case SequenceType::kRange:
      return "range";
    case SequenceType::kGroup:
      return "_GroupTuple";
    case SequenceType::kGenerator:
      return "generator";
    case SequenceType::kDictKeys:
      return "dict_keys";
    case SequenceType::kDictValues:
      return "dict_values";
    case SequenceType::kDictItems:
      return "dict_items";
  }
  return "object";
}

bool equal(const Value& a, const Value& b, Budget& budget) {
  budget.steps();
  if (a.is_number() && b.is_number()) {
    return !is_nan(a) && !is_nan(b) && compare_numbers(a, b) == 0;
  }
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
      return true;
    case Kind::kString: {
      if (a.text().size() != b.text().size()) return false;
      budget.scan(a.text().size());
      return a.text() == b.text();
    }
    case Kind::kDict:
      return a.identity() == b.identity() || equal_dicts(a.dict(), b.dict(), budget);
    case Kind::kSequence: {
      if (a.identity() == b.identity()) return true;
      if (!comparable_sequences(a, b)) return false;
      if (has_identity_equality(a.sequence_object().type)) return false;
      const ValueList& x = a.sequence_object().items;
      const ValueList& y = b.sequence_object().items;
      if (x.size() != y.size()) return false;
      for (size_t k = 0; k < x.size(); ++k) {
        if (!equal(x[k], y[k], budget)) return false;
      }
      return true;
    }
    default:
      return a.identity() == b.identity();
  }
}

uint64_t hash_value(const Value& value, Budget& budget) { return hash_nested(value, 0, budget); }

namespace {

// Tuples that share parts can be exponentially large when walked, so only two levels count.
uint64_t hash_nested(const Value& value, int level, Budget& budget) {
  budget.steps();
  switch (value.kind()) {
    case Kind::kUndefined:
      return 0x51;
    case Kind::kNone:
      return 0x52;
    case Kind::kBool:
    case Kind::kInt:
      return mix(1, static_cast<uint64_t>(value.as_int()));
    case Kind::kFloat: {
      const double number = value.as_double();
      constexpr double kTwo62 = 4611686018427387904.0;
      if (number == std::floor(number) && std::fabs(number) < kTwo62) {
        return mix(1, static_cast<uint64_t>(static_cast<int64_t>(number)));
      }
      uint64_t bits = 0;
      std::memcpy(&bits, &number, sizeof(bits));
      return mix(2, bits);
    }
    case Kind::kString:
      budget.scan(value.text().size());
      return std::hash<std::string_view>{}(value.text());
    case Kind::kSequence: {
      const SequenceObject& sequence = value.sequence_object();
      if (sequence.type == SequenceType::kTuple || sequence.type == SequenceType::kGroup) {
        uint64_t hash = 3;
        if (level >= 2) return hash;
        for (const Value& item : sequence.items)
          hash = mix(hash, hash_nested(item, level + 1, budget));
        return hash;
      }
      if (sequence.type == SequenceType::kGenerator) break;
      raise_type_error(str("unhashable type: '", type_name(value), "'"));
    }
    case Kind::kDict:
    case Kind::kNamespace:
      raise_type_error(str("unhashable type: '", type_name(value), "'"));
    default:
      break;
  }
  return mix(4, reinterpret_cast<uintptr_t>(value.identity()));
}

}  // namespace

int compare(const Value& a, const Value& b, const char* op, Budget& budget) {
  budget.steps();
  if (a.is_undefined()) a.raise_undefined();
  if (b.is_undefined()) b.raise_undefined();
  if (a.is_number() && b.is_number()) return compare_numbers(a, b);
  if (a.is_string() && b.is_string()) {
    budget.scan(std::min(a.text().size(), b.text().size()));
    return a.text().compare(b.text());  // UTF-8 keeps the order of code points
  }
  const bool ordered = a.is(Kind::kSequence) && b.is(Kind::kSequence) &&
                       comparable_sequences(a, b) &&
                       (a.is_sequence(SequenceType::kList) || a.is_sequence(SequenceType::kTuple) ||
                        a.is_sequence(SequenceType::kGroup));
  if (!ordered) {
    raise_type_error(str("'", op, "' not supported between instances of '", type_name(a), "' and '",
                         type_name(b), "'"));
  }
  const ValueList& x = a.sequence_object().items;
  const ValueList& y = b.sequence_object().items;
  for (size_t k = 0; k < std::min(x.size(), y.size()); ++k) {
    if (!equal(x[k], y[k], budget)) return compare(x[k], y[k], op, budget);
  }
  return x.size() < y.size() ? -1 : x.size() > y.size();
}

ValueList iterate(const Value& value, Budget& budget) {
  ValueList out;
  switch (value.kind()) {
    case Kind::kUndefined:
      return out;
    case Kind::kString: {
      const std::string& text = value.text();
      budget.produce(text.size() * (sizeof(Value) + sizeof(StringObject)));
      out.reserve(static_cast<size_t>(value.string_object().length));
      for (size_t pos = 0; pos < text.size();) {
        const size_t length = utf8_decode(text, pos).length;
        std::string piece = text.substr(pos, length);
        out.push_back(value.is_markup() ? Value::markup(std::move(piece))
                                        : Value::string(std::move(piece)));
        pos += length;
      }
      return out;
    }
    case Kind::kSequence: {
      SequenceObject& sequence = value.mutable_sequence();
      budget.produce(sequence.items.size() * sizeof(Value));
      if (sequence.type != SequenceType::kGenerator) return sequence.items;
      if (sequence.consumed) return out;
      sequence.consumed = true;
      return std::exchange(sequence.items, {});
    }
    case Kind::kDict:
      budget.produce(value.dict().entries.size() * sizeof(Value));
      for (const auto& entry : value.dict().entries) out.push_back(entry.first);
      return out;
    case Kind::kLoop: {
      LoopObject& loop = value.loop();
      budget.produce(loop.items.size() * sizeof(Value));
      return loop.items;
    }
    default:
      raise_type_error(str("'", type_name(value), "' object is not iterable"));
  }
}

}  // namespace slipstream::jinja
