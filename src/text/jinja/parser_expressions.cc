// Owns expression parsing, in jinja2's order of precedence from "if" down to literals.
#include <algorithm>

#include "base/strings.h"
#include "text/jinja/parser_internal.h"

namespace slipstream::jinja {

ExprPtr Parser::make_expr(ExprKind kind, int line) {
  auto expr = std::make_unique<Expr>();
  expr->kind = kind;
  expr->line = line;
  return expr;
}

ExprPtr Parser::finish(ExprPtr expr) const {
  int height = 0;
  const auto include = [&height](const ExprPtr& child) {
    if (child) height = std::max(height, child->height);
  };
  for (const ExprPtr& child : expr->children) include(child);
  for (const auto& [name, child] : expr->keywords) include(child);
  include(expr->star_args);
  include(expr->star_keywords);
  expr->height = height + 1;
  if (expr->height > 3 * limits_.max_nesting) fail("an expression is too long", expr->line);
  return expr;
}

ExprPtr Parser::make_pair(ExprKind kind, ExprPtr left, ExprPtr right) const {
  ExprPtr expr = make_expr(kind, left->line);
  expr->children.push_back(std::move(left));
  expr->children.push_back(std::move(right));
  return finish(std::move(expr));
}

ExprPtr Parser::make_binary(BinaryOp op, ExprPtr left, ExprPtr right) const {
  ExprPtr expr = make_pair(ExprKind::kBinary, std::move(left), std::move(right));
  expr->op = op;
  return expr;
}

ExprPtr Parser::parse_target(const TupleRules& rules) {
  TupleRules target_rules = rules;
  target_rules.simplified = true;
  ExprPtr target = parse_tuple(target_rules);
  std::vector<const Expr*> open = {target.get()};
  while (!open.empty()) {
    const Expr* expr = open.back();
    open.pop_back();
    const bool assignable = expr->kind == ExprKind::kName || expr->kind == ExprKind::kTuple ||
                            expr->kind == ExprKind::kNsRef;
    if (!assignable) fail("can't assign to this expression", expr->line);
    for (const ExprPtr& child : expr->children) open.push_back(child.get());
  }
  return target;
}

bool Parser::at_tuple_end(const TupleRules& rules) const {
  const Token& token = peek();
  if (token.type == TokenType::kVariableEnd || token.type == TokenType::kBlockEnd) return true;
  if (token.is_operator(")")) return true;
  return !rules.end_name.empty() && token.is_name(rules.end_name);
}

ExprPtr Parser::parse_tuple(const TupleRules& rules) {
  const int line = peek().line;
  std::vector<ExprPtr> items;
  bool is_tuple = false;
  while (true) {
    if (!items.empty()) expect_operator(",");
    if (at_tuple_end(rules)) break;
    if (rules.simplified) {
      items.push_back(parse_primary(rules.namespaces));
    } else {
      items.push_back(rules.conditional ? parse_expression() : parse_or());
    }
    if (!peek().is_operator(",")) break;
    is_tuple = true;
  }
  if (!is_tuple) {
    if (!items.empty()) return std::move(items[0]);
    if (!rules.parenthesized) {
      fail(str("Expected an expression, got ", quote(describe(peek()))), peek().line);
    }
  }
  ExprPtr tuple = make_expr(ExprKind::kTuple, line);
  tuple->children = std::move(items);
  return finish(std::move(tuple));
}

ExprPtr Parser::parse_expression() {
  const Nesting nesting(*this);
  const size_t unknown_before = unknown_.size();
  ExprPtr expr = parse_or();
  while (skip_name("if")) {
    ExprPtr condition = parse_or();
    ExprPtr otherwise = skip_name("else") ? parse_expression() : nullptr;
    ExprPtr cond = make_expr(ExprKind::kCond, expr->line);
    cond->children.push_back(std::move(condition));
    cond->children.push_back(std::move(expr));
    cond->children.push_back(std::move(otherwise));
    expr = finish(std::move(cond));
    unknown_.resize(std::min(unknown_before, unknown_.size()));
  }
  return expr;
}

ExprPtr Parser::parse_or() {
  ExprPtr left = parse_and();
  while (skip_name("or")) left = make_pair(ExprKind::kOr, std::move(left), parse_and());
  return left;
}

ExprPtr Parser::parse_and() {
  ExprPtr left = parse_not();
  while (skip_name("and")) left = make_pair(ExprKind::kAnd, std::move(left), parse_not());
  return left;
}

ExprPtr Parser::parse_not() {
  if (!peek().is_name("not")) return parse_compare();
  const Nesting nesting(*this);
  ExprPtr expr = make_expr(ExprKind::kNot, next().line);
  expr->children.push_back(parse_not());
  return finish(std::move(expr));
}

bool Parser::take_compare_op(CompareOp& op) {
  static constexpr std::pair<std::string_view, CompareOp> kOps[] = {
      {"==", CompareOp::kEq}, {"!=", CompareOp::kNe}, {"<", CompareOp::kLt},
      {"<=", CompareOp::kLe}, {">", CompareOp::kGt},  {">=", CompareOp::kGe}};
  for (const auto& [text, candidate] : kOps) {
    if (skip_operator(text)) {
      op = candidate;
      return true;
    }
  }
  if (skip_name("in")) {
    op = CompareOp::kIn;
    return true;
  }
  if (peek().is_name("not") && look(1).is_name("in")) {
    next();
    next();
    op = CompareOp::kNotIn;
    return true;
  }
  return false;
}

ExprPtr Parser::parse_compare() {
  ExprPtr first = parse_sum();
  CompareOp op = CompareOp::kEq;
  if (!take_compare_op(op)) return first;
  ExprPtr expr = make_expr(ExprKind::kCompare, first->line);
  expr->children.push_back(std::move(first));
  do {
    expr->compare_ops.push_back(op);
    expr->children.push_back(parse_sum());
  } while (take_compare_op(op));
  return finish(std::move(expr));
}

ExprPtr Parser::parse_sum() {
  ExprPtr left = parse_concat();
  while (true) {
    if (skip_operator("+")) {
      left = make_binary(BinaryOp::kAdd, std::move(left), parse_concat());
    } else if (skip_operator("-")) {
      left = make_binary(BinaryOp::kSub, std::move(left), parse_concat());
    } else {
      return left;
    }
  }
}

ExprPtr Parser::parse_concat() {
  ExprPtr first = parse_product();
  if (!peek().is_operator("~")) return first;
  ExprPtr expr = make_expr(ExprKind::kConcat, first->line);
  expr->children.push_back(std::move(first));
  while (skip_operator("~")) expr->children.push_back(parse_product());
  return finish(std::move(expr));
}

ExprPtr Parser::parse_product() {
  ExprPtr left = parse_power();
  while (true) {
    if (skip_operator("*")) {
      left = make_binary(BinaryOp::kMul, std::move(left), parse_power());
    } else if (skip_operator("/")) {
      left = make_binary(BinaryOp::kDiv, std::move(left), parse_power());
    } else if (skip_operator("//")) {
      left = make_binary(BinaryOp::kFloorDiv, std::move(left), parse_power());
    } else if (skip_operator("%")) {
      left = make_binary(BinaryOp::kMod, std::move(left), parse_power());
    } else {
      return left;
    }
  }
}

ExprPtr Parser::parse_power() {
  ExprPtr left = parse_unary(true);
  while (skip_operator("**")) {
    left = make_binary(BinaryOp::kPow, std::move(left), parse_unary(true));
  }
  return left;
}

ExprPtr Parser::parse_unary(bool with_filters) {
  const bool minus = peek().is_operator("-");
  ExprPtr expr;
  if (minus || peek().is_operator("+")) {
    const Nesting nesting(*this);
    expr = make_expr(minus ? ExprKind::kNegate : ExprKind::kPlus, next().line);
    expr->children.push_back(parse_unary(false));
    expr = finish(std::move(expr));
  } else {
    expr = parse_primary(false);
  }
  expr = parse_postfix(std::move(expr));
  return with_filters ? parse_filter_chain(std::move(expr)) : std::move(expr);
}

ExprPtr Parser::parse_name(const Token& token, bool namespaces) {
  ExprPtr expr = make_expr(ExprKind::kConst, token.line);
  if (token.text == "true" || token.text == "True") {
    expr->constant = Value::boolean(true);
  } else if (token.text == "false" || token.text == "False") {
    expr->constant = Value::boolean(false);
  } else if (token.text == "none" || token.text == "None") {
    expr->constant = Value::none();
  } else {
    expr->kind = ExprKind::kName;
    expr->symbol = symbol(token.text);
    const auto slot = static_cast<size_t>(expr->symbol);
    if (slot >= used_symbols_.size()) used_symbols_.resize(slot + 1);
    used_symbols_[slot] = true;
    if (namespaces && skip_operator(".")) {
      expr->kind = ExprKind::kNsRef;
      expr->name = expect_name();
    }
  }
  return expr;
}

ExprPtr Parser::parse_primary(bool namespaces) {
  const Token token = peek();
  if (token.type == TokenType::kName) return parse_name(next(), namespaces);
  if (token.is_operator("[")) return parse_list();
  if (token.is_operator("{")) return parse_dict();
  if (token.is_operator("(")) {
    const Nesting nesting(*this);
    next();
    ExprPtr expr = parse_tuple({.parenthesized = true});
    expect_operator(")");
    return expr;
  }
  ExprPtr expr = make_expr(ExprKind::kConst, token.line);
  if (token.type == TokenType::kString) {
    std::string text;
    while (peek().type == TokenType::kString) text += next().text;
    expr->constant = Value::string(std::move(text));
  } else if (token.type == TokenType::kInteger) {
    expr->constant = Value::integer(next().integer);
  } else if (token.type == TokenType::kFloat) {
    expr->constant = Value::number(next().number);
  } else {
    fail(str("unexpected ", quote(describe(token))), token.line);
  }
  return expr;
}

ExprPtr Parser::parse_list() {
  ExprPtr expr = make_expr(ExprKind::kList, next().line);
  while (!peek().is_operator("]")) {
    if (!expr->children.empty()) expect_operator(",");
    if (peek().is_operator("]")) break;
    expr->children.push_back(parse_expression());
  }
  expect_operator("]");
  return finish(std::move(expr));
}

ExprPtr Parser::parse_dict() {
  ExprPtr expr = make_expr(ExprKind::kDict, next().line);
  while (!peek().is_operator("}")) {
    if (!expr->children.empty()) expect_operator(",");
    if (peek().is_operator("}")) break;
    expr->children.push_back(parse_expression());
    expect_operator(":");
    expr->children.push_back(parse_expression());
  }
  expect_operator("}");
  return finish(std::move(expr));
}

ExprPtr Parser::parse_postfix(ExprPtr expr) {
  while (true) {
    if (peek().is_operator(".") || peek().is_operator("[")) {
      expr = parse_subscript(std::move(expr));
    } else if (peek().is_operator("(")) {
      expr = parse_call(std::move(expr));
    } else {
      return expr;
    }
  }
}

ExprPtr Parser::parse_subscript(ExprPtr object) {
  const Token token = next();
  if (token.text == ".") {
    const Token attribute = next();
    if (attribute.type == TokenType::kName) {
      ExprPtr expr = make_expr(ExprKind::kGetAttr, token.line);
      expr->name = attribute.text;
      expr->constant = Value::string(attribute.text);
      expr->children.push_back(std::move(object));
      return finish(std::move(expr));
    }
    if (attribute.type != TokenType::kInteger) fail("expected name or number", attribute.line);
    ExprPtr index = make_expr(ExprKind::kConst, token.line);
    index->constant = Value::integer(attribute.integer);
    return make_pair(ExprKind::kGetItem, std::move(object), std::move(index));
  }
  std::vector<ExprPtr> items;
  while (!peek().is_operator("]")) {
    if (!items.empty()) expect_operator(",");
    items.push_back(parse_subscribed());
  }
  expect_operator("]");
  if (items.size() == 1) {
    return make_pair(ExprKind::kGetItem, std::move(object), std::move(items[0]));
  }
  ExprPtr tuple = make_expr(ExprKind::kTuple, token.line);
  tuple->children = std::move(items);
  return make_pair(ExprKind::kGetItem, std::move(object), finish(std::move(tuple)));
}

ExprPtr Parser::parse_subscribed() {
  const auto ends = [this] { return peek().is_operator("]") || peek().is_operator(","); };
  ExprPtr start = peek().is_operator(":") ? nullptr : parse_expression();
  if (start && !peek().is_operator(":")) return start;
  ExprPtr slice = make_expr(ExprKind::kSlice, next().line);
  slice->children.push_back(std::move(start));
  const bool has_stop = !ends() && !peek().is_operator(":");
  slice->children.push_back(has_stop ? parse_expression() : nullptr);
  const bool has_step = skip_operator(":") && !ends();
  slice->children.push_back(has_step ? parse_expression() : nullptr);
  return finish(std::move(slice));
}

CallArguments Parser::parse_arguments() {
  const int line = peek().line;
  CallArguments arguments;
  const auto ensure = [&](bool valid) {
    if (!valid) fail("invalid syntax for function call expression", line);
  };
  expect_operator("(");
  bool first = true;
  while (!peek().is_operator(")")) {
    if (!first) expect_operator(",");
    first = false;
    if (peek().is_operator(")")) break;
    if (skip_operator("*")) {
      ensure(!arguments.star_args && !arguments.star_keywords);
      arguments.star_args = parse_expression();
    } else if (skip_operator("**")) {
      ensure(!arguments.star_keywords);
      arguments.star_keywords = parse_expression();
    } else if (peek().type == TokenType::kName && look(1).is_operator("=")) {
      ensure(!arguments.star_keywords);
      std::string name = next().text;
      next();
      arguments.keywords.emplace_back(std::move(name), parse_expression());
    } else {
      ensure(!arguments.star_args && !arguments.star_keywords && arguments.keywords.empty());
      arguments.positional.push_back(parse_expression());
    }
  }
  expect_operator(")");
  return arguments;
}

void Parser::add_arguments(Expr& expr, CallArguments arguments) const {
  for (ExprPtr& argument : arguments.positional) expr.children.push_back(std::move(argument));
  expr.keywords = std::move(arguments.keywords);
  expr.star_args = std::move(arguments.star_args);
  expr.star_keywords = std::move(arguments.star_keywords);
}

ExprPtr Parser::parse_call(ExprPtr callee) {
  ExprPtr expr = make_expr(ExprKind::kCall, peek().line);
  expr->children.push_back(std::move(callee));
  add_arguments(*expr, parse_arguments());
  return finish(std::move(expr));
}

ExprPtr Parser::parse_filter_chain(ExprPtr expr) {
  while (true) {
    if (skip_operator("|")) {
      expr = parse_filter(std::move(expr));
    } else if (skip_name("is")) {
      expr = parse_test(std::move(expr));
    } else if (peek().is_operator("(")) {
      expr = parse_call(std::move(expr));
    } else {
      return expr;
    }
  }
}

ExprPtr Parser::parse_filters(ExprPtr expr) {
  while (skip_operator("|")) expr = parse_filter(std::move(expr));
  return expr;
}

ExprPtr Parser::parse_filter(ExprPtr input) {
  ExprPtr expr = make_expr(ExprKind::kFilter, peek().line);
  expr->name = expect_name();
  while (skip_operator(".")) expr->name.append(1, '.').append(expect_name());
  expr->filter = find_filter(expr->name);
  expr->children.push_back(std::move(input));
  if (peek().is_operator("(")) add_arguments(*expr, parse_arguments());
  if (expr->filter == nullptr && !soft_) {
    unknown_.push_back({str("No filter named ", quote(expr->name), " found."), expr->line});
  }
  return finish(std::move(expr));
}

ExprPtr Parser::parse_test(ExprPtr subject) {
  const bool negated = skip_name("not");
  ExprPtr expr = make_expr(ExprKind::kTest, peek().line);
  expr->name = expect_name();
  while (skip_operator(".")) expr->name.append(1, '.').append(expect_name());
  expr->test = find_test(expr->name);
  expr->children.push_back(std::move(subject));
  const Token& token = peek();
  const bool literal = token.type == TokenType::kName || token.type == TokenType::kString ||
                       token.type == TokenType::kInteger || token.type == TokenType::kFloat ||
                       token.is_operator("[") || token.is_operator("{");
  const bool operand =
      literal && !token.is_name("else") && !token.is_name("or") && !token.is_name("and");
  if (token.is_operator("(")) {
    add_arguments(*expr, parse_arguments());
  } else if (operand) {
    if (token.is_name("is")) fail("You cannot chain multiple tests with is", token.line);
    expr->children.push_back(parse_postfix(parse_primary(false)));
  }
  if (expr->test == nullptr && !soft_) {
    unknown_.push_back({str("No test named ", quote(expr->name), " found."), expr->line});
  }
  expr = finish(std::move(expr));
  if (!negated) return expr;
  ExprPtr inverted = make_expr(ExprKind::kNot, expr->line);
  inverted->children.push_back(std::move(expr));
  return finish(std::move(inverted));
}

}  // namespace slipstream::jinja
