// The kernels of one instruction set: included by isa_avx2.cc and isa_avx512.cc inside an anonymous
// namespace, after the lanes (simd_*.h). One source for all, so correctness and bits are shared.

#include "ops/cpu/simd_common.h"
//
#include "ops/cpu/linear.inl"
//
#include "ops/cpu/attention.inl"
//
#include "ops/cpu/rows.inl"

CpuKernels make_kernels(const char* name) {
  CpuKernels kernels;
  kernels.name = name;
  kernels.tile_tokens = kTileTokens;
  kernels.prepare_codes = prepare_codes;
  kernels.prepare_values = prepare_values;
  const auto set_fused = [&](QuantType type, void (*fused)(const LinearTask&),
                             void (*tiled)(const LinearTask&)) {
    kernels.linear_fused[static_cast<int>(type)] = fused;
    kernels.linear_tiled[static_cast<int>(type)] = tiled;
  };
  set_fused(QuantType::kF32, dense_fused<DenseF32>, dense_tiled<DenseF32>);
  set_fused(QuantType::kF16, dense_fused<DenseF16>, dense_tiled<DenseF16>);
  set_fused(QuantType::kBF16, dense_fused<DenseBF16>, dense_tiled<DenseBF16>);
  set_fused(QuantType::kQ8_0, linear_fused<FormatQ8_0>, linear_tiled<FormatQ8_0>);
  set_fused(QuantType::kQ4_0, linear_fused<FormatQ4_0>, linear_tiled<FormatQ4_0>);
  set_fused(QuantType::kQ4_1, linear_fused<FormatQ4_1>, linear_tiled<FormatQ4_1>);
  set_fused(QuantType::kQ5_0, linear_fused<FormatQ5_0>, linear_tiled<FormatQ5_0>);
  set_fused(QuantType::kQ5_1, linear_fused<FormatQ5_1>, linear_tiled<FormatQ5_1>);
  set_fused(QuantType::kQ4_K, linear_fused<FormatQ4_K>, linear_tiled<FormatQ4_K>);
  set_fused(QuantType::kQ5_K, linear_fused<FormatQ5_K>, linear_tiled<FormatQ5_K>);
  set_fused(QuantType::kQ6_K, linear_fused<FormatQ6_K>, linear_tiled<FormatQ6_K>);
  kernels.attention_partition = attention_partition;
  kernels.attention_merge = attention_merge;
  kernels.attention_finish = attention_finish;
  kernels.rms_norm = rms_norm;
  kernels.add = add;
  kernels.silu_mul = silu_mul;
  kernels.rope = rope;
  kernels.to_half = to_half;
  kernels.read_bytes = read_bytes;
  return kernels;
}
