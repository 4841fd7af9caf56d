// The graph executor: launching the hundreds of ops of a step costs the host more time than the
// device needs for a small batch, so their launches are recorded once and replayed.
//
// A recorded launch has fixed sizes and addresses. Batches are therefore filled up to the next size
// of a fine grid with rows that belong to no sequence: their context is empty and their K and V go
// nowhere. What else is fixed, the width of the block table and how far contexts are split, is
// part of the graph's key.
#include <algorithm>
#include <bit>

#include "engine/executor.h"

namespace slipstream {
namespace {

// 1, 2, 4, 8, then by 8 to 64, by 16 to 256, by 32 beyond; at most `most`.
int64_t graph_size(int64_t num_seqs, int64_t most) {
  int64_t size = 0;
  if (num_seqs <= 8) {
    size = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(num_seqs)));
  } else {
    const int64_t step = num_seqs <= 64 ? 8 : num_seqs <= 256 ? 16 : 32;
    size = (num_seqs + step - 1) / step * step;
  }
  return std::min(size, most);
}

class GraphExecutor final : public Executor {
 public:
  GraphExecutor(ModelState& state, const GraphExecutorOptions& options)
      : state_(state), options_(options) {}

  const char* name() const override { return "graph"; }
  bool can_run(const ForwardBatch& batch) const override {
    return batch.num_tokens() == batch.num_seqs() && batch.num_logit_rows() == batch.num_seqs();
  }
  TensorView forward(const ForwardBatch& batch) override;

 private:
  void fill_up(const ForwardBatch& batch);

  ModelState& state_;
  GraphExecutorOptions options_;
  ForwardBatch filled_;
};

// A copy of the batch with as many sequences as its graph has, and a block table as wide.
void GraphExecutor::fill_up(const ForwardBatch& batch) {
  const auto num_seqs = static_cast<size_t>(batch.num_seqs());
  const auto size = static_cast<size_t>(graph_size(batch.num_seqs(), options_.max_num_seqs));
  const auto stride = static_cast<size_t>(std::min<int64_t>(
      static_cast<int64_t>(
          std::bit_ceil(static_cast<uint64_t>(std::max<int64_t>(1, batch.block_table_stride)))),
      options_.max_blocks_per_seq));
  filled_.token_ids = batch.token_ids;
  filled_.token_ids.resize(size, 0);
  filled_.positions = batch.positions;
  filled_.positions.resize(size, 0);
  filled_.seq_lens = batch.seq_lens;
  filled_.seq_lens.resize(size, 0);
  filled_.slot_mapping = batch.slot_mapping;
  filled_.slot_mapping.resize(size, -1);
  filled_.drawn_from = batch.drawn_from;
  if (!filled_.drawn_from.empty()) filled_.drawn_from.resize(size, -1);
  filled_.drawn_slot = batch.drawn_slot;
  filled_.cu_seqlens_q.resize(size + 1);
  filled_.logit_rows.resize(size);
  for (size_t i = 0; i <= size; ++i) filled_.cu_seqlens_q[i] = static_cast<int32_t>(i);
  for (size_t i = 0; i < size; ++i) filled_.logit_rows[i] = static_cast<int32_t>(i);
  filled_.block_table_stride = static_cast<int64_t>(stride);
  filled_.block_table.assign(size * stride, 0);
  const auto from_stride = static_cast<size_t>(batch.block_table_stride);
  for (size_t seq = 0; seq < num_seqs; ++seq) {
    const auto from = batch.block_table.begin() + static_cast<std::ptrdiff_t>(seq * from_stride);
    std::copy(from, from + static_cast<std::ptrdiff_t>(std::min(from_stride, stride)),
              filled_.block_table.begin() + static_cast<std::ptrdiff_t>(seq * stride));
  }
}

TensorView GraphExecutor::forward(const ForwardBatch& batch) {
  fill_up(batch);
  check_batch(filled_, state_.spec, state_.workspace);
  const BatchView view = state_.ops->begin_step(state_.ctx, filled_);
  const auto key = static_cast<uint64_t>(view.num_seqs) << 40 |
                   static_cast<uint64_t>(view.block_table_stride) << 16 | view.plan_key;
  state_.ops->replay(state_.ctx, key, [&] {
    (void)slipstream::forward({.spec = state_.spec,
                               .weights = state_.weights,
                               .rope = state_.rope,
                               .batch = view,
                               .kv = state_.kv,
                               .ops = *state_.ops,
                               .ctx = state_.ctx,
                               .workspace = state_.workspace,
                               .comm = *state_.comm});
  });
  return TensorView::contiguous(state_.workspace.logits.data(), DType::kF32,
                                {batch.num_logit_rows(), state_.spec.vocab_size});
}

}  // namespace

std::unique_ptr<Executor> make_graph_executor(ModelState& state,
                                              const GraphExecutorOptions& options) {
  return std::make_unique<GraphExecutor>(state, options);
}

}  // namespace slipstream
