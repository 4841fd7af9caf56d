// What lies between the QKV product and attention, in one pass. See qkv.cu.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "ops/cuda/attention/decode_paged.h"

namespace slipstream::cuda {

struct QkvArgs {
  // [num_tokens, (num_heads + 2 * num_kv_heads) * head_dim] bf16: q, k, v. q is written in place.
  void* qkv = nullptr;
  const float* bias = nullptr;    // of the whole row, or null
  const float* q_norm = nullptr;  // [head_dim], or null: no norm of heads
  const float* k_norm = nullptr;
  float eps = 0.0f;
  const float* cos_sin = nullptr;  // [num_tokens, rotary_dim]: cosines, then sines
  int rotary_dim = 0;
  bool interleaved = false;
  const int64_t* slot_mapping = nullptr;  // [num_tokens], block * 16 + position in it
  void* k_pages = nullptr;                // [num_blocks, num_kv_heads, 16, head_dim]
  void* v_pages = nullptr;
  KvType kv_type = KvType::kBF16;
  const float* k_scale = nullptr;  // [num_kv_heads]; pages hold value / scale; null: 1
  const float* v_scale = nullptr;
  int num_tokens = 0;
  int num_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;  // as supports_decode_head_dim() says
};
cudaError_t norm_rope_append(const QkvArgs& args, cudaStream_t stream);

// cos_sin[M, rotary_dim] of positions, times attention_factor.
cudaError_t rope_table(const int32_t* positions, int num_tokens, const float* inv_freq,
                       int rotary_dim, float attention_factor, float* cos_sin, cudaStream_t stream);

}  // namespace slipstream::cuda
