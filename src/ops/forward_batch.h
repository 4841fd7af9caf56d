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
  // [T] or empty: tokens whose id is not known to the host yet, because an earlier step draws it:
  // its place among the ids of `drawn_slot`; -1: token_ids has it. For tables with `sample`.
  std::vector<int32_t> drawn_from;
  int drawn_slot = 0;

  int64_t num_tokens() const { return static_cast<int64_t>(token_ids.size()); }
  int num_seqs() const { return static_cast<int>(seq_lens.size()); }
  int64_t num_logit_rows() const { return static_cast<int64_t>(logit_rows.size()); }
};

// Sizes that a batch is filled up to where they have to be those of others; 0: as it is. Sequences
// that are added compute one token each, whose context is empty, whose K and V go nowhere and whose
// row of logits comes after those of the batch.
struct BatchFill {
  int num_seqs = 0;
  int64_t block_table_stride = 0;
};

// The arrays of a ForwardBatch in the memory of the device that runs it; borrowed.
struct BatchView {
  int64_t num_tokens = 0;
  int num_seqs = 0;
  int64_t num_logit_rows = 0;
  const int32_t* token_ids = nullptr;     // [T]
  const int32_t* positions = nullptr;     // [T]
  const int32_t* cu_seqlens_q = nullptr;  // [B + 1]
  const int32_t* seq_lens = nullptr;      // [B]
  const int64_t* slot_mapping = nullptr;  // [T]
  const int32_t* block_table = nullptr;   // [B, block_table_stride]
  int64_t block_table_stride = 0;
  const int32_t* logit_rows = nullptr;  // [R]
  const void* plan = nullptr;           // a backend's own: how it splits this step's attention
  uint32_t plan_key = 0;                // of it, below 2^16: equal where the same launches serve
};

inline BatchView host_view(const ForwardBatch& batch) {
  return {.num_tokens = batch.num_tokens(),
          .num_seqs = batch.num_seqs(),
          .num_logit_rows = batch.num_logit_rows(),
          .token_ids = batch.token_ids.data(),
          .positions = batch.positions.data(),
          .cu_seqlens_q = batch.cu_seqlens_q.data(),
          .seq_lens = batch.seq_lens.data(),
          .slot_mapping = batch.slot_mapping.data(),
          .block_table = batch.block_table.data(),
          .block_table_stride = batch.block_table_stride,
          .logit_rows = batch.logit_rows.data()};
}

}  // namespace slipstream
