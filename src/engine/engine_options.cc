#include "engine/engine_options.h"

#include <limits>
#include <string>

#include "base/machine.h"
#include "base/strings.h"

namespace slipstream {
namespace {

// Positions and slots are 32-bit in kernels.
constexpr int64_t kMaxTokens = std::numeric_limits<int32_t>::max() / 2;

// A minute: longer steps only look like a hang.
constexpr int64_t kMaxStepUs = 60'000'000;

struct CountRange {
  int64_t low = 0;
  int64_t high = kMaxTokens;
};

Status check_count(const char* name, int64_t value, CountRange range) {
  if (value >= range.low && value <= range.high) return {};
  return bad_usage(
      str(name, " is ", value, "; it must be between ", range.low, " and ", range.high));
}

Result<const Ops*> find_ops(const std::string& isa_name) {
  struct Choice {
    const char* name;
    CpuIsa isa;
  };
  constexpr Choice kChoices[] = {{"auto", CpuIsa::kAuto},
                                 {"ref", CpuIsa::kRef},
                                 {"avx2", CpuIsa::kAvx2},
                                 {"avx512", CpuIsa::kAvx512}};
  for (const Choice& choice : kChoices) {
    if (isa_name != choice.name) continue;
    const Ops* const ops = cpu_ops(choice.isa);
    if (ops == nullptr) {
      return does_not_fit(str("cpu_isa ", isa_name, " is missing on this machine; use auto"));
    }
    return ops;
  }
  return bad_usage(str("cpu_isa is ", quote(isa_name), "; it must be auto, ref, avx2 or avx512"));
}

Result<DType> find_kv_dtype(const std::string& name, const Ops& ops) {
  if (!on_host(ops)) {
    if (name == "auto" || name == "bf16") return DType::kBF16;
    if (name == "fp8" || name == "fp8_e4m3") return DType::kF8E4M3;
    return bad_usage(str("kv_cache_dtype is ", quote(name),
                         "; on the GPU it must be auto, bf16, fp8 or fp8_e4m3"));
  }
  if (name == "auto" || name == "f16") return DType::kF16;
  if (name == "f32") return DType::kF32;
  return bad_usage(
      str("kv_cache_dtype is ", quote(name), "; on the CPU it must be auto, f16 or f32"));
}

Status check_counts(const EngineOptions& options) {
  SLIPSTREAM_RETURN_IF_ERROR(check_count("max_model_len", options.max_model_len, {}));
  SLIPSTREAM_RETURN_IF_ERROR(check_count("max_num_seqs", options.max_num_seqs, {1, 65536}));
  SLIPSTREAM_RETURN_IF_ERROR(
      check_count("max_num_batched_tokens", options.max_num_batched_tokens, {1, 1 << 20}));
  SLIPSTREAM_RETURN_IF_ERROR(
      check_count("max_queued_requests", options.max_queued_requests, {0, 1 << 24}));
  SLIPSTREAM_RETURN_IF_ERROR(check_count("kv_cache_bytes", options.kv_cache_bytes,
                                         {0, std::numeric_limits<int64_t>::max()}));
  SLIPSTREAM_RETURN_IF_ERROR(check_count("max_logprobs", options.max_logprobs, {0, 1024}));
  if (options.block_size != 16) {
    return bad_usage(str("block_size is ", options.block_size, "; the CPU kernels need 16"));
  }
  return {};
}

}  // namespace

Result<DType> find_weight_dtype(const std::string& quantization, const Ops& ops) {
  if (quantization == "auto") return DType::kBF16;
  if (quantization == "fp8" && !on_host(ops)) return DType::kF8E4M3;
  if (quantization == "int4" && !on_host(ops)) return DType::kI4;
  return bad_usage(
      str("quantization is ", quote(quantization), "; it must be auto",
          on_host(ops) ? ": on the CPU weights stay as the files store them" : ", fp8 or int4"));
}

Result<const Ops*> find_device(const EngineOptions& options) {
  const std::string& device = options.device;
  if (device == "cpu") return find_ops(options.cpu_isa);
  std::string why;
  if (device == "auto") {
    const Ops* const cuda = options.cpu_isa == "auto" ? cuda_ops(&why) : nullptr;
    if (cuda != nullptr) return cuda;
    return find_ops(options.cpu_isa);
  }
  if (device != "cuda" && !starts_with(device, "cuda:")) {
    return bad_usage(str("device is ", quote(device), "; it must be auto, cpu, cuda or cuda:N"));
  }
  const Ops* const cuda = cuda_ops(&why);
  if (cuda == nullptr) {
    return does_not_fit(str("device ", quote(device), " is missing: ", why, "; use cpu"));
  }
  if (device != "cuda" && device != "cuda:0") {
    return does_not_fit(str("device ", quote(device),
                            ": this build runs on cuda:0 alone; hide the "
                            "others with CUDA_VISIBLE_DEVICES"));
  }
  return cuda;
}

Result<ResolvedOptions> resolve_options(const EngineOptions& options) {
  ResolvedOptions resolved;
  SLIPSTREAM_RETURN_IF_ERROR(check_counts(options));
  SLIPSTREAM_ASSIGN_OR_RETURN(resolved.ops, find_device(options));
  SLIPSTREAM_ASSIGN_OR_RETURN(resolved.kv_dtype,
                              find_kv_dtype(options.kv_cache_dtype, *resolved.ops));
  SLIPSTREAM_ASSIGN_OR_RETURN(resolved.weight_dtype,
                              find_weight_dtype(options.quantization, *resolved.ops));
  if (options.gpu_memory_utilization <= 0.0 || options.gpu_memory_utilization > 1.0) {
    return bad_usage(str("gpu_memory_utilization is ", options.gpu_memory_utilization,
                         "; it must be above 0 and at most 1"));
  }

  const int num_cores = available_cores();
  if (options.num_threads < 0 || options.num_threads > num_cores) {
    return bad_usage(str("num_threads is ", options.num_threads, "; this machine has ", num_cores,
                         " cores (0 uses them all)"));
  }
  resolved.num_threads = options.num_threads == 0 ? num_cores : options.num_threads;

  if (options.load_format != "auto" && options.load_format != "dummy") {
    return bad_usage(
        str("load_format is ", quote(options.load_format), "; it must be auto or dummy"));
  }
  resolved.dummy_weights = options.load_format == "dummy";
  resolved.fake_executor = options.executor == "fake";
  const bool of_device = options.executor == "graph" || options.executor == "megakernel";
  if (of_device && resolved.ops->replay == nullptr) {
    return bad_usage(str("executor ", options.executor, " needs a GPU and the device is ",
                         resolved.ops->memory->name, ": use --device cuda or --executor auto"));
  }
  if (options.executor != "auto" && options.executor != "eager" && !of_device &&
      !resolved.fake_executor) {
    return bad_usage(str("executor is ", quote(options.executor), "; it must be auto, eager",
                         resolved.ops->replay != nullptr ? ", graph, megakernel" : "", " or fake"));
  }
  SLIPSTREAM_RETURN_IF_ERROR(check_count("fake_step_us", options.fake_step_us, {0, kMaxStepUs}));
  if (options.fake_step_us > 0 && !resolved.fake_executor) {
    return bad_usage("fake_step_us is given; only the executor fake has a step time to choose");
  }
  if (options.model.empty()) return bad_usage("no model is named");
  return resolved;
}

void follow_checkpoint(const EngineOptions& options, const Checkpoint& checkpoint,
                       ResolvedOptions& resolved) {
  if (options.quantization != "auto" || on_host(*resolved.ops)) return;
  if (!checkpoint.stores(QuantType::kE4M3)) return;
  resolved.weight_dtype = DType::kF8E4M3;
  resolved.keep_stored_dtypes = true;
}

}  // namespace slipstream
