// The kernels of one instruction set: included by isa_avx2.cc and isa_avx512.cc inside an anonymous
// namespace, after the lanes (simd_*.h). One source for all, so correctness and bits are shared.

#include "ops/cpu/simd_common.h"
//
#include "ops/cpu/linear.inl"
//
#include "ops/cpu/linear_dense.inl"
//
#include "ops/cpu/attention.inl"
//
#include "ops/cpu/rows.inl"

// Constant-initialised: not even a constructor is compiled for an instruction set.
// Linear kernels are in the order of QuantType.
static_assert(kNumQuantTypes == 12 && static_cast<int>(QuantType::kQ8_0) == 3 &&
              static_cast<int>(QuantType::kQ4_K) == 8 && static_cast<int>(QuantType::kE4M3) == 11);
constexpr CpuKernels kKernels = {
    .name = kIsaName,
    .tile_tokens = kTileTokens,
    .prepare_codes = prepare_codes,
    .prepare_values = prepare_values,
    .linear_fused = {dense_fused<DenseF32>, dense_fused<DenseF16>, dense_fused<DenseBF16>,
                     linear_fused<FormatQ8_0>, linear_fused<FormatQ4_0>, linear_fused<FormatQ4_1>,
                     linear_fused<FormatQ5_0>, linear_fused<FormatQ5_1>, linear_fused<FormatQ4_K>,
                     linear_fused<FormatQ5_K>, linear_fused<FormatQ6_K>, dense_fused<DenseE4M3>},
    .linear_tiled = {dense_tiled<DenseF32>, dense_tiled<DenseF16>, dense_tiled<DenseBF16>,
                     linear_tiled<FormatQ8_0>, linear_tiled<FormatQ4_0>, linear_tiled<FormatQ4_1>,
                     linear_tiled<FormatQ5_0>, linear_tiled<FormatQ5_1>, linear_tiled<FormatQ4_K>,
                     linear_tiled<FormatQ5_K>, linear_tiled<FormatQ6_K>, dense_tiled<DenseE4M3>},
    .attention_partition = attention_partition,
    .attention_merge = attention_merge,
    .attention_finish = attention_finish,
    .rms_norm = rms_norm,
    .add = add,
    .silu_mul = silu_mul,
    .rope = rope,
    .to_half = to_half,
    .read_bytes = read_bytes,
};
