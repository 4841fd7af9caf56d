// OpProfile: stands between the forward pass and a table: the same ops, with a mark on the device
// before and after each.
//
// Such steps are computed op by op, so they take longer than they would: on a GPU a mark costs
// about 2 us, and no graph is replayed. The engine's thread.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/trace.h"
#include "ops/ops.h"

namespace slipstream {

// All calls of an op on matrices of one shape.
struct OpTime {
  std::string name;  // "linear 24576x4096"
  int64_t num_calls = 0;
  double us = 0.0;
  double bytes = 0.0;  // weights, pages and activations, each once
  double flops = 0.0;
  std::string format;  // of products: see gemm_format(); empty: nothing is multiplied
};

class OpProfile {
 public:
  // `most_steps` steps of at least `least_seqs` sequences, after `skipped_steps` such ones.
  OpProfile(int64_t most_steps, int64_t least_seqs, int64_t skipped_steps)
      : most_steps_(most_steps), least_seqs_(least_seqs), num_left_to_skip_(skipped_steps) {}
  // Also as ranges: a lane of ops, with what the device took for them, and one of steps.
  void trace_to(TraceWriter& writer);
  OpProfile(const OpProfile&) = delete;
  OpProfile& operator=(const OpProfile&) = delete;

  // The table to use in the place of `inner`, which must stay; ctx.profile of its calls is this.
  const Ops& attach(const Ops& inner);

  const Ops& inner() const { return *inner_; }

  // Waits for the last step: what its ops and those of the steps before took, longest first.
  std::vector<OpTime> times(OpContext& ctx);
  int64_t num_steps() const { return num_steps_; }
  int64_t num_tokens() const { return num_tokens_; }  // of all steps
  double span_us() const { return span_us_; }         // from their first op to their last

 private:
  friend struct ProfiledOps;
  struct Pending {
    std::string name;
    double bytes = 0.0;
    double flops = 0.0;
    std::string format = {};
  };

  bool active() const { return in_step_; }
  void begin_step(OpContext& ctx, const ForwardBatch& batch, BatchFill fill);
  void mark(OpContext& ctx, int idx);
  double between_us(OpContext& ctx, int begin, int end) const;
  void settle(OpContext& ctx);
  void trace_step(OpContext& ctx);

  const int64_t most_steps_;
  const int64_t least_seqs_;
  int64_t num_left_to_skip_;
  const Ops* inner_ = nullptr;
  Ops table_;
  bool in_step_ = false;
  int64_t num_steps_ = 0;
  int64_t num_tokens_ = 0;
  double span_us_ = 0.0;
  TraceLane* op_lane_ = nullptr;
  TraceLane* step_lane_ = nullptr;
  // Of the step.
  int64_t began_ns_ = 0;  // of its first op, by the host's clock
  int64_t step_num_tokens_ = 0;
  int64_t step_num_seqs_ = 0;
  // Of the step's attention: positions read, and pairs of a query and a position.
  int64_t num_positions_ = 0;
  double num_pairs_ = 0.0;
  std::vector<Pending> pending_;   // of this step: op i lies between marks 2 i and 2 i + 1
  std::vector<int64_t> marks_ns_;  // where the host computes
  std::unordered_map<std::string, OpTime> times_;
};

}  // namespace slipstream
