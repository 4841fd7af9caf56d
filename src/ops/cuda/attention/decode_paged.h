// Paged attention of single tokens, each over its own positions. See decode_paged.cu.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "ops/attention_plan.h"
#include "ops/cuda/attention/paged_attention.h"

namespace slipstream::cuda {

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
