// Executor: one way to run a step on the device. Eager calls the ops one after another; others may
// replay a graph or keep one kernel resident. All read the same spec, weights and pages.
#pragma once

#include <memory>

#include "core/tensor.h"
#include "model/decoder.h"
#include "model/forward_batch.h"

namespace slipstream {

// What executors share. Owned by ModelRunner; the engine thread alone uses it.
struct ModelState {
  DecoderSpec spec;
  DecoderWeights weights;
  RopeFrequencies rope;
  KVCache kv;
  const Ops* ops = nullptr;
  OpContext ctx;
  Workspace workspace;
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

}  // namespace slipstream
