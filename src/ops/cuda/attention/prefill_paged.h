// Paged causal attention of prompt chunks. See prefill_paged.cu.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "ops/cuda/attention/paged_attention.h"

namespace slipstream::cuda {

// A tile of queries: tokens [first_token, first_token + tokens_per_tile) of a sequence's chunk.
struct PrefillTile {
  int32_t seq = 0;
  int32_t first_token = 0;  // within the chunk
};

struct PrefillAttentionArgs : PagedAttentionArgs {
  const PrefillTile* tiles = nullptr;  // [num_tiles], longest contexts first
  int num_tiles = 0;
  const int32_t* cu_seqlens_q = nullptr;  // [num_seqs + 1]
  const int32_t* seq_lens = nullptr;      // [num_seqs], positions after this step
};

constexpr int kPrefillRows = 128;
// Tokens of one tile: its rows are (token, head of the group) pairs.
inline int prefill_tokens_per_tile(int num_heads, int num_kv_heads) {
  return kPrefillRows / (num_heads / num_kv_heads);
}

cudaError_t prefill_attention(const PrefillAttentionArgs& args, cudaStream_t stream);

}  // namespace slipstream::cuda
