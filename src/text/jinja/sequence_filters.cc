// Owns the filters over sequences. Where Python returns a lazy generator, the elements are
// computed at once and the result still behaves as a generator: one pass, no length, no JSON.
#include <algorithm>

#include "base/strings.h"
#include "text/jinja/args.h"
#include "text/jinja/ast.h"
#include "text/jinja/filters.h"
#include "text/jinja/operators.h"
#include "text/jinja/print.h"
#include "text/jinja/runtime.h"
#include "text/jinja/string_functions.h"
#include "text/jinja/unicode.h"

namespace slipstream::jinja {
namespace {

// "a.0.b" or an integer: the path from an element to the value a filter works on.
class AttributePath {
 public:
  AttributePath(const Value* attribute, Budget& budget) : budget_(budget) {
    if (attribute == nullptr || attribute->is_none()) return;
    if (!attribute->is_string()) {
      parts_.push_back(*attribute);
      return;
    }
    const auto num_dots = std::count(attribute->text().begin(), attribute->text().end(), '.');
    budget.produce(attribute->text().size() * 2);
    budget.produce(static_cast<uint64_t>(num_dots) * (sizeof(Value) + sizeof(StringObject)));
    for (const std::string& part : slipstream::split(attribute->text(), '.')) {
      const bool number = !part.empty() && part.size() < 10 &&
                          part.find_first_not_of("0123456789") == std::string::npos;
      parts_.push_back(number ? Value::integer(std::stoll(part)) : Value::string(part));
    }
  }

  bool empty() const { return parts_.empty(); }

  Value get(const Value& item, const Value* fallback = nullptr) const {
    Value value = item;
    for (const Value& part : parts_) {
      budget_.steps();
      value = get_item(value, part, budget_);
      if (value.is_undefined() && fallback != nullptr) value = *fallback;
    }
    return value;
  }

 private:
  Budget& budget_;
  ValueList parts_;
};

Value ignore_case(const Value& value, bool case_sensitive, Budget& budget) {
  if (case_sensitive || !value.is_string()) return value;
  budget.produce(value.text().size());
  return Value::string(to_lower(value.text()));
}

// Several attributes may be named, separated by commas; then the key is a list.
ValueList sort_keys(const ValueList& items, const Value* attribute, bool case_sensitive,
                    Budget& budget) {
  std::vector<AttributePath> paths;
  if (attribute != nullptr && attribute->is_string()) {
    const auto num_dots = std::count(attribute->text().begin(), attribute->text().end(), '.');
    budget.produce(attribute->text().size() * 2);
    budget.produce(static_cast<uint64_t>(num_dots) * (sizeof(Value) + sizeof(StringObject)));
    for (const std::string& part : slipstream::split(attribute->text(), ',')) {
      const Value name = Value::string(part);
      paths.emplace_back(&name, budget);
    }
  } else {
    paths.emplace_back(attribute, budget);
  }
  ValueList keys;
  keys.reserve(items.size());
  for (const Value& item : items) {
    ValueList key;
    for (const AttributePath& path : paths) {
      key.push_back(ignore_case(path.get(item), case_sensitive, budget));
    }
    keys.push_back(key.size() == 1 ? key[0] : Value::list(std::move(key)));
  }
  return keys;
}

ValueList sorted(const ValueList& items, const ValueList& keys, bool reverse, Budget& budget) {
  std::vector<size_t> order(items.size());
  for (size_t k = 0; k < order.size(); ++k) order[k] = k;
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return reverse ? compare(keys[b], keys[a], "<", budget) < 0
                   : compare(keys[a], keys[b], "<", budget) < 0;
  });
  ValueList out;
  out.reserve(items.size());
  for (size_t k : order) out.push_back(items[k]);
  return out;
}

Value generator(const char* function, ValueList items) {
  return Value::generator(std::move(items), str("<generator object ", function, ">"));
}

Args rest_of(const Args& args, size_t skipped) {
  Args out;
  for (size_t k = skipped; k < args.positional.size(); ++k) {
    out.positional.push_back(args.positional[k]);
  }
  out.keywords = args.keywords;
  return out;
}

