// Attention on the CPU: cuts a ragged batch into tiles of queries that share a KV head, and spreads
// long contexts of few queries over partitions.
#pragma once

#include "ops/cpu/kernels.h"
#include "ops/ops.h"

namespace slipstream {

size_t attention_scratch_bytes(const OpLimits& limits);
void cpu_attention(const CpuKernels& kernels, OpContext& ctx, const AttentionArgs& args);
void cpu_kv_append(const CpuKernels& kernels, OpContext& ctx, TensorView k, TensorView v,
                   const int64_t* slot_mapping, const KVLayerView& kv);

}  // namespace slipstream
