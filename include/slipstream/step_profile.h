// StepProfile: how long each op of some of an engine's steps takes, what it moves and computes.
//
// Such steps are computed op by op, so they take longer than they would: on a GPU a mark between
// two ops costs about 2 us, and no graph is replayed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace slipstream {

class TraceWriter;  // base/trace.h

struct StepProfile {
  // All calls of an op on matrices of one shape.
  struct Op {
    std::string name;  // "linear 24576x4096"
    int64_t num_calls = 0;
    double us = 0.0;
    double bytes = 0.0;  // weights, pages and activations, each once
    double flops = 0.0;
    std::string format = {};   // of products: "bf16", "Q4_1"; empty: nothing is multiplied
    double gemm_tflops = 0.0;  // of large products in this format, measured here; 0: not known
  };

  // Wanted: so many steps of at least so many sequences, after some of these: in the first ones a
  // GPU measures which algorithms are fast.
  int64_t most_steps = 0;
  int64_t least_seqs = 1;
  int64_t skipped_steps = 0;
  TraceWriter* trace = nullptr;  // gets a lane of ops and one of steps; must outlive the engine
  // Filled when the engine closes.
  int64_t num_steps = 0;
  int64_t num_tokens = 0;    // of all steps
  double span_us = 0.0;      // of all steps, from their first op to their last
  std::vector<Op> ops = {};  // longest first
};

}  // namespace slipstream
