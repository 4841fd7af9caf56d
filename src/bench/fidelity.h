// Fidelity: how far a backend's kernels, weights and KV cache are from the reference loops in
// float32.
//
// Two copies of the model run side by side on the same tokens: teacher-forced on windows of a
// text, and greedily from prompts. Uses the model layer directly; no engine is involved.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "ops/ops.h"

namespace slipstream {

struct FidelityOptions {
  std::string model;  // path
  // Of the fast copy.
  const Ops* ops = nullptr;
  DType kv_dtype = DType::kF16;
  DType weight_dtype = DType::kBF16;  // of a GPU's matrices
  bool keep_stored_dtypes = false;    // see OpContext
  bool deterministic = false;
  int num_threads = 1;
  int64_t max_context = 512;  // longest window or prompt with its answer
};

struct WindowFidelity {
  int64_t num_windows = 0;
  int64_t num_tokens = 0;  // scored
  double reference_nll = 0.0;
  double fast_nll = 0.0;
  double mean_kl = 0.0;  // KL(reference || fast) per position
  double max_kl = 0.0;
  double mean_abs_logprob_error = 0.0;  // of the actual token
  double top1_agreement = 0.0;

  double reference_perplexity() const;
  double fast_perplexity() const;
  double perplexity_error() const;  // relative, signed
};

struct GreedyOptions {
  int64_t max_tokens = 24;
  double min_gap = 0.1;  // comparing ends where the reference's best two logits are closer
  std::vector<int32_t> end_ids;
};

struct GreedyFidelity {
  int64_t num_prompts = 0;
  int64_t num_equal = 0;       // no difference before the first narrow step
  int64_t num_compared_8 = 0;  // prompts that compared at least 8 tokens
  int64_t num_tokens_compared = 0;
  std::vector<int64_t> tokens_compared;  // per prompt
  std::vector<size_t> different;         // indices of the prompts that differ
};

class FidelityCheck {
 public:
  using Progress = std::function<void(int64_t done, int64_t total)>;

  static Result<std::unique_ptr<FidelityCheck>> open(const FidelityOptions& options);
  virtual ~FidelityCheck() = default;

  // Every window has at least 2 tokens and is scored on its tokens 2..N.
  virtual WindowFidelity compare_windows(const std::vector<std::vector<int32_t>>& windows,
                                         const Progress& progress) = 0;
  virtual GreedyFidelity compare_greedy(const std::vector<std::vector<int32_t>>& prompts,
                                        const GreedyOptions& options, const Progress& progress) = 0;
};

}  // namespace slipstream
