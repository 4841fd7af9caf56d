// Owns the tests: what may follow "is".
#include <algorithm>
#include <array>
#include <cmath>

#include "base/strings.h"
#include "text/jinja/args.h"
#include "text/jinja/operators.h"
#include "text/jinja/runtime.h"
#include "text/jinja/unicode.h"

namespace slipstream::jinja {
namespace {

const Value& operand(const char* name, const Args& args) {
  const BoundArgs bound(name, args, {"other"}, 1);
  return *bound.get(0);
}

bool is_defined(Interpreter&, const Value& self, const Args&) { return !self.is_undefined(); }
bool is_undefined(Interpreter&, const Value& self, const Args&) { return self.is_undefined(); }
bool is_none(Interpreter&, const Value& self, const Args&) { return self.is_none(); }
bool is_string(Interpreter&, const Value& self, const Args&) { return self.is_string(); }
bool is_mapping(Interpreter&, const Value& self, const Args&) { return self.is(Kind::kDict); }
bool is_boolean(Interpreter&, const Value& self, const Args&) { return self.is(Kind::kBool); }
bool is_integer(Interpreter&, const Value& self, const Args&) { return self.is(Kind::kInt); }
bool is_float(Interpreter&, const Value& self, const Args&) { return self.is(Kind::kFloat); }
bool is_number(Interpreter&, const Value& self, const Args&) { return self.is_number(); }
bool is_true(Interpreter&, const Value& self, const Args&) {
  return self.is(Kind::kBool) && self.as_bool();
}
bool is_false(Interpreter&, const Value& self, const Args&) {
  return self.is(Kind::kBool) && !self.as_bool();
}
bool is_escaped(Interpreter&, const Value& self, const Args&) { return self.is_markup(); }

bool is_iterable(Interpreter&, const Value& self, const Args&) {
  return self.is_undefined() || self.is_string() || self.is(Kind::kSequence) ||
         self.is(Kind::kDict) || self.is(Kind::kLoop);
}

// Python asks for len() and an index operator.
bool is_sequence(Interpreter&, const Value& self, const Args&) {
  if (self.is_undefined() || self.is_string() || self.is(Kind::kDict)) return true;
  if (!self.is(Kind::kSequence)) return false;
  const SequenceType type = self.sequence_object().type;
  return type == SequenceType::kList || type == SequenceType::kTuple ||
         type == SequenceType::kRange || type == SequenceType::kGroup;
}

bool is_callable(Interpreter&, const Value& self, const Args&) {
  return self.is(Kind::kFunction) || self.is(Kind::kLoop) || self.is_undefined() ||
         (self.is(Kind::kCycler) && self.cycler().is_joiner);
}

template <bool (*kWanted)(char32_t), bool (*kOther)(char32_t)>
bool has_case(Interpreter& in, const Value& self, const Args&) {
  if (!self.is_string()) return false;
  in.budget().scan(self.text().size() * 16);
  const std::u32string points = to_code_points(self.text());
  return std::any_of(points.begin(), points.end(), kWanted) &&
         std::none_of(points.begin(), points.end(), kOther);
}

Value remainder(Interpreter& in, const Value& self, int64_t divisor) {
  if (self.is_string()) raise_type_error("not all arguments converted during string formatting");
  return binary_operation(BinaryOp::kMod, self, Value::integer(divisor), in.budget());
}

bool is_odd(Interpreter& in, const Value& self, const Args&) {
  return equal(remainder(in, self, 2), Value::integer(1), in.budget());
}
bool is_even(Interpreter& in, const Value& self, const Args&) {
  return equal(remainder(in, self, 2), Value::integer(0), in.budget());
}
bool is_divisible(Interpreter& in, const Value& self, const Args& args) {
  const Value& divisor = operand("divisibleby", args);
  return equal(binary_operation(BinaryOp::kMod, self, divisor, in.budget()), Value::integer(0),
               in.budget());
}

bool is_equal(Interpreter& in, const Value& self, const Args& args) {
  return equal(self, operand("equalto", args), in.budget());
}
bool is_not_equal(Interpreter& in, const Value& self, const Args& args) {
  return !equal(self, operand("ne", args), in.budget());
}
bool is_greater(Interpreter& in, const Value& self, const Args& args) {
  return compare(self, operand("gt", args), ">", in.budget()) > 0;
}
bool is_greater_equal(Interpreter& in, const Value& self, const Args& args) {
  return compare(self, operand("ge", args), ">=", in.budget()) >= 0;
}
bool is_less(Interpreter& in, const Value& self, const Args& args) {
  return compare(self, operand("lt", args), "<", in.budget()) < 0;
}
bool is_less_equal(Interpreter& in, const Value& self, const Args& args) {
  return compare(self, operand("le", args), "<=", in.budget()) <= 0;
}
bool is_in(Interpreter& in, const Value& self, const Args& args) {
  return contains(operand("in", args), self, in.budget());
}

// Identity: the same object, or the same small constant.
bool is_same(Interpreter& in, const Value& self, const Args& args) {
  const Value& other = operand("sameas", args);
  if (self.kind() != other.kind()) return false;
  if (self.identity() != nullptr) return self.identity() == other.identity();
  return equal(self, other, in.budget());
}

bool is_filter(Interpreter&, const Value& self, const Args&) {
  return self.is_string() && find_filter(self.text()) != nullptr;
}
bool is_test(Interpreter&, const Value& self, const Args&) {
  return self.is_string() && find_test(self.text()) != nullptr;
}

constexpr auto kTests = std::to_array<std::pair<std::string_view, TestFunction>>({
    {"boolean", is_boolean},
    {"callable", is_callable},
    {"defined", is_defined},
    {"divisibleby", is_divisible},
    {"eq", is_equal},
    {"equalto", is_equal},
    {"escaped", is_escaped},
    {"even", is_even},
    {"false", is_false},
    {"filter", is_filter},
    {"float", is_float},
    {"ge", is_greater_equal},
    {"greaterthan", is_greater},
    {"gt", is_greater},
    {"in", is_in},
    {"integer", is_integer},
    {"iterable", is_iterable},
    {"le", is_less_equal},
    {"lessthan", is_less},
    {"lower", has_case<is_lower, is_upper>},
    {"lt", is_less},
    {"mapping", is_mapping},
    {"ne", is_not_equal},
    {"none", is_none},
    {"number", is_number},
    {"odd", is_odd},
    {"sameas", is_same},
    {"sequence", is_sequence},
    {"string", is_string},
    {"test", is_test},
    {"true", is_true},
    {"undefined", is_undefined},
    {"upper", has_case<is_upper, is_lower>},
    // The operator spellings, for select('==', x).
    {"==", is_equal},
    {"!=", is_not_equal},
    {">", is_greater},
    {">=", is_greater_equal},
    {"<", is_less},
    {"<=", is_less_equal},
});

}  // namespace

TestFunction find_test(const std::string& name) {
  for (const auto& [candidate, test] : kTests) {
    if (candidate == name) return test;
  }
  return nullptr;
}

}  // namespace slipstream::jinja
