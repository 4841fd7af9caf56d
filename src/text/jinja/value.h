// The values a template computes with: Python's, as far as chat templates can see them.
//
// A Value is small and copied freely. Strings, lists and dicts are immutable once made (the
// sandbox refuses everything that would change them), so they are shared between values and, for
// a template's constants, between threads. What can change belongs to one render: namespaces,
// loops, generators. Containers record how deep they nest, and that depth has a limit, so that
// printing, comparing and destroying a value may recurse.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/json.h"
#include "text/jinja/budget.h"
#include "text/jinja/error.h"

namespace slipstream::jinja {

class Interpreter;
struct Scope;
struct Stmt;

enum class Kind : uint8_t {
  kUndefined,
  kNone,
  kBool,
  kInt,
  kFloat,
  kString,
  kSequence,
  kDict,
  kNamespace,
  kLoop,
  kFunction,  // macros, bound methods, globals
  kCycler,
};

constexpr int kMaxValueDepth = 256;

struct Object {
  virtual ~Object() = default;
  int depth = 0;  // 1 + the deepest child; namespaces count 0 because the interpreter owns them
};

struct StringObject : Object {
  std::string text;    // valid UTF-8
  int64_t length = 0;  // in code points
  bool ascii() const { return static_cast<size_t>(length) == text.size(); }
};

// An undefined value remembers what was missing, for the message of the error it will cause.
struct UndefinedObject : Object {
  std::string message;
  ErrorKind kind = ErrorKind::kUndefinedError;
};

class Value;
using ValueList = std::vector<Value>;

enum class SequenceType : uint8_t {
  kList,
  kTuple,
  kRange,
  kGroup,      // (grouper, list) of the filter groupby
  kGenerator,  // lazy in Python: one pass, no length, no index
  kDictKeys,
  kDictValues,
  kDictItems,
};

struct SequenceObject;
struct DictObject;
struct NamespaceObject;
struct LoopObject;
struct FunctionObject;
struct CyclerObject;

class Value {
 public:
  Value() = default;  // undefined without a name
  static Value none() { return Value(Kind::kNone); }
  static Value boolean(bool value);
  static Value integer(int64_t value);
  static Value number(double value);
  static Value string(std::string text);  // repairs invalid UTF-8
  static Value markup(std::string text);
  static Value undefined(std::string message, ErrorKind kind = ErrorKind::kUndefinedError);
  static Value list(ValueList items) { return sequence(SequenceType::kList, std::move(items)); }
  static Value tuple(ValueList items) { return sequence(SequenceType::kTuple, std::move(items)); }
  static Value sequence(SequenceType type, ValueList items);
  static Value generator(ValueList items, std::string repr = "<generator object>");
  static Value object(Kind kind, std::shared_ptr<Object> object);
  static Value from_json(const Json& json);

  Kind kind() const { return kind_; }
  bool is(Kind kind) const { return kind_ == kind; }
  bool is_undefined() const { return kind_ == Kind::kUndefined; }
  bool is_none() const { return kind_ == Kind::kNone; }
  bool is_string() const { return kind_ == Kind::kString; }
  bool is_markup() const { return kind_ == Kind::kString && flag_; }
  bool is_integral() const { return kind_ == Kind::kInt || kind_ == Kind::kBool; }
  bool is_number() const { return is_integral() || kind_ == Kind::kFloat; }
  bool is_sequence(SequenceType type) const;

  // Each accessor asks for the matching kind; as_int takes booleans too, as Python does.
  bool as_bool() const { return flag_; }
  int64_t as_int() const { return kind_ == Kind::kBool ? int64_t{flag_} : int_; }
  double as_double() const {
    return kind_ == Kind::kFloat ? double_ : static_cast<double>(as_int());
  }
  const std::string& text() const { return string_object().text; }
  const StringObject& string_object() const;
  const SequenceObject& sequence_object() const;
  SequenceObject& mutable_sequence() const;
  const DictObject& dict() const;
  NamespaceObject& ns() const;
  LoopObject& loop() const;
  FunctionObject& function() const;
  CyclerObject& cycler() const;
  const Object* identity() const { return object_.get(); }

  bool truthy() const;
  int depth() const { return object_ ? object_->depth : 0; }

  // Raises the error an undefined value stands for.
  [[noreturn]] void raise_undefined() const;

 private:
  explicit Value(Kind kind) : kind_(kind) {}

  Kind kind_ = Kind::kUndefined;
  bool flag_ = false;  // the boolean, or "is markup"
  union {
    int64_t int_ = 0;
    double double_;
  };
  std::shared_ptr<Object> object_;
};

struct SequenceObject : Object {
  SequenceType type = SequenceType::kList;
  ValueList items;
  bool consumed = false;       // kGenerator only
  std::string generator_repr;  // kGenerator and kRange: how it prints
};

// Insertion-ordered. Small dicts are searched; larger ones keep an index by hash.
struct DictObject : Object {
  std::vector<std::pair<Value, Value>> entries;
  std::unordered_multimap<uint64_t, size_t> index;

  // Both raise for an unhashable key.
  const Value* find(const Value& key, Budget& budget) const;
  void set(Value key, Value value, Budget& budget);
};

Value make_dict(std::shared_ptr<DictObject> dict);

struct NamespaceObject : Object {
  std::vector<std::pair<std::string, Value>> attributes;

  const Value* find(std::string_view name) const;
  void set(std::string_view name, Value value);
};

struct LoopObject : Object {
  ValueList items;
  size_t index0 = 0;
  int nesting = 0;             // loop.depth0
  const Stmt* stmt = nullptr;  // for recursive loops
  Scope* scope = nullptr;
  std::string last_changed;  // loop.changed(): the printed arguments of the call before
};

struct CyclerObject : Object {
  ValueList items;
  size_t position = 0;
  std::string joiner;  // used when is_joiner
  bool is_joiner = false;
  bool used = false;
};

struct Args {
  ValueList positional;
  std::vector<std::pair<std::string, Value>> keywords;
};

using NativeFunction = Value (*)(Interpreter&, const Value& self, const Args&);

struct FunctionObject : Object {
  std::string name;
  NativeFunction native = nullptr;  // null: a macro
  Value self;                       // the object a method is bound to
  const Stmt* macro = nullptr;
  Scope* scope = nullptr;  // where the macro was defined
};

// Python's names: "str", "int", "NoneType", "dict_items" ...
std::string type_name(const Value& value);

bool equal(const Value& a, const Value& b, Budget& budget);
uint64_t hash_value(const Value& value, Budget& budget);  // raises TypeError for lists and dicts
// <0, 0, >0 as a is before, equal to, after b; raises TypeError with `op` for unordered types.
int compare(const Value& a, const Value& b, const char* op, Budget& budget);

// The elements a for loop sees; consumes a generator. Raises TypeError when there are none.
ValueList iterate(const Value& value, Budget& budget);

}  // namespace slipstream::jinja
