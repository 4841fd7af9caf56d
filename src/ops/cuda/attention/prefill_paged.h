// Paged causal attention of prompt chunks. See prefill_paged.cu.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "ops/cuda/attention/decode_paged.h"

namespace slipstream::cuda {

// A tile of queries: tokens [first_token, first_token + tokens_per_tile) of a sequence's chunk.
struct PrefillTile {
  int32_t seq = 0;
  int32_t first_token = 0;  // within the chunk
};

struct PrefillAttentionArgs {
  const void* q = nullptr;  // bf16 [num_tokens, num_heads, head_dim], row stride q_stride
  void* out = nullptr;      // bf16 [num_tokens, num_heads, head_dim], row stride out_stride
  int64_t q_stride = 0;
  int64_t out_stride = 0;
  const void* k_pages = nullptr;  // [num_blocks, num_kv_heads, 16, head_dim]
  const void* v_pages = nullptr;
  KvType kv_type = KvType::kBF16;
  const float* k_scale = nullptr;  // [num_kv_heads], multiply stored values; null: 1
  const float* v_scale = nullptr;
  const int32_t* block_table = nullptr;  // [num_seqs, block_table_stride]
  int64_t block_table_stride = 0;
  const int32_t* cu_seqlens_q = nullptr;  // [num_seqs + 1]
  const int32_t* seq_lens = nullptr;      // [num_seqs], positions after this step
  const PrefillTile* tiles = nullptr;     // [num_tiles], longest contexts first
  int num_tiles = 0;
  int num_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  float scale = 1.0f;
  int window = 0;
  float softcap = 0.0f;
};

constexpr int kPrefillRows = 128;
// Tokens of one tile: its rows are (token, head of the group) pairs.
inline int prefill_tokens_per_tile(int num_heads, int num_kv_heads) {
  return kPrefillRows / (num_heads / num_kv_heads);
}

cudaError_t prefill_attention(const PrefillAttentionArgs& args, cudaStream_t stream);

}  // namespace slipstream::cuda
