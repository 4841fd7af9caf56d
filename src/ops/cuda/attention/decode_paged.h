// Paged attention of single tokens, each over its own positions. See decode_paged.cu.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "ops/cuda/attention/paged_attention.h"

namespace slipstream::cuda {

// A token that attends to the first seq_len positions of its sequence.
struct alignas(16) DecodeQuery {
  int32_t row = 0;  // of q and out
  int32_t seq = 0;  // of the block table
  int32_t seq_len = 0;
  int32_t old_len = 0;  // positions that earlier steps have written
};

struct DecodeAttentionArgs : PagedAttentionArgs {
  const DecodeQuery* queries = nullptr;  // [num_queries]; best the longest first
  int num_queries = 0;
  // Positions one CTA reduces, counted from 0; a multiple of 64. Longer contexts are split.
  int split_len = 0;
  int max_splits = 1;  // >= the most splits of any query
  float* partials =
      nullptr;  // [num_queries, num_heads, max_splits, head_dim + 1]; with max_splits > 1
};

cudaError_t decode_attention(const DecodeAttentionArgs& args, cudaStream_t stream);

}  // namespace slipstream::cuda
