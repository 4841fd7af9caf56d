// Paged attention of the newest token of every sequence. See decode_paged.cu.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "ops/cuda/attention/paged_attention.h"

namespace slipstream::cuda {

struct DecodeAttentionArgs : PagedAttentionArgs {
  // The sequences to serve, whose row of q cu_seqlens_q tells; null: all, sequence i at row i.
  const int32_t* seq_ids = nullptr;
  int num_seqs = 0;  // to serve
  // Positions one CTA reduces; a multiple of 64. Sequences longer than this are split.
  int split_len = 0;
  int max_splits = 1;  // >= the most splits of any sequence
  float* partials =
      nullptr;  // [num_seqs, num_heads, max_splits, head_dim + 1]; with max_splits > 1
};

constexpr bool supports_decode_head_dim(int head_dim) {
  return head_dim == 64 || head_dim == 80 || head_dim == 96 || head_dim == 128 || head_dim == 256;
}

cudaError_t decode_attention(const DecodeAttentionArgs& args, cudaStream_t stream);

}  // namespace slipstream::cuda
