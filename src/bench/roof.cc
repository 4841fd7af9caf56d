#include "bench/roof.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "base/strings.h"
#include "base/thread_pool.h"
#include "engine/engine_options.h"
#include "ops/gemm_roof.h"

namespace slipstream {
namespace {

// A rows x cols matrix whose bytes are the source's, repeated.
std::vector<std::byte> repeated_blocks(const SourceMatrix& source, int64_t matrix_bytes) {
  std::vector<std::byte> bytes(static_cast<size_t>(matrix_bytes));
  const auto source_bytes = static_cast<size_t>(source.bytes());
  for (size_t done = 0; done < bytes.size(); done += source_bytes) {
    std::memcpy(bytes.data() + done, source.data, std::min(source_bytes, bytes.size() - done));
  }
  return bytes;
}

}  // namespace

Result<const Ops*> find_cpu_ops(const std::string& name) {
  for (const CpuIsa isa : {CpuIsa::kAuto, CpuIsa::kRef, CpuIsa::kAvx2, CpuIsa::kAvx512}) {
    const char* isa_name = isa == CpuIsa::kAuto ? "auto" : cpu_isa_name(isa);
    if (name != isa_name) continue;
    const Ops* ops = cpu_ops(isa);
    if (ops == nullptr) return does_not_fit(str("this CPU has no ", name));
    return ops;
  }
  return bad_usage(str("unknown instruction set ", quote(name)));
}

Result<double> measure_gemm_tflops(const RoofOptions& options, const SourceMatrix& source,
                                   const GemmOptions& gemm) {
  SLIPSTREAM_ASSIGN_OR_RETURN(const Ops* ops, find_cpu_ops(options.cpu_isa));
  ThreadPool pool(options.num_threads);
  SourceMatrix large{nullptr, source.type, gemm.rows, gemm.cols};
  const std::vector<std::byte> blocks = repeated_blocks(source, large.bytes());
  large.data = blocks.data();
  SLIPSTREAM_ASSIGN_OR_RETURN(const GemmRate rate,
                              measure_gemm(*ops, pool, large, DType::kBF16, gemm.num_tokens));
  return rate.best_tflops;
}

Result<std::map<std::string, double>> measure_products(const EngineOptions& options,
                                                       const ModelInfo& model) {
  SLIPSTREAM_ASSIGN_OR_RETURN(const Ops* const ops, find_device(options));
  ThreadPool pool(model.num_threads);
  const std::array formats = {model.flops.layers_format, model.flops.head_format};
  return measure_gemm_rates(*ops, pool, formats);
}

}  // namespace slipstream
