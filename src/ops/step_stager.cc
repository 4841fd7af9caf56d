#include "ops/step_stager.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>

#include "base/check.h"

namespace slipstream {
namespace {

// Recorded launches and their vector loads want aligned arrays.
constexpr size_t aligned(size_t bytes) { return (bytes + 255) / 256 * 256; }

size_t most_bytes(const StagingLimits& staging) {
  const OpLimits& limits = staging.ops;
  const auto tokens = static_cast<size_t>(limits.max_tokens);
  const auto blocks = static_cast<size_t>(staging.max_blocks_per_seq);
  const auto seqs = static_cast<size_t>(limits.max_seqs);
  return aligned(tokens * 4) * 4 + aligned(tokens * 8) + aligned((seqs + 1) * 4) * 2 +
         aligned(tokens * sizeof(DecodeQuery)) + aligned((tokens + seqs) * sizeof(PrefillTile)) +
         aligned(seqs * blocks * 4);
}

// Steps that are not split are the same whatever a part's length.
uint32_t plan_key(const AttentionPlan& plan) {
  if (plan.num_splits == 1) return 1;
  const auto length = static_cast<uint64_t>(plan.split_len / kLeastSplitLen);
  return static_cast<uint32_t>(std::countr_zero(length)) << 12 |
         static_cast<uint32_t>(plan.num_splits);
}

}  // namespace

StepStager::StepStager(const StagingLimits& limits)
    : limits_(limits), num_bytes_(most_bytes(limits)) {}

template <typename T>
T* StepStager::reserve(size_t count, const T*& device) {
  const size_t bytes = aligned(count * sizeof(T));
  SLIPSTREAM_CHECK(used_ + bytes <= num_bytes_, "a batch fits its staging memory");
  auto* const host = reinterpret_cast<T*>(memory_.host + used_);
  device = reinterpret_cast<const T*>(memory_.device + used_);
  used_ += bytes;
  return host;
}

// The values, then `num_filled` more: first_filled and `step` more each.
template <typename T>
const T* StepStager::put(const std::vector<T>& values, size_t num_filled, T first_filled, T step) {
  const T* device = nullptr;
  T* const host = reserve(values.size() + num_filled, device);
  if (!values.empty()) std::memcpy(host, values.data(), values.size() * sizeof(T));
  for (size_t i = 0; i < num_filled; ++i) {
    host[values.size() + i] = first_filled + static_cast<T>(i) * step;
  }
  return device;
}

const int32_t* StepStager::put_block_table(const ForwardBatch& batch, size_t num_seqs,
                                           size_t stride) {
  const int32_t* device = nullptr;
  int32_t* row = reserve(num_seqs * stride, device);
  const auto from_stride = static_cast<size_t>(batch.block_table_stride);
  const auto num_known = static_cast<size_t>(batch.num_seqs());
  // Unused entries are written as well: a kernel may look up a block that it then does not read.
  const size_t count = std::min(from_stride, stride);
  for (size_t seq = 0; seq < num_known; ++seq, row += stride) {
    std::memcpy(row, batch.block_table.data() + seq * from_stride, count * sizeof(int32_t));
    std::memset(row + count, 0, (stride - count) * sizeof(int32_t));
  }
  std::memset(row, 0, (num_seqs - num_known) * stride * sizeof(int32_t));
  return device;
}

void StepStager::cut_attention(const ForwardBatch& batch, int num_filled) {
  queries_.clear();
  tiles_.clear();
  const int32_t tokens_per_tile =
      kPrefillRows / static_cast<int32_t>(limits_.ops.heads_per_kv_head);
  for (int seq = 0; seq < batch.num_seqs(); ++seq) {
    const auto s = static_cast<size_t>(seq);
    const int32_t first_row = batch.cu_seqlens_q[s];
    const int32_t count = batch.cu_seqlens_q[s + 1] - first_row;
    if (count == 1 || limits_.deterministic) {
      const int32_t first_len = batch.seq_lens[s] - count + 1;
      for (int32_t token = 0; token < count; ++token) {
        queries_.push_back({first_row + token, seq, first_len + token, first_len - 1});
      }
      continue;
    }
    for (int32_t token = 0; token < count; token += tokens_per_tile) {
      tiles_.push_back({seq, first_row + token, std::min(tokens_per_tile, count - token),
                        batch.seq_lens[s] - count + token});
    }
  }
  const auto num_tokens = static_cast<int32_t>(batch.num_tokens());
  for (int32_t i = 0; i < num_filled; ++i) {
    queries_.push_back({num_tokens + i, batch.num_seqs() + i, 0, -1});
  }
}

// Orders what cut_attention() has found, and writes it.
void StepStager::put_cuts() {
  const auto longer = [this](int32_t a, int32_t b) {
    const int32_t a_len = queries_[static_cast<size_t>(a)].seq_len;
    const int32_t b_len = queries_[static_cast<size_t>(b)].seq_len;
    return a_len != b_len ? a_len > b_len : a < b;
  };
  if (order_.size() != queries_.size()) {
    order_.resize(queries_.size());
    std::iota(order_.begin(), order_.end(), 0);
  }
  if (!std::is_sorted(order_.begin(), order_.end(), longer)) {
    std::sort(order_.begin(), order_.end(), longer);
  }
  plan_ = AttentionPlan();
  plan_.num_queries = static_cast<int>(queries_.size());
  DecodeQuery* query = reserve(queries_.size(), plan_.queries);
  int64_t num_positions = 0;
  for (const int32_t idx : order_) {
    *query = queries_[static_cast<size_t>(idx)];
    num_positions += query++->seq_len;
  }
  if (!queries_.empty()) {
    plan_splits(queries_[static_cast<size_t>(order_.front())].seq_len, num_positions);
  }
  std::sort(tiles_.begin(), tiles_.end(), [](const PrefillTile& a, const PrefillTile& b) {
    return a.kv_end() != b.kv_end() ? a.kv_end() > b.kv_end() : a.first_row < b.first_row;
  });
  plan_.num_tiles = static_cast<int>(tiles_.size());
  std::copy(tiles_.begin(), tiles_.end(), reserve(tiles_.size(), plan_.tiles));
}

// Long contexts are split so that no block works much longer than the others; but a context that is
// split is written twice and merged. So a part is at least what a place on the device gets when all
// places get the same.
void StepStager::plan_splits(int64_t longest, int64_t num_positions) {
  constexpr int64_t kBlocksPerSm = 6;
  const OpLimits& ops = limits_.ops;
  const int64_t kv_heads = ops.max_heads / ops.heads_per_kv_head;
  const int64_t share = num_positions * kv_heads / (kBlocksPerSm * limits_.num_sms);
  const auto num_splits = [&] { return (longest + plan_.split_len - 1) / plan_.split_len; };
  const int64_t floats_per_split = ops.max_heads * (ops.max_head_dim + 1);
  const auto too_many = [&] {
    return num_splits() > 1 &&
           plan_.num_queries * num_splits() * floats_per_split > limits_.partials_floats;
  };
  while (!limits_.deterministic && num_splits() > 1 && (plan_.split_len < share || too_many())) {
    plan_.split_len *= 2;
  }
  plan_.num_splits = static_cast<int>(std::max<int64_t>(1, num_splits()));
  if (plan_.num_splits == 1) plan_.split_len = (ops.max_context + 63) / 64 * 64;
}

StepStager::Staged StepStager::stage(const ForwardBatch& batch, BatchFill fill,
                                     const StagingMemory& memory) {
  memory_ = memory;
  used_ = 0;
  const int num_seqs = std::max(batch.num_seqs(), fill.num_seqs);
  const int num_filled = num_seqs - batch.num_seqs();
  const auto more = static_cast<size_t>(num_filled);
  const auto num_tokens = static_cast<int32_t>(batch.num_tokens());
  Staged staged;
  BatchView& view = staged.view;
  view.num_tokens = num_tokens + num_filled;
  view.num_seqs = num_seqs;
  view.num_logit_rows = batch.num_logit_rows() + num_filled;
  view.token_ids = put(batch.token_ids, more, 0);
  view.positions = put(batch.positions, more, 0);
  view.cu_seqlens_q = put(batch.cu_seqlens_q, more, num_tokens + 1, 1);
  view.seq_lens = put(batch.seq_lens, more, 0);
  view.slot_mapping = put(batch.slot_mapping, more, int64_t{-1});
  view.logit_rows = put(batch.logit_rows, more, num_tokens, 1);
  cut_attention(batch, num_filled);
  put_cuts();
  view.block_table_stride = std::max(batch.block_table_stride, fill.block_table_stride);
  view.block_table = put_block_table(batch, static_cast<size_t>(num_seqs),
                                     static_cast<size_t>(view.block_table_stride));
  view.plan = &plan_;
  view.plan_key = plan_key(plan_);
  // Last, so that the others lie at the same place whether or not ids are drawn.
  if (!batch.drawn_from.empty()) staged.drawn_from = put(batch.drawn_from, more, -1);
  staged.num_bytes = used_;
  return staged;
}

}  // namespace slipstream
