// Which CTA attends to which part of a context. Part i of n takes pages i, i + n, ...
#pragma once

#include "megakernel/abi.h"

namespace slipstream::megakernel {

// Warps of a CTA take pages side by side: fewer parts are merged sooner.
constexpr int kPagesPerPart = 4;

// Parts that a context of `position` tokens lies in.
__device__ __forceinline__ int log2_parts_in_use(const DecodeArgs& p, int position) {
  const int num_pages = position / kBlockTokens + 1;
  return min(p.log2_parts, 32 - __clz((num_pages - 1) / kPagesPerPart));
}

// What a CTA does of attention for the token at `position`.
struct AttentionShare {
  int log2_parts;
  int part;
  int kv_head;
  bool takes_part;
  int num_pages;  // of earlier tokens: part, part + parts, ...
};
__device__ __forceinline__ AttentionShare attention_share(const DecodeArgs& p, int cta,
                                                          int position) {
  AttentionShare share;
  share.log2_parts = log2_parts_in_use(p, position);
  share.part = cta & ((1 << p.log2_parts) - 1);
  share.kv_head = cta >> p.log2_parts;
  share.takes_part = share.kv_head < p.num_kv_heads && share.part < (1 << share.log2_parts);
  const int num_pages = (position + kBlockTokens - 1) / kBlockTokens;
  share.num_pages = share.takes_part && num_pages > share.part
                        ? ((num_pages - share.part - 1) >> share.log2_parts) + 1
                        : 0;
  return share;
}

}  // namespace slipstream::megakernel
