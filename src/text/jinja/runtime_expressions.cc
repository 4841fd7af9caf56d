// Owns the evaluation of expressions.
#include <utility>

#include "base/strings.h"
#include "text/jinja/operators.h"
#include "text/jinja/print.h"
#include "text/jinja/runtime_internal.h"

namespace slipstream::jinja {

Value Interpreter::eval(const Expr& expr) {
  budget_.steps();
  if (expr.kind == ExprKind::kConst) return expr.constant;
  if (expr.kind == ExprKind::kName) return eval_name(expr);
  const DepthGuard depth(*this);
  switch (expr.kind) {
    case ExprKind::kList:
    case ExprKind::kTuple:
      return eval_items(expr);
    case ExprKind::kDict:
      return eval_dict(expr);
    case ExprKind::kGetAttr:
      return get_attribute(eval(*expr.children[0]), expr.constant, budget_);
    case ExprKind::kGetItem:
      return eval_subscript(expr);
    case ExprKind::kCall:
      return eval_call(expr);
    case ExprKind::kFilter:
      return apply_filter(expr, eval_filter_input(expr));
    case ExprKind::kTest:
      return eval_test(expr);
    case ExprKind::kNot:
      return Value::boolean(!eval(*expr.children[0]).truthy());
    case ExprKind::kNegate:
      return negate(eval(*expr.children[0]));
    case ExprKind::kPlus:
      return negate(negate(eval(*expr.children[0])));
    case ExprKind::kBinary: {
      const Value left = eval(*expr.children[0]);
      return binary_operation(expr.op, left, eval(*expr.children[1]), budget_);
    }
    case ExprKind::kAnd: {
      Value left = eval(*expr.children[0]);
      return left.truthy() ? eval(*expr.children[1]) : left;
    }
    case ExprKind::kOr: {
      Value left = eval(*expr.children[0]);
      return left.truthy() ? left : eval(*expr.children[1]);
    }
    case ExprKind::kConcat:
      return eval_concat(expr);
    case ExprKind::kCompare:
      return eval_compare(expr);
    case ExprKind::kCond:
      return eval_cond(expr);
    default:
      raise_type_error("a slice is only valid inside [ ]");
  }
}

Value Interpreter::eval_name(const Expr& expr) {
  if (const Value* value = lookup(expr.symbol)) return *value;
  std::string message;
  append_string_repr(message, program_.symbols[static_cast<size_t>(expr.symbol)]);
  return Value::undefined(message + " is undefined");
}

Value Interpreter::eval_items(const Expr& expr) {
  budget_.produce(expr.children.size() * sizeof(Value));
  ValueList items;
  items.reserve(expr.children.size());
  for (const ExprPtr& child : expr.children) items.push_back(eval(*child));
  return expr.kind == ExprKind::kList ? Value::list(std::move(items))
                                      : Value::tuple(std::move(items));
}

Value Interpreter::eval_dict(const Expr& expr) {
  budget_.produce(expr.children.size() * sizeof(Value) + sizeof(DictObject));
  auto dict = std::make_shared<DictObject>();
  for (size_t k = 0; k + 1 < expr.children.size(); k += 2) {
    Value key = eval(*expr.children[k]);
    dict->set(std::move(key), eval(*expr.children[k + 1]), budget_);
  }
  return make_dict(std::move(dict));
}

Value Interpreter::eval_slice(const Value& object, const Expr& slice) {
  Slice bounds;
  std::optional<int64_t>* const slots[] = {&bounds.start, &bounds.stop, &bounds.step};
  for (size_t k = 0; k < 3; ++k) {
    if (!slice.children[k]) continue;
    const Value value = eval(*slice.children[k]);
    if (value.is_none()) continue;
    if (!value.is_integral()) {
      if (object.is_undefined()) object.raise_undefined();
      return Value::undefined(str("'", type_name(object), " object' has no such slice"));
    }
    *slots[k] = value.as_int();
  }
  return slice_value(object, bounds, budget_);
}

Value Interpreter::eval_subscript(const Expr& expr) {
  const Value object = eval(*expr.children[0]);
  const Expr& key = *expr.children[1];
  if (key.kind == ExprKind::kSlice) return eval_slice(object, key);
  return get_item(object, eval(key), budget_);
}

Args Interpreter::eval_arguments(const Expr& expr) {
  Args args;
  args.positional.reserve(expr.children.size());
  for (size_t k = 1; k < expr.children.size(); ++k) {
    args.positional.push_back(eval(*expr.children[k]));
  }
  for (const auto& [name, value] : expr.keywords) args.keywords.emplace_back(name, eval(*value));
  if (expr.star_args) {
    for (Value& value : iterate(eval(*expr.star_args), budget_)) {
      args.positional.push_back(std::move(value));
    }
  }
  if (!expr.star_keywords) return args;
  const Value extra = eval(*expr.star_keywords);
  if (!extra.is(Kind::kDict)) raise_type_error("argument after ** must be a mapping");
  for (const auto& [name, value] : extra.dict().entries) {
    budget_.steps();
    if (!name.is_string()) raise_type_error("keywords must be strings");
    args.keywords.emplace_back(name.text(), value);
  }
  return args;
}

Value Interpreter::eval_call(const Expr& expr) {
  budget_.call();
  const Expr& callee_expr = *expr.children[0];
  if (callee_expr.kind == ExprKind::kGetAttr) {
    // The usual "object.method(...)" needs no bound method in between.
    const Value object = eval(*callee_expr.children[0]);
    const NativeFunction method =
        object.is_undefined() ? nullptr : find_method(object, callee_expr.name);
    if (method != nullptr) return method(*this, object, eval_arguments(expr));
    const Value callee = get_attribute(object, callee_expr.constant, budget_);
    return call(callee, eval_arguments(expr));
  }
  const Value callee = eval(callee_expr);
  return call(callee, eval_arguments(expr));
}

// The innermost filter of a block's chain has no operand: it takes the block's text.
Value Interpreter::eval_filter_input(const Expr& expr) {
  return expr.children[0] ? eval(*expr.children[0]) : block_text_;
}

Value Interpreter::eval_block_filter(const Expr& expr, std::string text) {
  const Value outer = std::exchange(block_text_, Value::string(std::move(text)));
  Value value = eval(expr);
  block_text_ = outer;
  return value;
}

Value Interpreter::apply_filter(const Expr& expr, const Value& input) {
  if (expr.filter == nullptr) {
    raise(ErrorKind::kRuntimeError, str("No filter named ", quote(expr.name), " found."));
  }
  budget_.call();
  return expr.filter(*this, input, eval_arguments(expr));
}

Value Interpreter::eval_test(const Expr& expr) {
  if (expr.test == nullptr) {
    raise(ErrorKind::kRuntimeError, str("No test named ", quote(expr.name), " found."));
  }
  const Value subject = eval(*expr.children[0]);
  return Value::boolean(expr.test(*this, subject, eval_arguments(expr)));
}

Value Interpreter::eval_concat(const Expr& expr) {
  std::string text;
  for (const ExprPtr& child : expr.children) append_str(text, eval(*child), budget_);
  return Value::string(std::move(text));
}

bool Interpreter::compare_once(CompareOp op, const Value& a, const Value& b) {
  switch (op) {
    case CompareOp::kEq:
      return equal(a, b, budget_);
    case CompareOp::kNe:
      return !equal(a, b, budget_);
    case CompareOp::kLt:
      return compare(a, b, "<", budget_) < 0;
    case CompareOp::kLe:
      return compare(a, b, "<=", budget_) <= 0;
    case CompareOp::kGt:
      return compare(a, b, ">", budget_) > 0;
    case CompareOp::kGe:
      return compare(a, b, ">=", budget_) >= 0;
    case CompareOp::kIn:
      return contains(b, a, budget_);
    case CompareOp::kNotIn:
      return !contains(b, a, budget_);
  }
  return false;
}

Value Interpreter::eval_compare(const Expr& expr) {
  Value left = eval(*expr.children[0]);
  for (size_t k = 0; k < expr.compare_ops.size(); ++k) {
    Value right = eval(*expr.children[k + 1]);
    if (!compare_once(expr.compare_ops[k], left, right)) return Value::boolean(false);
    left = std::move(right);
  }
  return Value::boolean(true);
}

Value Interpreter::eval_cond(const Expr& expr) {
  if (eval(*expr.children[0]).truthy()) return eval(*expr.children[1]);
  if (expr.children[2]) return eval(*expr.children[2]);
  return Value::undefined(
      "the inline if-expression evaluated to false and no else section was defined.");
}

}  // namespace slipstream::jinja
