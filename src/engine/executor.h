// Executor: one way to run a step on the device. Eager calls the ops one after another; others may
// replay a graph or keep one kernel resident. All read the same spec, weights and pages.
#pragma once

#include <memory>

#include "comm/communicator.h"
#include "core/tensor.h"
#include "model/decoder.h"
#include "ops/forward_batch.h"

namespace slipstream {

// What executors of one device share. Owned by ModelRunner; the thread that drives the device alone
// uses it.
struct ModelState {
  DecoderSpec spec;  // of the device's shard
  DecoderWeights weights;
  DeviceRope rope;
  KVCache kv;
  const Ops* ops = nullptr;
  OpContext ctx;
  Workspace workspace;
  std::unique_ptr<Communicator> comm;
};

class Executor {
 public:
  virtual ~Executor() = default;
  virtual const char* name() const = 0;
  // Whether this executor takes the batch; another one does if not.
  virtual bool can_run(const ForwardBatch& batch) const = 0;
  // Logits [num_logit_rows, vocab_size] f32, valid until the next call; the caller may write them.
  virtual TensorView forward(const ForwardBatch& batch) = 0;
};

// Takes every batch. `state` must outlive it.
std::unique_ptr<Executor> make_eager_executor(ModelState& state);

struct GraphExecutorOptions {
  int32_t max_num_seqs = 0;
  int64_t max_blocks_per_seq = 0;
};
// Whether every sequence computes one token, for a row of logits.
bool is_decode_step(const ForwardBatch& batch);
// To the sequences and the width of the block table that the batch's graph has.
BatchFill graph_fill(const ForwardBatch& batch, const GraphExecutorOptions& options);
// Takes decode steps, and replays one graph of launches for all batches of about the same size. For
// backends whose Ops::replay is there.
std::unique_ptr<Executor> make_graph_executor(ModelState& state,
                                              const GraphExecutorOptions& options);

}  // namespace slipstream
