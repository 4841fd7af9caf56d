// ForwardBatch: one step's work, ragged and mixed: prefill chunks and decodes side by side.
// Host arrays, filled by the engine, borrowed by the forward pass.
#pragma once

#include <cstdint>
#include <vector>

namespace slipstream {

struct ForwardBatch {
  std::vector<int32_t> token_ids;     // [T]
  std::vector<int32_t> positions;     // [T]
  std::vector<int32_t> cu_seqlens_q;  // [B + 1], first 0, last T
  std::vector<int32_t> seq_lens;      // [B], KV positions after this step
  std::vector<int64_t> slot_mapping;  // [T], block * block_size + offset
  std::vector<int32_t> block_table;   // [B, block_table_stride]
  int64_t block_table_stride = 0;
  std::vector<int32_t> logit_rows;  // [R], rows of T whose logits are wanted, ascending

  int64_t num_tokens() const { return static_cast<int64_t>(token_ids.size()); }
  int num_seqs() const { return static_cast<int>(seq_lens.size()); }
  int64_t num_logit_rows() const { return static_cast<int64_t>(logit_rows.size()); }
};

}  // namespace slipstream
