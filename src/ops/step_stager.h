// StepStager: a batch on its way to a device: its arrays, filled up, one after the other in the
// memory that is copied there; and how its attention is cut.
//
// Host work alone: no device is touched, so it runs and is tested without one. After the first
// steps it takes no memory. One thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "ops/attention_plan.h"
#include "ops/forward_batch.h"
#include "ops/ops.h"

namespace slipstream {

struct StagingLimits {
  OpLimits ops;
  int64_t max_blocks_per_seq = 1;
  int num_sms = 1;
  bool deterministic = false;
  // Floats there are for partial results of split attention: [queries, heads, splits, head_dim +
  // 1].
  int64_t partials_floats = 0;
};

// Where a step is written, and where the device will have it. The same place for a host's own.
struct StagingMemory {
  std::byte* host = nullptr;
  std::byte* device = nullptr;
};

class StepStager {
 public:
  explicit StepStager(const StagingLimits& limits);

  // Of the arrays of the largest batch.
  size_t num_bytes() const { return num_bytes_; }

  struct Staged {
    BatchView view;  // in the device's memory; its plan is plan(), until the next stage()
    const int32_t* drawn_from = nullptr;  // [T], in the device's memory; null: no token is drawn
    size_t num_bytes = 0;                 // of the memory that are written
  };
  // Arrays of batches of equal sizes lie at the same places, drawn_from apart: recorded launches
  // serve all of them.
  Staged stage(const ForwardBatch& batch, BatchFill fill, const StagingMemory& memory);
  const AttentionPlan& plan() const { return plan_; }

 private:
  template <typename T>
  T* reserve(size_t count, const T*& device);
  template <typename T>
  const T* put(const std::vector<T>& values, size_t num_filled, T first_filled, T step = 0);
  const int32_t* put_block_table(const ForwardBatch& batch, size_t num_seqs, size_t stride);
  void cut_attention(const ForwardBatch& batch, int num_filled);
  void put_cuts();
  void plan_splits(int64_t longest, int64_t num_positions);

  const StagingLimits limits_;
  const size_t num_bytes_;
  StagingMemory memory_;  // of this step
  size_t used_ = 0;       // of it
  AttentionPlan plan_;
  std::vector<DecodeQuery> queries_;  // in the order of the batch
  std::vector<PrefillTile> tiles_;
  // Places in queries_, the longest first. From step to step all contexts grow alike, so the order
  // mostly stays.
  std::vector<int32_t> order_;
};

}  // namespace slipstream
