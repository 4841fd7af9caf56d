// Paged attention of the newest token of every sequence. See decode_paged.cu.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace slipstream::cuda {

enum class KvType : uint8_t { kBF16, kE4M3 };

struct DecodeAttentionArgs {
  const void* q = nullptr;  // bf16 [num_tokens, num_heads, head_dim], row stride q_stride
  void* out = nullptr;      // bf16 [num_tokens, num_heads, head_dim], row stride out_stride
  int64_t q_stride = 0;
  int64_t out_stride = 0;
  // [num_blocks, num_kv_heads, 16, head_dim]
  const void* k_pages = nullptr;
  const void* v_pages = nullptr;
  KvType kv_type = KvType::kBF16;
  const float* k_scale = nullptr;  // [num_kv_heads], multiply stored values; null: 1
  const float* v_scale = nullptr;
  const int32_t* block_table = nullptr;  // [num_seqs, block_table_stride]
  int64_t block_table_stride = 0;
  const int32_t* seq_lens = nullptr;  // [num_seqs], positions including the newest
  // The sequences to serve, and the row of q of each; null: all, sequence i at row i.
  const int32_t* seq_ids = nullptr;
  const int32_t* cu_seqlens_q = nullptr;
  int num_seqs = 0;  // to serve
  int num_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  float scale = 1.0f;
  int window = 0;        // 0: full
  float softcap = 0.0f;  // 0: none
  // Positions one CTA reduces; a multiple of 64. Sequences longer than this are split.
  int split_len = 0;
  int max_splits = 1;  // >= the most splits of any sequence
  float* partials =
      nullptr;  // [num_seqs, num_heads, max_splits, head_dim + 1]; with max_splits > 1
};

cudaError_t decode_attention(const DecodeAttentionArgs& args, cudaStream_t stream);

}  // namespace slipstream::cuda
