// Owns the statements and Parser's shared parts; expressions are in parser_expressions.cc.
// Recursive descent with a nesting limit, and a limit on how high a subtree grows: evaluating
// and destroying the tree recurse over its height.
#include "text/jinja/parser.h"

#include <algorithm>

#include "base/strings.h"
#include "text/jinja/parser_internal.h"

namespace slipstream::jinja {

Parser::Parser(std::vector<Token> tokens, const ParseLimits& limits)
    : tokens_(std::move(tokens)), limits_(limits), program_(std::make_shared<Program>()) {
  program_->loop_symbol = symbol("loop");
  program_->caller_symbol = symbol("caller");
  program_->varargs_symbol = symbol("varargs");
  program_->kwargs_symbol = symbol("kwargs");
}

std::shared_ptr<const Program> Parser::run() {
  program_->body = parse_body({});
  if (!unknown_.empty()) {
    throw Raise{{ErrorKind::kSyntaxError, unknown_.front().message, unknown_.front().line}};
  }
  return program_;
}

const Token& Parser::look(size_t ahead) const {
  return tokens_[std::min(position_ + ahead, tokens_.size() - 1)];
}

Token Parser::next() {
  Token token = peek();
  if (position_ + 1 < tokens_.size()) ++position_;
  return token;
}

bool Parser::skip_operator(std::string_view op) {
  if (!peek().is_operator(op)) return false;
  next();
  return true;
}

bool Parser::skip_name(std::string_view name) {
  if (!peek().is_name(name)) return false;
  next();
  return true;
}

void Parser::fail(std::string message, int line) const {
  throw Raise{{ErrorKind::kSyntaxError, std::move(message), line}};
}

std::string Parser::describe(const Token& token) {
  switch (token.type) {
    case TokenType::kData:
      return "template data / text";
    case TokenType::kBlockBegin:
      return "begin of statement block";
    case TokenType::kBlockEnd:
      return "end of statement block";
    case TokenType::kVariableBegin:
      return "begin of print statement";
    case TokenType::kVariableEnd:
      return "end of print statement";
    case TokenType::kString:
      return "string";
    case TokenType::kEnd:
      return "end of template";
    default:
      return token.text;
  }
}

void Parser::expect_operator(std::string_view op) {
  if (!skip_operator(op)) {
    fail(str("expected token '", op, "', got ", quote(describe(peek()))), peek().line);
  }
}

void Parser::expect_type(TokenType type, const char* what) {
  if (peek().type != type) {
    fail(str("expected token '", what, "', got ", quote(describe(peek()))), peek().line);
  }
  next();
}

std::string Parser::expect_name() {
  if (peek().type != TokenType::kName) {
    fail(str("expected token 'name', got ", quote(describe(peek()))), peek().line);
  }
  return next().text;
}

int Parser::symbol(const std::string& name) {
  const auto [it, added] = symbols_.emplace(name, static_cast<int>(program_->symbols.size()));
  if (added) program_->symbols.push_back(name);
  return it->second;
}

StmtPtr Parser::make_stmt(StmtKind kind, int line) {
  auto stmt = std::make_unique<Stmt>();
  stmt->kind = kind;
  stmt->line = line;
  return stmt;
}

// Statements up to one of the end names, which stays the current token (after its "{%").
StmtList Parser::parse_body(const std::vector<std::string_view>& end_names) {
  const Nesting nesting(*this);
  StmtList body;
  while (true) {
    const Token& token = peek();
    if (token.type == TokenType::kData) {
      body.push_back(make_stmt(StmtKind::kData, token.line));
      body.back()->text = token.text;
      next();
    } else if (token.type == TokenType::kVariableBegin) {
      body.push_back(make_stmt(StmtKind::kOutput, token.line));
      next();
      body.back()->exprs.push_back(parse_tuple({}));
      expect_type(TokenType::kVariableEnd, "end of print statement");
    } else if (token.type == TokenType::kBlockBegin) {
      next();
      const bool ends = std::any_of(end_names.begin(), end_names.end(),
                                    [this](std::string_view name) { return peek().is_name(name); });
      if (ends) return body;
      if (StmtPtr stmt = parse_statement()) body.push_back(std::move(stmt));
      expect_type(TokenType::kBlockEnd, "end of statement block");
    } else if (token.type == TokenType::kEnd && end_names.empty()) {
      return body;
    } else {
      fail(str("Unexpected end of template. Jinja was looking for the following tags: '",
               end_names.empty() ? "" : end_names.back(), "'."),
           token.line);
    }
  }
}

// "%}", the statements, and the end name itself.
StmtList Parser::parse_block(const std::vector<std::string_view>& end_names) {
  skip_operator(":");
  expect_type(TokenType::kBlockEnd, "end of statement block");
  return parse_body(end_names);
}

StmtList Parser::parse_closed_block(std::string_view end_name) {
  StmtList body = parse_block({end_name});
  next();
  return body;
}

StmtPtr Parser::parse_statement() {
  const Token token = next();
  if (token.type != TokenType::kName) fail("tag name expected", token.line);
  const std::string& tag = token.text;
  if (tag == "if") return parse_if(token.line);
  if (tag == "for") return parse_for(token.line);
  if (tag == "set") return parse_set(token.line);
  if (tag == "macro") return parse_macro(token.line);
  if (tag == "call") return parse_call_block(token.line);
  if (tag == "filter") return parse_filter_block(token.line);
  if (tag == "with") return parse_with(token.line);
  if (tag == "print") return parse_print(token.line);
  if (tag == "block" || tag == "generation") return parse_scope(token);
  if (tag == "break" || tag == "continue") {
    if (loop_nesting_ == 0) fail(str("'", tag, "' outside loop"), token.line);
    return make_stmt(tag == "break" ? StmtKind::kBreak : StmtKind::kContinue, token.line);
  }
  if (tag == "include" || tag == "import" || tag == "from" || tag == "extends") {
    fail(str("'", tag, "' needs other templates, a chat template has none"), token.line);
  }
  fail(str("Encountered unknown tag ", quote(tag), "."), token.line);
}

StmtPtr Parser::parse_if(int line) {
  const Soft soft(*this, true);
  StmtPtr stmt = make_stmt(StmtKind::kIf, line);
  while (true) {
    stmt->exprs.push_back(parse_tuple({.conditional = false}));
    stmt->bodies.push_back(parse_block({"elif", "else", "endif"}));
    const Token end = next();
    if (end.text == "elif") continue;
    if (end.text == "else") stmt->bodies.push_back(parse_closed_block("endif"));
    return stmt;
  }
}

StmtPtr Parser::parse_for(int line) {
  const Soft soft(*this, false);
  StmtPtr stmt = make_stmt(StmtKind::kFor, line);
  stmt->targets.push_back(parse_target({.end_name = "in"}));
  if (!skip_name("in")) {
    fail(str("expected token 'in', got ", quote(describe(peek()))), peek().line);
  }
  stmt->exprs.push_back(parse_tuple({.conditional = false, .end_name = "recursive"}));
  stmt->exprs.push_back(skip_name("if") ? parse_expression() : nullptr);
  stmt->recursive = skip_name("recursive");
  ++loop_nesting_;
  stmt->bodies.push_back(parse_block({"endfor", "else"}));
  --loop_nesting_;
  if (next().text == "else") stmt->bodies.push_back(parse_closed_block("endfor"));
  return stmt;
}

StmtPtr Parser::parse_set(int line) {
  const Soft soft(*this, soft_);
  ExprPtr target = parse_target({.namespaces = true});
  if (skip_operator("=")) {
    StmtPtr stmt = make_stmt(StmtKind::kSet, line);
    stmt->targets.push_back(std::move(target));
    stmt->exprs.push_back(parse_tuple({}));
    return stmt;
  }
  soft_ = false;
  StmtPtr stmt = make_stmt(StmtKind::kSetBlock, line);
  stmt->targets.push_back(std::move(target));
  stmt->exprs.push_back(parse_filters(nullptr));
  stmt->bodies.push_back(parse_closed_block("endset"));
  return stmt;
}

void Parser::parse_signature(Stmt& stmt) {
  expect_operator("(");
  while (!peek().is_operator(")")) {
    if (!stmt.params.empty()) expect_operator(",");
    MacroParam param;
    param.name = expect_name();
    param.symbol = symbol(param.name);
    if (skip_operator("=")) {
      param.fallback = parse_expression();
    } else if (!stmt.params.empty() && stmt.params.back().fallback) {
      fail("non-default argument follows default argument", peek().line);
    }
    stmt.params.push_back(std::move(param));
  }
  expect_operator(")");
}

// The body of a macro or call block: its own loops, and a note of the special names it uses.
void Parser::parse_macro_body(Stmt& stmt, std::string_view end_name) {
  const int outer_loops = std::exchange(loop_nesting_, 0);
  std::vector<bool> outer_used = std::exchange(used_symbols_, {});
  stmt.bodies.push_back(parse_closed_block(end_name));
  const auto used = [this](int wanted) {
    return static_cast<size_t>(wanted) < used_symbols_.size() &&
           used_symbols_[static_cast<size_t>(wanted)];
  };
  stmt.uses_caller = used(program_->caller_symbol);
  stmt.uses_varargs = used(program_->varargs_symbol);
  stmt.uses_kwargs = used(program_->kwargs_symbol);
  if (outer_used.size() < used_symbols_.size()) outer_used.resize(used_symbols_.size());
  for (size_t k = 0; k < used_symbols_.size(); ++k)
    outer_used[k] = outer_used[k] || used_symbols_[k];
  used_symbols_ = std::move(outer_used);
  loop_nesting_ = outer_loops;
}

StmtPtr Parser::parse_macro(int line) {
  const Soft soft(*this, false);
  StmtPtr stmt = make_stmt(StmtKind::kMacro, line);
  stmt->text = expect_name();
  stmt->symbol = symbol(stmt->text);
  parse_signature(*stmt);
  parse_macro_body(*stmt, "endmacro");
  return stmt;
}

StmtPtr Parser::parse_call_block(int line) {
  const Soft soft(*this, false);
  StmtPtr stmt = make_stmt(StmtKind::kCallBlock, line);
  stmt->text = "caller";
  if (peek().is_operator("(")) parse_signature(*stmt);
  stmt->exprs.push_back(parse_expression());
  if (stmt->exprs[0]->kind != ExprKind::kCall) fail("expected call", line);
  parse_macro_body(*stmt, "endcall");
  return stmt;
}

StmtPtr Parser::parse_filter_block(int line) {
  const Soft soft(*this, false);
  StmtPtr stmt = make_stmt(StmtKind::kFilterBlock, line);
  stmt->exprs.push_back(parse_filters(parse_filter(nullptr)));
  stmt->bodies.push_back(parse_closed_block("endfilter"));
  return stmt;
}

StmtPtr Parser::parse_with(int line) {
  const Soft soft(*this, false);
  StmtPtr stmt = make_stmt(StmtKind::kWith, line);
  while (peek().type != TokenType::kBlockEnd) {
    if (!stmt->targets.empty()) expect_operator(",");
    stmt->targets.push_back(parse_target({}));
    expect_operator("=");
    stmt->exprs.push_back(parse_expression());
  }
  stmt->bodies.push_back(parse_closed_block("endwith"));
  return stmt;
}

StmtPtr Parser::parse_print(int line) {
  StmtPtr stmt = make_stmt(StmtKind::kOutput, line);
  while (peek().type != TokenType::kBlockEnd) {
    if (!stmt->exprs.empty()) expect_operator(",");
    stmt->exprs.push_back(parse_expression());
  }
  return stmt;
}

// "block" has no parent to override it here, "generation" only marks text: both print in place.
StmtPtr Parser::parse_scope(const Token& tag) {
  const Soft soft(*this, false);
  StmtPtr stmt = make_stmt(StmtKind::kScope, tag.line);
  std::string name;
  if (tag.text == "block") {
    name = expect_name();
    skip_name("scoped");
    skip_name("required");
  }
  const int outer_loops = std::exchange(loop_nesting_, 0);
  stmt->bodies.push_back(parse_closed_block(str("end", tag.text)));
  loop_nesting_ = outer_loops;
  if (!name.empty()) skip_name(name);
  return stmt;
}

std::shared_ptr<const Program> parse_program(std::string_view source, const ParseLimits& limits) {
  if (source.size() > limits.max_source_bytes) {
    raise(ErrorKind::kLimitError,
          str("the template is larger than ", human_bytes(limits.max_source_bytes)));
  }
  return Parser(tokenize(source), limits).run();
}

}  // namespace slipstream::jinja