TestFunction named_test(const Value& name) {
  TestFunction test = name.is_string() ? find_test(name.text()) : nullptr;
  if (test == nullptr) {
    raise(ErrorKind::kRuntimeError,
          str("No test named ", quote(name.is_string() ? name.text() : type_name(name)), "."));
  }
  return test;
}

// select, reject, selectattr, rejectattr: [attribute,] [test, arguments ...].
Value choose(Interpreter& in, const Value& self, const Args& args, bool by_attribute, bool wanted) {
  if (!self.truthy()) return generator("select_or_reject", {});  // None and 0 too, as jinja2
  const size_t test_at = by_attribute ? 1 : 0;
  if (by_attribute && args.positional.empty()) {
    raise(ErrorKind::kRuntimeError, "Missing parameter for attribute name");
  }
  const AttributePath path(by_attribute ? &args.positional[0] : nullptr, in.budget());
  const bool has_test = args.positional.size() > test_at;
  const TestFunction test = has_test ? named_test(args.positional[test_at]) : nullptr;
  const Args test_args = rest_of(args, test_at + 1);
  ValueList kept;
  for (const Value& item : iterate(self, in.budget())) {
    in.budget().steps();
    const Value subject = path.get(item);
    const bool holds = has_test ? test(in, subject, test_args) : subject.truthy();
    if (holds == wanted) kept.push_back(item);
  }
  return generator("select_or_reject", std::move(kept));
}

Value extreme(const char* name, Interpreter& in, const Value& self, const Args& args,
              bool largest) {
  const BoundArgs bound(name, args, {"case_sensitive", "attribute"});
  const ValueList items = iterate(self, in.budget());
  if (items.empty()) return Value::undefined("No aggregated item, sequence was empty.");
  const AttributePath path(bound.get(1), in.budget());
  const bool case_sensitive = bound.truthy(0, false);
  size_t best = 0;
  Value best_key = ignore_case(path.get(items[0]), case_sensitive, in.budget());
  for (size_t k = 1; k < items.size(); ++k) {
    Value key = ignore_case(path.get(items[k]), case_sensitive, in.budget());
    const int order = compare(key, best_key, largest ? ">" : "<", in.budget());
    if (largest ? order > 0 : order < 0) {
      best = k;
      best_key = std::move(key);
    }
  }
  return items[best];
}

}  // namespace

Value filter_select(Interpreter& in, const Value& self, const Args& args) {
  return choose(in, self, args, false, true);
}
Value filter_reject(Interpreter& in, const Value& self, const Args& args) {
  return choose(in, self, args, false, false);
}
Value filter_selectattr(Interpreter& in, const Value& self, const Args& args) {
  return choose(in, self, args, true, true);
}
Value filter_rejectattr(Interpreter& in, const Value& self, const Args& args) {
  return choose(in, self, args, true, false);
}

Value filter_map(Interpreter& in, const Value& self, const Args& args) {
  if (!self.truthy()) return generator("sync_do_map", {});  // None and 0 too, as jinja2
  ValueList out;
  const auto attribute =
      std::find_if(args.keywords.begin(), args.keywords.end(),
                   [](const auto& keyword) { return keyword.first == "attribute"; });
  if (args.positional.empty() && attribute != args.keywords.end()) {
    const BoundArgs bound("map", args, {"attribute", "default"});
    const AttributePath path(bound.get(0), in.budget());
    for (const Value& item : iterate(self, in.budget())) {
      out.push_back(path.get(item, bound.get(1)));
    }
    return generator("sync_do_map", std::move(out));
  }
  if (args.positional.empty() || !args.positional[0].is_string()) {
    raise(ErrorKind::kRuntimeError, "map requires a filter argument");
  }
  const std::string& name = args.positional[0].text();
  const FilterFunction filter = find_filter(name);
  if (filter == nullptr) {
    raise(ErrorKind::kRuntimeError, str("No filter named ", quote(name), "."));
  }
  // A filter may map over a filter that maps ...: call() counts the depth.
  auto function = std::make_shared<FunctionObject>();
  function->name = name;
  function->native = filter;
  const Args filter_args = rest_of(args, 1);
  for (const Value& item : iterate(self, in.budget())) {
    function->self = item;
    out.push_back(in.call(Value::object(Kind::kFunction, function), filter_args));
  }
  return generator("sync_do_map", std::move(out));
}

