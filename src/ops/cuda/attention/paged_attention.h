// What every kernel that attends to pages is told of a layer and its batch.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace slipstream::cuda {

enum class KvType : uint8_t { kBF16, kE4M3 };

constexpr bool has_attention_kernels(int64_t head_dim) {
  return head_dim == 16 || head_dim == 32 || head_dim == 64 || head_dim == 80 || head_dim == 96 ||
         head_dim == 128 || head_dim == 256;
}

struct PagedAttentionArgs {
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
  int num_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  float scale = 1.0f;
  int window = 0;        // 0: full
  float softcap = 0.0f;  // 0: none
};

}  // namespace slipstream::cuda
