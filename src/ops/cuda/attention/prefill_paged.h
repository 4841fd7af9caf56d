// Paged causal attention of prompt chunks. See prefill_paged.cu.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "ops/cuda/attention/paged_attention.h"

namespace slipstream::cuda {

// Successive tokens of a sequence's chunk: the queries of a tile.
struct alignas(16) PrefillTile {
  int32_t seq = 0;        // of the block table
  int32_t first_row = 0;  // of q and out
  int32_t num_tokens = 0;
  int32_t first_position = 0;

  int32_t kv_end() const { return first_position + num_tokens; }  // positions the last one sees
};

struct PrefillAttentionArgs : PagedAttentionArgs {
  const PrefillTile* tiles = nullptr;  // [num_tiles], longest contexts first
  int num_tiles = 0;
};

// A tile has so many rows at most: (token, head of a KV head's group) pairs.
constexpr int kPrefillRows = 128;

cudaError_t prefill_attention(const PrefillAttentionArgs& args, cudaStream_t stream);

// Heads of 64 and 128, by warpgroup products: prefill_warpgroups.cu.
cudaError_t prefill_attention_warpgroups(const PrefillAttentionArgs& args, int num_sms,
                                         cudaStream_t stream);

}  // namespace slipstream::cuda
