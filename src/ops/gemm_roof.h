// The roof of products: how fast a backend multiplies large matrices.
#pragma once

#include <map>
#include <span>
#include <string>

#include "base/thread_pool.h"
#include "ops/ops.h"

namespace slipstream {

// What decides how fast `linear` may be: "bf16", "fp8_e4m3" or "int4" where a weight is kept as
// dense rows, else the format of its blocks, "Q4_1".
std::string gemm_format(const Weight& weight);

// Floating-point operations per second / 1e12, over several passes.
struct GemmRate {
  double median_tflops = 0.0;
  double best_tflops = 0.0;
};

// Of `linear` on this matrix and as many random rows, with a context of its own. `weight_dtype` is
// what a GPU packs it as. A pass takes 50 ms at least: a GPU that multiplies draws so much power
// that its clock falls, and what it does for a millisecond is not its roof.
Result<GemmRate> measure_gemm(const Ops& ops, ThreadPool& pool, const SourceMatrix& source,
                              DType weight_dtype, int64_t num_tokens);

// The same of a large random matrix in a format that gemm_format() names. Equal values would take
// less power than real ones. An error where the format is read-only here, or memory is short.
Result<GemmRate> measure_gemm(const Ops& ops, ThreadPool& pool, const std::string& format);

// Median rates by format. Formats that cannot be made here are left out; so is the empty one.
std::map<std::string, double> measure_gemm_rates(const Ops& ops, ThreadPool& pool,
                                                 std::span<const std::string> formats);

}  // namespace slipstream
