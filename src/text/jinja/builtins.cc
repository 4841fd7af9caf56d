// Owns the methods of dicts, lists, loops and cyclers, and the global functions.
#include <algorithm>
#include <ctime>

#include "base/strings.h"
#include "text/jinja/args.h"
#include "text/jinja/operators.h"
#include "text/jinja/print.h"
#include "text/jinja/runtime_internal.h"

namespace slipstream::jinja {
namespace {

Value dict_get(Interpreter& in, const Value& self, const Args& args) {
  const BoundArgs bound("get", args, {"key", "default"}, 1);
  if (const Value* value = self.dict().find(*bound.get(0), in.budget())) return *value;
  return bound.get(1) == nullptr ? Value::none() : *bound.get(1);
}

Value dict_view(Interpreter& in, const Value& self, SequenceType type) {
  const auto& entries = self.dict().entries;
  in.budget().produce(entries.size() * sizeof(Value) * 3);
  ValueList items;
  items.reserve(entries.size());
  for (const auto& [key, value] : entries) {
    if (type == SequenceType::kDictKeys) {
      items.push_back(key);
    } else if (type == SequenceType::kDictValues) {
      items.push_back(value);
    } else {
      items.push_back(Value::tuple({key, value}));
    }
  }
  return Value::sequence(type, std::move(items));
}

Value dict_items(Interpreter& in, const Value& self, const Args& args) {
  const BoundArgs bound("items", args, {});
  return dict_view(in, self, SequenceType::kDictItems);
}
Value dict_keys(Interpreter& in, const Value& self, const Args& args) {
  const BoundArgs bound("keys", args, {});
  return dict_view(in, self, SequenceType::kDictKeys);
}
Value dict_values(Interpreter& in, const Value& self, const Args& args) {
  const BoundArgs bound("values", args, {});
  return dict_view(in, self, SequenceType::kDictValues);
}

Value copy_self(Interpreter&, const Value& self, const Args&) { return self; }

Value list_count(Interpreter& in, const Value& self, const Args& args) {
  const BoundArgs bound("count", args, {"value"}, 1);
  int64_t count = 0;
  for (const Value& item : self.sequence_object().items) {
    count += equal(item, *bound.get(0), in.budget());
  }
  return Value::integer(count);
}

Value list_index(Interpreter& in, const Value& self, const Args& args) {
  const BoundArgs bound("index", args, {"value"}, 1);
  const ValueList& items = self.sequence_object().items;
  for (size_t k = 0; k < items.size(); ++k) {
    if (equal(items[k], *bound.get(0), in.budget())) {
      return Value::integer(static_cast<int64_t>(k));
    }
  }
  raise(ErrorKind::kValueError, to_repr(*bound.get(0), in.budget()) + " is not in list");
}

Value loop_cycle(Interpreter&, const Value& self, const Args& args) {
  if (args.positional.empty()) raise_type_error("no items for cycling given");
  return args.positional[self.loop().index0 % args.positional.size()];
}

// The printed arguments are remembered, not the values: a loop may not come to hold itself.
Value loop_changed(Interpreter& in, const Value& self, const Args& args) {
  std::string now = to_repr(Value::tuple(args.positional), in.budget());
  LoopObject& loop = self.loop();
  if (loop.last_changed == now) return Value::boolean(false);
  loop.last_changed = std::move(now);
  return Value::boolean(true);
}

Value cycler_next(Interpreter&, const Value& self, const Args&) {
  CyclerObject& cycler = self.cycler();
  const Value item = cycler.items[cycler.position];
  cycler.position = (cycler.position + 1) % cycler.items.size();
  return item;
}

Value cycler_reset(Interpreter&, const Value& self, const Args&) {
  self.cycler().position = 0;
  return Value::none();
}

Value raise_exception(Interpreter& in, const Value&, const Args& args) {
  const BoundArgs bound("raise_exception", args, {"message"}, 1);
  raise(ErrorKind::kTemplateError, to_str(*bound.get(0), in.budget()));
}

std::tm local_time_now() {
  const std::time_t now = std::time(nullptr);
  std::tm fields = {};
  localtime_r(&now, &fields);
  return fields;
}

// The time has no zone, so %z and %Z are empty, as for Python's datetime.now(); %f is zero.
std::string format_time(const std::string& format, const std::tm& time, Budget& budget) {
  std::string out;
  for (size_t k = 0; k < format.size(); ++k) {
    if (format[k] != '%' || k + 1 == format.size()) {
      out += format[k];
      continue;
    }
    std::string directive = {'%', format[++k]};
    if (directive[1] == '-' && k + 1 < format.size()) directive += format[++k];
    const char code = directive.back();
    if (code == 'z' || code == 'Z') continue;
    if (code == 'f') {
      out += "000000";
      continue;
    }
    char buffer[128];
    const size_t size = std::strftime(buffer, sizeof(buffer), directive.c_str(), &time);
    budget.steps(16);
    budget.produce(size + 16);
    out.append(buffer, size);
  }
  return out;
}

Value strftime_now(Interpreter& in, const Value&, const Args& args) {
  const BoundArgs bound("strftime_now", args, {"format"}, 1);
  const std::tm time = in.options().now ? *in.options().now : local_time_now();
  return Value::string(format_time(bound.text(0), time, in.budget()));
}

Value range(Interpreter& in, const Value&, const Args& args) {
  constexpr uint64_t kMaxRange = 100'000;  // the sandbox's MAX_RANGE
  const BoundArgs bound("range", args, {"start", "stop", "step"}, 1);
  const bool single = bound.get(1) == nullptr;
  const int64_t start = single ? 0 : bound.integer(0, 0);
  const int64_t stop = single ? bound.integer(0, 0) : bound.integer(1, 0);
  const int64_t step = bound.integer(2, 1);
  if (step == 0) raise(ErrorKind::kValueError, "range() arg 3 must not be zero");
  const bool some = step > 0 ? start < stop : start > stop;
  const uint64_t span = !some      ? 0
                        : step > 0 ? static_cast<uint64_t>(stop) - static_cast<uint64_t>(start)
                                   : static_cast<uint64_t>(start) - static_cast<uint64_t>(stop);
  const uint64_t stride = step > 0 ? static_cast<uint64_t>(step) : 0 - static_cast<uint64_t>(step);
  const uint64_t count = span == 0 ? 0 : (span - 1) / stride + 1;
  if (count > kMaxRange) {
    raise(ErrorKind::kOverflowError,
          "Range too big. The sandbox blocks ranges larger than MAX_RANGE (100000).");
  }
  in.budget().produce(count * sizeof(Value));
  ValueList items;
  items.reserve(count);
  for (uint64_t k = 0; k < count; ++k) {
    items.push_back(Value::integer(start + static_cast<int64_t>(k) * step));
  }
  Value out = Value::sequence(SequenceType::kRange, std::move(items));
  std::string& repr = out.mutable_sequence().generator_repr;
  repr = str("range(", start, ", ", stop);
  if (step != 1) repr += str(", ", step);
  repr += ')';
  return out;
}

// What dict(...) and namespace(...) take: a mapping or pairs, then keywords.
template <typename Set>
void fill_from_arguments(Interpreter& in, const Args& args, Set set) {
  if (args.positional.size() > 1) {
    raise_type_error(str("dict expected at most 1 argument, got ", args.positional.size()));
  }
  if (!args.positional.empty()) {
    const Value& source = args.positional[0];
    in.budget().produce(sizeof(Value));
    if (source.is(Kind::kDict)) {
      in.budget().produce(source.dict().entries.size() * sizeof(Value) * 2);
      for (const auto& [key, value] : source.dict().entries) set(key, value);
    } else {
      for (const Value& pair : iterate(source, in.budget())) {
        const ValueList items = iterate(pair, in.budget());
        if (items.size() != 2) {
          raise(ErrorKind::kValueError,
                "dictionary update sequence element has a length other than 2");
        }
        set(items[0], items[1]);
      }
    }
  }
  for (const auto& [name, value] : args.keywords) set(Value::string(name), value);
}

Value make_dict_value(Interpreter& in, const Value&, const Args& args) {
  auto dict = std::make_shared<DictObject>();
  fill_from_arguments(
      in, args, [&](const Value& key, const Value& value) { dict->set(key, value, in.budget()); });
  return make_dict(std::move(dict));
}

Value make_namespace_value(Interpreter& in, const Value&, const Args& args) {
  auto ns = std::make_shared<NamespaceObject>();
  fill_from_arguments(in, args, [&](const Value& key, const Value& value) {
    if (!key.is_string()) raise_type_error("namespace() names must be strings");
    in.budget().steps(1 + ns->attributes.size() / 8);
    ns->set(key.text(), value);
  });
  return in.make_namespace(std::move(ns));
}

Value make_cycler(Interpreter&, const Value&, const Args& args) {
  if (args.positional.empty()) raise_type_error("at least one item has to be provided");
  auto cycler = std::make_shared<CyclerObject>();
  cycler->items = args.positional;
  cycler->depth = Value::tuple(args.positional).depth();
  return Value::object(Kind::kCycler, std::move(cycler));
}

Value make_joiner(Interpreter&, const Value&, const Args& args) {
  const BoundArgs bound("joiner", args, {"sep"});
  auto joiner = std::make_shared<CyclerObject>();
  joiner->is_joiner = true;
  joiner->joiner = bound.get(0) == nullptr ? ", " : bound.text(0);
  return Value::object(Kind::kCycler, std::move(joiner));
}

NativeFunction find_dict_method(const std::string& name) {
  if (name == "get") return dict_get;
  if (name == "items") return dict_items;
  if (name == "keys") return dict_keys;
  if (name == "values") return dict_values;
  if (name == "copy") return copy_self;
  return nullptr;
}

NativeFunction find_sequence_method(const Value& object, const std::string& name) {
  const SequenceType type = object.sequence_object().type;
  const bool list = type == SequenceType::kList;
  if (list && name == "copy") return copy_self;
  if (list || type == SequenceType::kTuple || type == SequenceType::kGroup ||
      type == SequenceType::kRange) {
    if (name == "count") return list_count;
    if (name == "index") return list_index;
  }
  return nullptr;
}

}  // namespace

NativeFunction find_container_method(const Value& object, const std::string& name) {
  if (object.is(Kind::kDict)) return find_dict_method(name);
  if (object.is(Kind::kSequence)) return find_sequence_method(object, name);
  if (object.is(Kind::kLoop)) {
    if (name == "cycle") return loop_cycle;
    if (name == "changed") return loop_changed;
  }
  if (object.is(Kind::kCycler) && !object.cycler().is_joiner) {
    if (name == "next") return cycler_next;
    if (name == "reset") return cycler_reset;
  }
  return nullptr;
}

Value call_cycler(CyclerObject& cycler) {
  if (!cycler.is_joiner) raise_type_error("'Cycler' object is not callable");
  const bool first = !std::exchange(cycler.used, true);
  return Value::string(first ? "" : cycler.joiner);
}

Value find_global(const std::string& name) {
  static constexpr std::pair<std::string_view, NativeFunction> kGlobals[] = {
      {"range", range},
      {"dict", make_dict_value},
      {"namespace", make_namespace_value},
      {"cycler", make_cycler},
      {"joiner", make_joiner},
      {"raise_exception", raise_exception},
      {"strftime_now", strftime_now},
  };
  for (const auto& [candidate, native] : kGlobals) {
    if (candidate != name) continue;
    auto function = std::make_shared<FunctionObject>();
    function->name = name;
    function->native = native;
    return Value::object(Kind::kFunction, std::move(function));
  }
  return Value();
}

}  // namespace slipstream::jinja
