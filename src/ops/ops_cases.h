// The cases every Ops table is judged by: shapes, tolerances, bytes and operations per call.
//
// A case builds its inputs from a fixed seed, runs on any table and hands back its outputs, so the
// reference and a backend can be compared and timed by one loop. Used by the unit tests and by
// `slipstream check ops`.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "ops/ops.h"

namespace slipstream {

// A case bound to one table and context: inputs are in memory, run() may be repeated.
struct OpInstance {
  std::function<void()> run;
  std::function<std::vector<float>()> result;  // after run()
};

// What a table may not be able to do.
struct OpNeeds {
  int64_t cols = 0;       // of matrices and rows
  bool odd_rows = false;  // a matrix has a number of rows that is no multiple of 16
  bool of_int4 = false;   // matrices hold what INT4 rows hold exactly
  int head_dim = 0;
  int heads_per_kv_head = 1;
  DType kv_dtype = DType::kF32;  // of pages, in the place of which a GPU has one of its own
};

struct OpCase {
  std::string op;          // the member of Ops
  std::string name;        // shape, and what is special about it
  double tolerance = 0.0;  // of max_error below
  int64_t bytes = 0;       // moved per call, at least
  double flops = 0.0;      // multiply and add count as two
  OpNeeds needs;
  std::function<OpInstance(const Ops&, OpContext&)> make;
};

struct OpReport {
  std::string op;
  std::string name;
  std::string skipped;  // why the table was not asked; empty: it was
  bool passed = false;
  double tolerance = 0.0;
  double max_error = 0.0;  // largest |got - want| over the root mean square of want
  double max_abs = 0.0;
  double cosine = 1.0;
  int64_t num_values = 0;
  int64_t num_not_finite = 0;  // values that are not finite where the reference is
  int64_t first_not_finite = -1;
  double us = 0.0;  // median of repeated calls; 0 when not timed
  double gb_s = 0.0;
  double gflop_s = 0.0;
  double roof_fraction = 0.0;  // gb_s over the measured read rate of the same threads
};

struct OpCheckOptions {
  std::string_view op;  // empty: all
  bool timed = false;
  // Of tables that are not a CPU's (staged_ops.h). Empty: every case, as it says, timed as it runs.
  std::function<std::string(const OpCase&)> refusal = {};  // why a case is not for the table, or ""
  std::function<double(const OpCase&)> tolerance = {};
  std::function<double()> last_us = {};
};

std::vector<OpCase> op_cases();
// Scratch limits that cover every case.
OpLimits op_case_limits();

// A random matrix as a file stores it, rows * row_bytes; seeded.
std::vector<std::byte> random_matrix(QuantType type, int64_t rows, int64_t cols, uint64_t seed);

// Runs each selected case on both tables. `ctx` must serve both (scratch for op_case_limits()).
std::vector<OpReport> check_ops(const Ops& ops, const Ops& ref, OpContext& ctx,
                                const OpCheckOptions& options);

}  // namespace slipstream