Value filter_join(Interpreter& in, const Value& self, const Args& args) {
  const BoundArgs bound("join", args, {"d", "attribute"});
  const std::string separator = bound.get(0) == nullptr ? "" : to_str(*bound.get(0), in.budget());
  const AttributePath path(bound.get(1), in.budget());
  std::string out;
  bool first = true;
  for (const Value& item : iterate(self, in.budget())) {
    if (!first) {
      in.budget().produce(separator.size());
      out += separator;
    }
    first = false;
    append_str(out, path.empty() ? item : path.get(item), in.budget());
  }
  return Value::string(std::move(out));
}

Value filter_list(Interpreter& in, const Value& self, const Args& args) {
  const BoundArgs bound("list", args, {});
  return Value::list(iterate(self, in.budget()));
}

Value filter_first(Interpreter& in, const Value& self, const Args& args) {
  const BoundArgs bound("first", args, {});
  const ValueList items = iterate(self, in.budget());
  return items.empty() ? Value::undefined("No first item, sequence was empty.") : items.front();
}

Value filter_last(Interpreter& in, const Value& self, const Args& args) {
  const BoundArgs bound("last", args, {});
  if (self.is_sequence(SequenceType::kGenerator)) {
    raise_type_error("'generator' object is not reversible");
  }
  const ValueList items = iterate(self, in.budget());
  return items.empty() ? Value::undefined("No last item, sequence was empty.") : items.back();
}

Value filter_items(Interpreter& in, const Value& self, const Args& args) {
  const BoundArgs bound("items", args, {});
  if (self.is_undefined()) return generator("do_items", {});
  if (!self.is(Kind::kDict)) raise_type_error("Can only get item pairs from a mapping.");
  ValueList out;
  in.budget().produce(self.dict().entries.size() * sizeof(Value) * 3);
  for (const auto& [key, value] : self.dict().entries) out.push_back(Value::tuple({key, value}));
  return generator("do_items", std::move(out));
}

Value filter_dictsort(Interpreter& in, const Value& self, const Args& args) {
  const BoundArgs bound("dictsort", args, {"case_sensitive", "by", "reverse"});
  const std::string by = bound.get(1) == nullptr ? "key" : bound.text(1);
  if (by != "key" && by != "value") {
    raise(ErrorKind::kRuntimeError, "You can only sort by either \"key\" or \"value\"");
  }
  if (self.is_undefined()) self.raise_undefined();
  if (!self.is(Kind::kDict)) {
    raise(ErrorKind::kUndefinedError,
          str("'", type_name(self), " object' has no attribute 'items'"));
  }
  ValueList items;
  ValueList keys;
  for (const auto& [key, value] : self.dict().entries) {
    in.budget().produce(3 * sizeof(Value));
    items.push_back(Value::tuple({key, value}));
    keys.push_back(ignore_case(by == "key" ? key : value, bound.truthy(0, false), in.budget()));
  }
  return Value::list(sorted(items, keys, bound.truthy(2, false), in.budget()));
}

Value filter_sort(Interpreter& in, const Value& self, const Args& args) {
  const BoundArgs bound("sort", args, {"reverse", "case_sensitive", "attribute"});
  const ValueList items = iterate(self, in.budget());
  const ValueList keys = sort_keys(items, bound.get_some(2), bound.truthy(1, false), in.budget());
  return Value::list(sorted(items, keys, bound.truthy(0, false), in.budget()));
}

Value filter_unique(Interpreter& in, const Value& self, const Args& args) {
  const BoundArgs bound("unique", args, {"case_sensitive", "attribute"});
  const AttributePath path(bound.get(1), in.budget());
  DictObject seen;
  ValueList out;
  for (const Value& item : iterate(self, in.budget())) {
    Value key = ignore_case(path.get(item), bound.truthy(0, false), in.budget());
    in.budget().produce(2 * sizeof(Value));
    if (seen.find(key, in.budget()) != nullptr) continue;
    seen.set(std::move(key), Value::none(), in.budget());
    out.push_back(item);
  }
  return generator("do_unique", std::move(out));
}

