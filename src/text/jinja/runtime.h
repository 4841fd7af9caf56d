// Runs a Program. One Interpreter is one render on one thread; it owns every scope, namespace and
// loop the render makes, so that values which point at each other are freed in the end.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "text/jinja/ast.h"
#include "text/jinja/budget.h"
#include "text/jinja/jinja.h"

namespace slipstream::jinja {

struct Scope {
  Scope* parent = nullptr;
  bool captured = false;  // a macro or loop value refers to it: it lives until the render ends
  std::vector<std::pair<int, Value>> variables;
};

class Interpreter {
 public:
  Interpreter(const Program& program, const RenderOptions& options);
  ~Interpreter();
  Interpreter(const Interpreter&) = delete;
  Interpreter& operator=(const Interpreter&) = delete;

  // Raises; the text so far is lost then.
  std::string run(const Json& variables);

  Value call(const Value& callee, const Args& args);
  Budget& budget() { return budget_; }
  const RenderOptions& options() const { return options_; }
  Value make_namespace(std::shared_ptr<NamespaceObject> ns);
  int line() const { return line_; }

 private:
  enum class Flow : uint8_t { kNext, kBreak, kContinue };
  class DepthGuard;
  class ScopeGuard;
  class Capture;

  Flow exec_body(const StmtList& body);
  Flow exec(const Stmt& stmt);
  Flow exec_if(const Stmt& stmt);
  Flow exec_for(const Stmt& stmt, const Value& iterable, int nesting);
  Flow exec_loop_body(const Stmt& stmt, LoopObject& loop, const Value& loop_value);
  ValueList filtered_items(const Stmt& stmt, const Value& iterable);
  Flow exec_with(const Stmt& stmt);
  Flow exec_set_block(const Stmt& stmt);
  Flow exec_filter_block(const Stmt& stmt);
  void exec_call_block(const Stmt& stmt);
  void assign(const Expr& target, const Value& value);
  void output(const Value& value);
  void output_text(std::string_view text);

  Value eval(const Expr& expr);
  Value eval_name(const Expr& expr);
  Value eval_items(const Expr& expr);
  Value eval_dict(const Expr& expr);
  Value eval_subscript(const Expr& expr);
  Value eval_slice(const Value& object, const Expr& slice);
  Value eval_call(const Expr& expr);
  Value eval_filter_input(const Expr& expr);
  Value eval_block_filter(const Expr& expr, std::string text);
  Value apply_filter(const Expr& expr, const Value& input);
  Value eval_test(const Expr& expr);
  Value eval_concat(const Expr& expr);
  Value eval_compare(const Expr& expr);
  Value eval_cond(const Expr& expr);
  bool compare_once(CompareOp op, const Value& a, const Value& b);
  Args eval_arguments(const Expr& expr);

  Value make_macro(const Stmt& stmt);
  Value call_macro(const FunctionObject& macro, const Args& args);
  void bind_macro_params(const FunctionObject& macro, const Args& args);
  Value call_loop(const Value& callee, const Args& args);
  const Value* lookup(int symbol) const;
  void store(int symbol, Value value);

  Scope* push_scope(Scope* parent);
  void pop_scope(Scope* scope);
  void capture_scopes();

  const Program& program_;
  const RenderOptions& options_;
  Budget budget_;
  int depth_ = 0;
  int line_ = 0;
  std::string* out_ = nullptr;
  uint64_t output_bytes_ = 0;
  std::vector<std::optional<Value>> globals_;  // by symbol: variables, builtins, top-level sets
  Value block_text_;        // what the innermost filter of a block's filter chain applies to
  Scope* scope_ = nullptr;  // null: the top level
  std::deque<Scope> scopes_;
  std::vector<Scope*> free_scopes_;
  std::vector<std::shared_ptr<NamespaceObject>> namespaces_;
};

// The functions every template sees, by name; undefined when there is none.
Value find_global(const std::string& name);

}  // namespace slipstream::jinja
