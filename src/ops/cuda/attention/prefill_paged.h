// Paged causal attention of prompt chunks. See prefill_paged.cu.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "ops/attention_plan.h"
#include "ops/cuda/attention/paged_attention.h"

namespace slipstream::cuda {

struct PrefillAttentionArgs : PagedAttentionArgs {
  const PrefillTile* tiles = nullptr;  // [num_tiles], longest contexts first
  int num_tiles = 0;
};

cudaError_t prefill_attention(const PrefillAttentionArgs& args, cudaStream_t stream);

// Heads of 64 and 128, by warpgroup products: prefill_warpgroups.cu.
cudaError_t prefill_attention_warpgroups(const PrefillAttentionArgs& args, int num_sms,
                                         cudaStream_t stream);

}  // namespace slipstream::cuda