Value filter_min(Interpreter& in, const Value& self, const Args& args) {
  return extreme("min", in, self, args, false);
}
Value filter_max(Interpreter& in, const Value& self, const Args& args) {
  return extreme("max", in, self, args, true);
}

Value filter_sum(Interpreter& in, const Value& self, const Args& args) {
  const BoundArgs bound("sum", args, {"attribute", "start"});
  const AttributePath path(bound.get(0), in.budget());
  Value total = bound.get(1) == nullptr ? Value::integer(0) : *bound.get(1);
  if (total.is_string()) raise_type_error("sum() can't sum strings [use ''.join(seq) instead]");
  for (const Value& item : iterate(self, in.budget())) {
    total = binary_operation(BinaryOp::kAdd, total, path.get(item), in.budget());
  }
  return total;
}

Value filter_reverse(Interpreter& in, const Value& self, const Args& args) {
  const BoundArgs bound("reverse", args, {});
  ValueList items = iterate(self, in.budget());
  std::reverse(items.begin(), items.end());
  if (!self.is_string()) {
    return Value::generator(std::move(items), "<list_reverseiterator object>");
  }
  std::string out;
  for (const Value& item : items) out += item.text();
  return same_kind(self, std::move(out));
}

Value filter_batch(Interpreter& in, const Value& self, const Args& args) {
  const BoundArgs bound("batch", args, {"linecount", "fill_with"}, 1);
  const int64_t size = bound.integer(0, 1);
  ValueList out;
  ValueList row;
  for (Value& item : iterate(self, in.budget())) {
    if (static_cast<int64_t>(row.size()) == size) {
      out.push_back(Value::list(std::exchange(row, {})));
    }
    row.push_back(std::move(item));
  }
  if (!row.empty()) {
    const Value* fill = bound.get_some(1);
    while (fill != nullptr && static_cast<int64_t>(row.size()) < size) {
      in.budget().produce(sizeof(Value));
      row.push_back(*fill);
    }
    out.push_back(Value::list(std::move(row)));
  }
  return generator("do_batch", std::move(out));
}

Value filter_slice(Interpreter& in, const Value& self, const Args& args) {
  const BoundArgs bound("slice", args, {"slices", "fill_with"}, 1);
  const int64_t num_slices = bound.integer(0, 1);
  if (num_slices == 0) raise(ErrorKind::kZeroDivisionError, "integer division or modulo by zero");
  const ValueList items = iterate(self, in.budget());
  ValueList out;
  const auto length = static_cast<int64_t>(items.size());
  size_t position = 0;
  for (int64_t k = 0; k < num_slices; ++k) {
    in.budget().produce(sizeof(Value) + sizeof(SequenceObject));
    const bool longer = k < length % num_slices;
    ValueList column;
    for (int64_t row = 0; row < length / num_slices + longer; ++row) {
      column.push_back(items[position++]);
    }
    if (bound.get_some(1) != nullptr && !longer && length % num_slices != 0) {
      column.push_back(*bound.get(1));
    }
    out.push_back(Value::list(std::move(column)));
  }
  return generator("do_slice", std::move(out));
}

Value filter_groupby(Interpreter& in, const Value& self, const Args& args) {
  const BoundArgs bound("groupby", args, {"attribute", "default", "case_sensitive"}, 1);
  const AttributePath path(bound.get(0), in.budget());
  const bool case_sensitive = bound.truthy(2, false);
  const ValueList items = iterate(self, in.budget());
  ValueList keys;
  for (const Value& item : items) {
    keys.push_back(ignore_case(path.get(item, bound.get(1)), case_sensitive, in.budget()));
  }
  const ValueList ordered = sorted(items, keys, false, in.budget());
  const ValueList ordered_keys = sorted(keys, keys, false, in.budget());
  ValueList out;
  for (size_t k = 0; k < ordered.size();) {
    const size_t begin = k;
    ValueList members;
    while (k < ordered.size() && equal(ordered_keys[k], ordered_keys[begin], in.budget())) {
      members.push_back(ordered[k++]);
    }
    out.push_back(Value::sequence(SequenceType::kGroup, {path.get(ordered[begin], bound.get(1)),
                                                         Value::list(std::move(members))}));
  }
  return Value::list(std::move(out));
}

}  // namespace slipstream::jinja
