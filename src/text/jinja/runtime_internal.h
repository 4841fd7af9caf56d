// Guards of the interpreter's state, shared by runtime.cc and runtime_expressions.cc only. Each
// restores what it changed when it leaves, also when an error passes through.
#pragma once

#include <string>

#include "text/jinja/runtime.h"

namespace slipstream::jinja {

class Interpreter::DepthGuard {
 public:
  explicit DepthGuard(Interpreter& interpreter) : interpreter_(interpreter) {
    if (interpreter_.depth_ >= interpreter_.options_.limits.max_depth) {
      raise(ErrorKind::kRecursionError, "maximum recursion depth exceeded");
    }
    ++interpreter_.depth_;
  }
  ~DepthGuard() { --interpreter_.depth_; }
  DepthGuard(const DepthGuard&) = delete;
  DepthGuard& operator=(const DepthGuard&) = delete;

 private:
  Interpreter& interpreter_;
};

class Interpreter::ScopeGuard {
 public:
  ScopeGuard(Interpreter& interpreter, Scope* parent)
      : interpreter_(interpreter), outer_(interpreter.scope_) {
    scope_ = interpreter_.push_scope(parent);
  }
  ~ScopeGuard() {
    interpreter_.pop_scope(scope_);
    interpreter_.scope_ = outer_;
  }
  ScopeGuard(const ScopeGuard&) = delete;
  ScopeGuard& operator=(const ScopeGuard&) = delete;

 private:
  Interpreter& interpreter_;
  Scope* outer_;
  Scope* scope_ = nullptr;
};

// Output goes to `text` for the life of the guard.
class Interpreter::Capture {
 public:
  Capture(Interpreter& interpreter, std::string& text)
      : interpreter_(interpreter), outer_(interpreter.out_) {
    interpreter_.out_ = &text;
  }
  ~Capture() { interpreter_.out_ = outer_; }
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;

 private:
  Interpreter& interpreter_;
  std::string* outer_;
};

// cycler.next() and joiner(), by calling them.
Value call_cycler(CyclerObject& cycler);

}  // namespace slipstream::jinja
