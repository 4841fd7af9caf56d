// Owns statements, scopes and macro calls. Expressions are in runtime_expressions.cc.
#include "text/jinja/runtime.h"

#include <algorithm>

#include "base/strings.h"
#include "text/jinja/operators.h"
#include "text/jinja/print.h"
#include "text/jinja/runtime_internal.h"

namespace slipstream::jinja {
namespace {

// About what a variable holds; its nesting was bounded when it was parsed.
uint64_t text_bytes(const Json& json) {
  constexpr uint64_t kBytesPerValue = 16;
  if (json.is_string()) return kBytesPerValue + json.get_ref<const std::string&>().size();
  uint64_t bytes = kBytesPerValue;
  if (json.is_structured()) {
    for (const auto& [key, item] : json.items()) bytes += text_bytes(item);
  }
  return bytes;
}

}  // namespace

Interpreter::Interpreter(const Program& program, const RenderOptions& options)
    : program_(program),
      options_(options),
      budget_(options.limits),
      globals_(program.symbols.size()) {}

// Namespaces may hold one another and themselves; emptying each breaks every such cycle, and does
// so without recursing from one into the next.
Interpreter::~Interpreter() {
  for (const auto& ns : namespaces_) {
    auto attributes = std::exchange(ns->attributes, {});
    attributes.clear();
  }
  for (Scope& scope : scopes_) scope.variables.clear();
}

std::string Interpreter::run(const Json& variables) {
  for (size_t k = 0; k < program_.symbols.size(); ++k) {
    const std::string& name = program_.symbols[k];
    if (variables.is_object()) {
      const auto it = variables.find(name);
      if (it != variables.end()) {
        budget_.grant(text_bytes(*it));
        globals_[k] = Value::from_json(*it);
        continue;
      }
    }
    Value global = find_global(name);
    if (!global.is_undefined()) globals_[k] = std::move(global);
  }
  std::string text;
  out_ = &text;
  exec_body(program_.body);
  return text;
}

Scope* Interpreter::push_scope(Scope* parent) {
  budget_.steps();
  Scope* scope = nullptr;
  if (free_scopes_.empty()) {
    budget_.produce(sizeof(Scope));
    scope = &scopes_.emplace_back();
  } else {
    scope = free_scopes_.back();
    free_scopes_.pop_back();
  }
  scope->parent = parent;
  scope_ = scope;
  return scope;
}

void Interpreter::pop_scope(Scope* scope) {
  if (scope->captured) return;
  scope->variables.clear();
  free_scopes_.push_back(scope);
}

void Interpreter::capture_scopes() {
  for (Scope* scope = scope_; scope != nullptr && !scope->captured; scope = scope->parent) {
    scope->captured = true;
  }
}

const Value* Interpreter::lookup(int symbol) const {
  for (const Scope* scope = scope_; scope != nullptr; scope = scope->parent) {
    for (const auto& [name, value] : scope->variables) {
      if (name == symbol) return &value;
    }
  }
  const auto& global = globals_[static_cast<size_t>(symbol)];
  return global ? &*global : nullptr;
}

void Interpreter::store(int symbol, Value value) {
  if (scope_ == nullptr) {
    globals_[static_cast<size_t>(symbol)] = std::move(value);
    return;
  }
  for (auto& [name, old] : scope_->variables) {
    if (name == symbol) {
      old = std::move(value);
      return;
    }
  }
  scope_->variables.emplace_back(symbol, std::move(value));
}

Value Interpreter::make_namespace(std::shared_ptr<NamespaceObject> ns) {
  budget_.produce(sizeof(NamespaceObject));
  namespaces_.push_back(ns);
  return Value::object(Kind::kNamespace, std::move(ns));
}

void Interpreter::output_text(std::string_view text) {
  output_bytes_ += text.size();
  if (output_bytes_ > options_.limits.max_output_bytes) {
    raise(ErrorKind::kLimitError, "the template's output is too long");
  }
  out_->append(text);
}

void Interpreter::output(const Value& value) {
  if (value.is_string()) return output_text(value.text());
  if (!value.is_undefined()) output_text(to_str(value, budget_));
}

Interpreter::Flow Interpreter::exec_body(const StmtList& body) {
  const DepthGuard depth(*this);
  for (const StmtPtr& stmt : body) {
    const Flow flow = exec(*stmt);
    if (flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::exec(const Stmt& stmt) {
  budget_.steps();
  line_ = stmt.line;
  switch (stmt.kind) {
    case StmtKind::kData:
      output_text(stmt.text);
      return Flow::kNext;
    case StmtKind::kOutput:
      for (const ExprPtr& expr : stmt.exprs) output(eval(*expr));
      return Flow::kNext;
    case StmtKind::kIf:
      return exec_if(stmt);
    case StmtKind::kFor:
      return exec_for(stmt, eval(*stmt.exprs[0]), 0);
    case StmtKind::kSet:
      assign(*stmt.targets[0], eval(*stmt.exprs[0]));
      return Flow::kNext;
    case StmtKind::kSetBlock:
      return exec_set_block(stmt);
    case StmtKind::kMacro:
      store(stmt.symbol, make_macro(stmt));
      return Flow::kNext;
    case StmtKind::kCallBlock:
      exec_call_block(stmt);
      return Flow::kNext;
    case StmtKind::kFilterBlock:
      return exec_filter_block(stmt);
    case StmtKind::kWith:
      return exec_with(stmt);
    case StmtKind::kScope: {
      const ScopeGuard scope(*this, scope_);
      return exec_body(stmt.bodies[0]);
    }
    case StmtKind::kBreak:
      return Flow::kBreak;
    case StmtKind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::exec_if(const Stmt& stmt) {
  for (size_t k = 0; k < stmt.exprs.size(); ++k) {
    if (eval(*stmt.exprs[k]).truthy()) return exec_body(stmt.bodies[k]);
  }
  if (stmt.bodies.size() > stmt.exprs.size()) return exec_body(stmt.bodies.back());
  return Flow::kNext;
}

ValueList Interpreter::filtered_items(const Stmt& stmt, const Value& iterable) {
  ValueList items = iterate(iterable, budget_);
  if (!stmt.exprs[1]) return items;
  ValueList kept;
  for (Value& item : items) {
    const ScopeGuard scope(*this, scope_);
    assign(*stmt.targets[0], item);
    if (eval(*stmt.exprs[1]).truthy()) kept.push_back(std::move(item));
  }
  return kept;
}

Interpreter::Flow Interpreter::exec_for(const Stmt& stmt, const Value& iterable, int nesting) {
  const DepthGuard depth(*this);
  auto loop = std::make_shared<LoopObject>();
  loop->items = filtered_items(stmt, iterable);
  loop->nesting = nesting;
  loop->stmt = &stmt;
  loop->scope = scope_;
  for (const Value& item : loop->items) loop->depth = std::max(loop->depth, item.depth() + 1);
  if (loop->depth > kMaxValueDepth) {
    raise(ErrorKind::kRecursionError, "values are nested too deeply");
  }
  if (loop->items.empty()) {
    if (stmt.bodies.size() < 2) return Flow::kNext;
    const ScopeGuard scope(*this, scope_);
    return exec_body(stmt.bodies[1]);
  }
  if (stmt.recursive) capture_scopes();
  const Value loop_value = Value::object(Kind::kLoop, loop);
  return exec_loop_body(stmt, *loop, loop_value);
}

Interpreter::Flow Interpreter::exec_loop_body(const Stmt& stmt, LoopObject& loop,
                                              const Value& loop_value) {
  for (size_t k = 0; k < loop.items.size(); ++k) {
    loop.index0 = k;
    const ScopeGuard scope(*this, scope_);
    store(program_.loop_symbol, loop_value);
    assign(*stmt.targets[0], loop.items[k]);
    if (exec_body(stmt.bodies[0]) == Flow::kBreak) break;
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::exec_with(const Stmt& stmt) {
  ValueList values;
  for (const ExprPtr& expr : stmt.exprs) values.push_back(eval(*expr));
  const ScopeGuard scope(*this, scope_);
  for (size_t k = 0; k < values.size(); ++k) assign(*stmt.targets[k], values[k]);
  return exec_body(stmt.bodies[0]);
}

Interpreter::Flow Interpreter::exec_set_block(const Stmt& stmt) {
  std::string text;
  Flow flow = Flow::kNext;
  {
    const Capture capture(*this, text);
    const ScopeGuard scope(*this, scope_);
    flow = exec_body(stmt.bodies[0]);
  }
  if (flow != Flow::kNext) return flow;
  const Expr* filter = stmt.exprs[0].get();
  assign(*stmt.targets[0], filter != nullptr ? eval_block_filter(*filter, std::move(text))
                                             : Value::string(std::move(text)));
  return Flow::kNext;
}

Interpreter::Flow Interpreter::exec_filter_block(const Stmt& stmt) {
  std::string text;
  Flow flow = Flow::kNext;
  {
    const Capture capture(*this, text);
    const ScopeGuard scope(*this, scope_);
    flow = exec_body(stmt.bodies[0]);
  }
  if (flow == Flow::kNext) output(eval_block_filter(*stmt.exprs[0], std::move(text)));
  return flow;
}

void Interpreter::exec_call_block(const Stmt& stmt) {
  const Value caller = make_macro(stmt);
  const Expr& call_expr = *stmt.exprs[0];
  const Value callee = eval(*call_expr.children[0]);
  Args args = eval_arguments(call_expr);
  args.keywords.emplace_back("caller", caller);
  output(call(callee, args));
}

void Interpreter::assign(const Expr& target, const Value& value) {
  if (target.kind == ExprKind::kName) return store(target.symbol, value);
  if (target.kind == ExprKind::kNsRef) {
    const Value* ns = lookup(target.symbol);
    if (ns == nullptr || !ns->is(Kind::kNamespace)) {
      raise(ErrorKind::kRuntimeError, "cannot assign attribute on non-namespace object");
    }
    budget_.steps(1 + ns->ns().attributes.size() / 8);
    return ns->ns().set(target.name, value);
  }
  const ValueList items = iterate(value, budget_);
  const size_t wanted = target.children.size();
  if (items.size() > wanted) {
    raise(ErrorKind::kValueError, str("too many values to unpack (expected ", wanted, ")"));
  }
  if (items.size() < wanted) {
    raise(ErrorKind::kValueError,
          str("not enough values to unpack (expected ", wanted, ", got ", items.size(), ")"));
  }
  for (size_t k = 0; k < wanted; ++k) assign(*target.children[k], items[k]);
}

Value Interpreter::make_macro(const Stmt& stmt) {
  budget_.produce(sizeof(FunctionObject));
  capture_scopes();
  auto macro = std::make_shared<FunctionObject>();
  macro->name = stmt.text;
  macro->macro = &stmt;
  macro->scope = scope_;
  return Value::object(Kind::kFunction, std::move(macro));
}

void Interpreter::bind_macro_params(const FunctionObject& macro, const Args& args) {
  const Stmt& stmt = *macro.macro;
  const size_t num_params = stmt.params.size();
  std::vector<const Value*> bound(num_params, nullptr);
  for (size_t k = 0; k < std::min(num_params, args.positional.size()); ++k) {
    bound[k] = &args.positional[k];
  }
  auto extra = std::make_shared<DictObject>();
  Value caller = Value::undefined("No caller defined");
  for (const auto& [name, value] : args.keywords) {
    const auto it = std::find_if(stmt.params.begin(), stmt.params.end(),
                                 [&key = name](const MacroParam& p) { return p.name == key; });
    if (it != stmt.params.end()) {
      const auto k = static_cast<size_t>(it - stmt.params.begin());
      if (bound[k] != nullptr) {
        raise_type_error(
            str("macro ", quote(macro.name), " got multiple values for argument ", quote(name)));
      }
      bound[k] = &value;
    } else if (name == "caller" && stmt.uses_caller) {
      caller = value;
    } else if (stmt.uses_kwargs) {
      extra->set(Value::string(name), value, budget_);
    } else {
      raise_type_error(
          str("macro ", quote(macro.name), " takes no keyword argument ", quote(name)));
    }
  }
  if (args.positional.size() > num_params && !stmt.uses_varargs) {
    raise_type_error(
        str("macro ", quote(macro.name), " takes not more than ", num_params, " argument(s)"));
  }
  for (size_t k = 0; k < num_params; ++k) {
    const MacroParam& param = stmt.params[k];
    if (bound[k] != nullptr) {
      store(param.symbol, *bound[k]);
    } else if (param.fallback) {
      store(param.symbol, eval(*param.fallback));
    } else {
      store(param.symbol,
            Value::undefined(str("parameter ", quote(param.name), " was not provided")));
    }
  }
  if (stmt.uses_caller) store(program_.caller_symbol, caller);
  if (stmt.uses_kwargs) store(program_.kwargs_symbol, make_dict(std::move(extra)));
  if (!stmt.uses_varargs) return;
  ValueList rest;
  for (size_t k = num_params; k < args.positional.size(); ++k) rest.push_back(args.positional[k]);
  store(program_.varargs_symbol, Value::tuple(std::move(rest)));
}

Value Interpreter::call_macro(const FunctionObject& macro, const Args& args) {
  std::string text;
  const Capture capture(*this, text);
  const ScopeGuard scope(*this, macro.scope);
  bind_macro_params(macro, args);
  exec_body(macro.macro->bodies[0]);
  budget_.produce(text.size());
  return Value::string(std::move(text));
}

// loop(items) in a recursive loop: the same loop over other items, as text.
Value Interpreter::call_loop(const Value& callee, const Args& args) {
  const LoopObject& loop = callee.loop();
  if (!loop.stmt->recursive) {
    raise_type_error("The loop must have the 'recursive' marker to be called recursively.");
  }
  if (args.positional.size() != 1) raise_type_error("loop() takes one argument");
  std::string text;
  const Capture capture(*this, text);
  const ScopeGuard scope(*this, loop.scope);
  exec_for(*loop.stmt, args.positional[0], loop.nesting + 1);
  return Value::string(std::move(text));
}

Value Interpreter::call(const Value& callee, const Args& args) {
  const DepthGuard depth(*this);
  budget_.steps();
  if (callee.is_undefined()) callee.raise_undefined();
  if (callee.is(Kind::kLoop)) return call_loop(callee, args);
  if (callee.is(Kind::kCycler)) return call_cycler(callee.cycler());
  if (!callee.is(Kind::kFunction)) {
    raise_type_error(str("'", type_name(callee), "' object is not callable"));
  }
  // A copy keeps the macro alive while its body may assign another value to its name.
  const Value kept = callee;
  const FunctionObject& function = kept.function();
  if (function.native != nullptr) return function.native(*this, function.self, args);
  return call_macro(function, args);
}

}  // namespace slipstream::jinja
