// AttentionPlan: how a device's table cuts a step's attention; kernels read it as it is.
#pragma once

#include <cstdint>

namespace slipstream {

// A token that attends to the first seq_len positions of its sequence.
struct alignas(16) DecodeQuery {
  int32_t row = 0;  // of q and out
  int32_t seq = 0;  // of the block table
  int32_t seq_len = 0;
  int32_t old_len = 0;  // positions that earlier steps have written
};

// Successive tokens of a sequence's chunk: the queries of a tile.
struct alignas(16) PrefillTile {
  int32_t seq = 0;        // of the block table
  int32_t first_row = 0;  // of q and out
  int32_t num_tokens = 0;
  int32_t first_position = 0;

  int32_t kv_end() const { return first_position + num_tokens; }  // positions the last one sees
};
// A tile has so many rows at most: (token, head of a KV head's group) pairs.
constexpr int kPrefillRows = 128;

// Decode attention splits contexts longer than this, or than a larger power of two where there are
// queries enough to fill the device.
constexpr int64_t kLeastSplitLen = 1024;
constexpr int kMaxSplitQueries = 256;

// How a step's attention is cut: single tokens, and tiles of the longer chunks. Where results must
// not depend on chunks, every token is single. The longest contexts come first: the last to start
// are short ones, so that all end together.
struct AttentionPlan {
  int num_queries = 0;
  const DecodeQuery* queries = nullptr;  // device
  int64_t split_len = kLeastSplitLen;
  int num_splits = 1;  // of the longest context
  int num_tiles = 0;
  const PrefillTile* tiles = nullptr;  // device
};

}  // namespace slipstream
