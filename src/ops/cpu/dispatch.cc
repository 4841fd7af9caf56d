// Which instruction sets this processor can run; the only place that asks.
#include "ops/cpu/cpu_ops.h"
#include "ops/cpu/ref/ref_ops.h"
#include "ops/ops.h"

namespace slipstream {
namespace {

bool has_avx2() {
  return __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0 &&
         __builtin_cpu_supports("f16c") != 0;
}

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") != 0 &&
         __builtin_cpu_supports("avx512bw") != 0 && __builtin_cpu_supports("avx512vl") != 0 &&
         __builtin_cpu_supports("avx512dq") != 0 && __builtin_cpu_supports("avx512vnni") != 0;
}

}  // namespace

const Ops* cpu_ops(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kAuto:
      if (has_avx512()) return &avx512_ops();
      return has_avx2() ? &avx2_ops() : ref_ops();
    case CpuIsa::kRef:
      return ref_ops();
    case CpuIsa::kAvx2:
      return has_avx2() ? &avx2_ops() : nullptr;
    case CpuIsa::kAvx512:
      return has_avx512() ? &avx512_ops() : nullptr;
  }
  return nullptr;
}

const char* cpu_isa_name(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kAuto:
      return "auto";
    case CpuIsa::kRef:
      return "ref";
    case CpuIsa::kAvx2:
      return "avx2";
    case CpuIsa::kAvx512:
      return "avx512";
  }
  return "?";
}

}  // namespace slipstream
