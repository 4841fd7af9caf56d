// The parsed template: plain data, immutable after parsing, shared by every render.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "text/jinja/value.h"

namespace slipstream::jinja {

struct Expr;
struct Stmt;
using ExprPtr = std::unique_ptr<Expr>;
using StmtPtr = std::unique_ptr<Stmt>;
using StmtList = std::vector<StmtPtr>;

using FilterFunction = NativeFunction;  // `self` is the filtered value
using TestFunction = bool (*)(Interpreter&, const Value& self, const Args&);

enum class ExprKind : uint8_t {
  kConst,    // constant
  kName,     // symbol
  kList,     // children
  kTuple,    // children
  kDict,     // children: key, value, key, value ...
  kSlice,    // children: start, stop, step, each possibly null
  kGetAttr,  // children[0].name
  kGetItem,  // children[0][children[1]]
  kCall,     // children[0](children[1..])
  kFilter,   // children[0] | name(children[1..]); children[0] is null for a block filter
  kTest,     // children[0] is name(children[1..])
  kNot,
  kNegate,
  kPlus,
  kBinary,  // children[0] op children[1]
  kAnd,
  kOr,
  kConcat,   // children joined by ~
  kCompare,  // children[0] ops[0] children[1] ops[1] children[2] ...
  kCond,     // children: condition, then, else (possibly null)
  kNsRef,    // assignment target symbol.name
};

enum class BinaryOp : uint8_t { kAdd, kSub, kMul, kDiv, kFloorDiv, kMod, kPow };
enum class CompareOp : uint8_t { kEq, kNe, kLt, kLe, kGt, kGe, kIn, kNotIn };

struct Expr {
  ExprKind kind = ExprKind::kConst;
  BinaryOp op = BinaryOp::kAdd;
  int line = 0;
  int height = 1;  // of this subtree
  int symbol = -1;
  std::string name;
  Value constant;
  std::vector<ExprPtr> children;
  std::vector<CompareOp> compare_ops;
  std::vector<std::pair<std::string, ExprPtr>> keywords;
  ExprPtr star_args;
  ExprPtr star_keywords;
  FilterFunction filter = nullptr;  // null: unknown, an error when it is reached
  TestFunction test = nullptr;
};

enum class StmtKind : uint8_t {
  kData,         // text
  kOutput,       // exprs
  kIf,           // exprs[k] guards bodies[k]; one more body is the else branch
  kFor,          // target, exprs[0] iterable, exprs[1] filter or null; bodies: loop, else
  kSet,          // target = exprs[0]
  kSetBlock,     // target = captured bodies[0], through exprs[0] (a filter chain) when not null
  kMacro,        // name, params, bodies[0]
  kCallBlock,    // exprs[0] is the call, params and bodies[0] its caller
  kFilterBlock,  // exprs[0] applied to bodies[0]
  kWith,         // targets = exprs, bodies[0]
  kScope,        // bodies[0] in a scope of its own: block, generation
  kBreak,
  kContinue,
};

struct MacroParam {
  int symbol = -1;
  std::string name;
  ExprPtr fallback;  // null: none
};

struct Stmt {
  StmtKind kind = StmtKind::kData;
  int line = 0;
  int symbol = -1;
  bool recursive = false;    // kFor
  bool uses_caller = false;  // kMacro, kCallBlock: which special names the body mentions
  bool uses_varargs = false;
  bool uses_kwargs = false;
  std::string text;
  std::vector<ExprPtr> targets;
  std::vector<ExprPtr> exprs;
  std::vector<StmtList> bodies;
  std::vector<MacroParam> params;
};

struct Program {
  StmtList body;
  std::vector<std::string> symbols;  // every name the template mentions
  int loop_symbol = -1;
  int caller_symbol = -1;
  int varargs_symbol = -1;
  int kwargs_symbol = -1;
};

// Null when there is none of that name.
FilterFunction find_filter(const std::string& name);
TestFunction find_test(const std::string& name);

}  // namespace slipstream::jinja
