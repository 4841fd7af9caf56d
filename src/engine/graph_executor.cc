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

}  // namespace

bool is_decode_step(const ForwardBatch& batch) {
  return batch.num_tokens() == batch.num_seqs() && batch.num_logit_rows() == batch.num_seqs();
}

BatchFill graph_fill(const ForwardBatch& batch, const GraphExecutorOptions& options) {
  const auto stride = static_cast<uint64_t>(std::max<int64_t>(1, batch.block_table_stride));
  return {.num_seqs = static_cast<int>(graph_size(batch.num_seqs(), options.max_num_seqs)),
          .block_table_stride =
              std::min(static_cast<int64_t>(std::bit_ceil(stride)), options.max_blocks_per_seq)};
}

namespace {

class GraphExecutor final : public Executor {
 public:
  GraphExecutor(ModelState& state, const GraphExecutorOptions& options)
      : state_(state), options_(options) {}

  const char* name() const override { return "graph"; }
  bool can_run(const ForwardBatch& batch) const override { return is_decode_step(batch); }
  TensorView forward(const ForwardBatch& batch) override;

 private:
  ModelState& state_;
  GraphExecutorOptions options_;
};

TensorView GraphExecutor::forward(const ForwardBatch& batch) {
  check_batch(batch, state_.spec, state_.workspace);
  const BatchView view = state_.ops->begin_step(state_.ctx, batch, graph_fill(batch, options_));
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
