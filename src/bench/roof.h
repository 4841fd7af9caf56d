// What a machine can multiply at most, measured with the backend's own code. Uses the ops layer
// directly; no engine is involved.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "base/status.h"
#include "ops/ops.h"
#include "quant/format.h"
#include "slipstream/engine.h"

namespace slipstream {

// The table of --cpu-isa NAME; an error when this CPU or build lacks it.
Result<const Ops*> find_cpu_ops(const std::string& name);

struct RoofOptions {
  std::string cpu_isa = "auto";  // auto, ref, avx2, avx512
  int num_threads = 1;
};

struct GemmOptions {
  int64_t num_tokens = 512;
  int64_t rows = 4096;
  int64_t cols = 4096;
};
// Floating-point operations per second / 1e12 of `linear` on a large matrix whose blocks repeat
// those of `source`; the best of several passes.
Result<double> measure_gemm_tflops(const RoofOptions& options, const SourceMatrix& source,
                                   const GemmOptions& gemm);

// Floating-point operations per second / 1e12 by format, of large products in those that the model
// has, on its device. For when no engine uses it. Formats that cannot be made here are left out.
Result<std::map<std::string, double>> measure_products(const EngineOptions& options,
                                                       const ModelInfo& model);

}  // namespace slipstream
