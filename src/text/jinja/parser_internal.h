// The parser's class, shared by parser.cc (statements) and parser_expressions.cc; nobody else
// includes this.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/jinja/ast.h"
#include "text/jinja/lexer.h"
#include "text/jinja/parser.h"

namespace slipstream::jinja {

struct TupleRules {
  bool simplified = false;  // only names and literals: an assignment target
  bool conditional = true;  // "a if b" may be the expression
  bool parenthesized = false;
  bool namespaces = false;         // "ns.name" is a target
  std::string_view end_name = {};  // a name that ends the tuple: "in", "recursive"
};

struct CallArguments {
  std::vector<ExprPtr> positional;
  std::vector<std::pair<std::string, ExprPtr>> keywords;
  ExprPtr star_args;
  ExprPtr star_keywords;
};

class Parser {
 public:
  Parser(std::vector<Token> tokens, const ParseLimits& limits);
  std::shared_ptr<const Program> run();

 private:
  // Counts how deep brackets and statements nest, for the life of the guard.
  class Nesting {
   public:
    explicit Nesting(Parser& parser) : parser_(parser) {
      if (++parser_.nesting_ > parser_.limits_.max_nesting) {
        parser_.fail("the template is nested too deeply", parser_.peek().line);
      }
    }
    ~Nesting() { --parser_.nesting_; }
    Nesting(const Nesting&) = delete;
    Nesting& operator=(const Nesting&) = delete;

   private:
    Parser& parser_;
  };

  // Whether unknown filters here are an error only when reached (inside an if), as in jinja2.
  class Soft {
   public:
    Soft(Parser& parser, bool soft) : parser_(parser), outer_(parser.soft_) { parser.soft_ = soft; }
    ~Soft() { parser_.soft_ = outer_; }
    Soft(const Soft&) = delete;
    Soft& operator=(const Soft&) = delete;

   private:
    Parser& parser_;
    bool outer_;
  };

  struct Unknown {
    std::string message;
    int line;
  };

  const Token& peek() const { return look(0); }
  const Token& look(size_t ahead) const;
  Token next();
  bool skip_operator(std::string_view op);
  bool skip_name(std::string_view name);
  void expect_operator(std::string_view op);
  void expect_type(TokenType type, const char* what);
  std::string expect_name();
  [[noreturn]] void fail(std::string message, int line) const;
  static std::string describe(const Token& token);
  int symbol(const std::string& name);
  static StmtPtr make_stmt(StmtKind kind, int line);

  StmtList parse_body(const std::vector<std::string_view>& end_names);
  StmtList parse_block(const std::vector<std::string_view>& end_names);
  StmtList parse_closed_block(std::string_view end_name);
  StmtPtr parse_statement();
  StmtPtr parse_if(int line);
  StmtPtr parse_for(int line);
  StmtPtr parse_set(int line);
  StmtPtr parse_macro(int line);
  StmtPtr parse_call_block(int line);
  StmtPtr parse_filter_block(int line);
  StmtPtr parse_with(int line);
  StmtPtr parse_print(int line);
  StmtPtr parse_scope(const Token& tag);
  void parse_signature(Stmt& stmt);
  void parse_macro_body(Stmt& stmt, std::string_view end_name);

  static ExprPtr make_expr(ExprKind kind, int line);
  ExprPtr finish(ExprPtr expr) const;  // sets and checks the height
  ExprPtr make_pair(ExprKind kind, ExprPtr left, ExprPtr right) const;
  ExprPtr make_binary(BinaryOp op, ExprPtr left, ExprPtr right) const;

  ExprPtr parse_target(const TupleRules& rules);
  ExprPtr parse_tuple(const TupleRules& rules);
  bool at_tuple_end(const TupleRules& rules) const;
  ExprPtr parse_expression();
  ExprPtr parse_or();
  ExprPtr parse_and();
  ExprPtr parse_not();
  ExprPtr parse_compare();
  bool take_compare_op(CompareOp& op);
  ExprPtr parse_sum();
  ExprPtr parse_concat();
  ExprPtr parse_product();
  ExprPtr parse_power();
  ExprPtr parse_unary(bool with_filters);
  ExprPtr parse_primary(bool namespaces);
  ExprPtr parse_name(const Token& token, bool namespaces);
  ExprPtr parse_list();
  ExprPtr parse_dict();
  ExprPtr parse_postfix(ExprPtr expr);
  ExprPtr parse_subscript(ExprPtr expr);
  ExprPtr parse_subscribed();
  ExprPtr parse_call(ExprPtr callee);
  CallArguments parse_arguments();
  void add_arguments(Expr& expr, CallArguments arguments) const;
  ExprPtr parse_filter_chain(ExprPtr expr);
  ExprPtr parse_filters(ExprPtr expr);
  ExprPtr parse_filter(ExprPtr expr);
  ExprPtr parse_test(ExprPtr expr);

  std::vector<Token> tokens_;
  size_t position_ = 0;
  ParseLimits limits_;
  std::shared_ptr<Program> program_;
  std::unordered_map<std::string, int> symbols_;
  std::vector<bool> used_symbols_;  // by symbol: names read in the macro being parsed
  std::vector<Unknown> unknown_;    // filters and tests nobody has, outside soft places
  int nesting_ = 0;
  int loop_nesting_ = 0;
  bool soft_ = false;
};

}  // namespace slipstream::jinja
