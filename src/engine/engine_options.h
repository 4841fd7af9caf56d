// Checks EngineOptions once and turns words into choices. Everything here is the caller's to get
// wrong, so every error names the option.
#pragma once

#include <cstdint>
#include <string>

#include "base/status.h"
#include "core/dtype.h"
#include "loader/checkpoint.h"
#include "ops/ops.h"
#include "slipstream/options.h"

namespace slipstream {

struct ResolvedOptions {
  const Ops* ops = nullptr;
  int num_threads = 1;
  DType kv_dtype = DType::kF16;
  DType weight_dtype = DType::kBF16;  // of a GPU's packed matrices
  bool keep_stored_dtypes = false;    // of them, only those that the files store so
  bool dummy_weights = false;
  bool fake_executor = false;
};

Result<ResolvedOptions> resolve_options(const EngineOptions& options);

// The table of options.device, with options.cpu_isa; the CPU's where `auto` finds no GPU that this
// build can use.
Result<const Ops*> find_device(const EngineOptions& options);

// What `ops` packs matrices as for a quantization that an option names.
Result<DType> find_weight_dtype(const std::string& quantization, const Ops& ops);

// Quantization `auto` on a GPU: matrices that the files store as E4M3 stay so.
void follow_checkpoint(const EngineOptions& options, const Checkpoint& checkpoint,
                       ResolvedOptions& resolved);

}  // namespace slipstream
