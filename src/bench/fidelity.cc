#include "bench/fidelity.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <utility>

#include "base/strings.h"
#include "model/chunk_runner.h"
#include "ops/ops.h"

namespace slipstream {
namespace {

constexpr int64_t kChunkTokens = 64;

// log(sum(exp(row))) with the largest value taken out.
double log_sum_exp(std::span<const float> row) {
  const double largest = *std::max_element(row.begin(), row.end());
  double sum = 0.0;
  for (const float logit : row) sum += std::exp(static_cast<double>(logit) - largest);
  return largest + std::log(sum);
}

double kl_divergence(std::span<const float> reference, double reference_lse,
                     std::span<const float> fast, double fast_lse) {
  double kl = 0.0;
  for (size_t idx = 0; idx < reference.size(); ++idx) {
    const double log_p = reference[idx] - reference_lse;
    const double log_q = fast[idx] - fast_lse;
    kl += std::exp(log_p) * (log_p - log_q);
  }
  return std::max(kl, 0.0);
}

// Best minus second best.
double top2_gap(std::span<const float> row) {
  float best = -INFINITY;
  float second = -INFINITY;
  for (const float logit : row) {
    if (logit > best) {
      second = std::exchange(best, logit);
    } else if (logit > second) {
      second = logit;
    }
  }
  return static_cast<double>(best) - static_cast<double>(second);
}

std::span<const float> row_of(const TensorView& logits, int64_t row) {
  return {logits.f32_row(row), static_cast<size_t>(logits.dim(1))};
}

class FidelityCheckImpl : public FidelityCheck {
 public:
  FidelityCheckImpl(std::unique_ptr<ChunkRunner> reference, std::unique_ptr<ChunkRunner> fast)
      : reference_(std::move(reference)), fast_(std::move(fast)) {}

  WindowFidelity compare_windows(const std::vector<std::vector<int32_t>>& windows,
                                 const Progress& progress) override {
    WindowFidelity sums;
    for (const std::vector<int32_t>& window : windows) {
      reset();
      for (size_t begin = 0; begin + 1 < window.size(); begin += kChunkTokens) {
        const size_t end = std::min(begin + kChunkTokens, window.size() - 1);
        compare_chunk(window, begin, end, sums);
      }
      ++sums.num_windows;
      if (progress) progress(sums.num_windows, static_cast<int64_t>(windows.size()));
    }
    const auto count = static_cast<double>(std::max<int64_t>(sums.num_tokens, 1));
    sums.reference_nll /= count;
    sums.fast_nll /= count;
    sums.mean_kl /= count;
    sums.mean_abs_logprob_error /= count;
    sums.top1_agreement /= count;
    return sums;
  }

  GreedyFidelity compare_greedy(const std::vector<std::vector<int32_t>>& prompts,
                                const GreedyOptions& options, const Progress& progress) override {
    GreedyFidelity result;
    for (size_t prompt_idx = 0; prompt_idx < prompts.size(); ++prompt_idx) {
      const auto [num_compared, equal] = compare_answer(prompts[prompt_idx], options);
      ++result.num_prompts;
      result.num_tokens_compared += num_compared;
      result.tokens_compared.push_back(num_compared);
      if (num_compared >= 8) ++result.num_compared_8;
      if (equal) {
        ++result.num_equal;
      } else {
        result.different.push_back(prompt_idx);
      }
      if (progress) progress(result.num_prompts, static_cast<int64_t>(prompts.size()));
    }
    return result;
  }

 private:
  void reset() {
    reference_->truncate(0, 0);
    fast_->truncate(0, 0);
  }

  // Runs tokens [begin, end) of the window and scores the tokens after each of them. Sums into
  // `sums`; the caller divides.
  void compare_chunk(const std::vector<int32_t>& window, size_t begin, size_t end,
                     WindowFidelity& sums) {
    const std::vector<int32_t> ids(window.begin() + static_cast<int64_t>(begin),
                                   window.begin() + static_cast<int64_t>(end));
    const TensorView reference = reference_->run(0, ids);
    const TensorView fast = fast_->run(0, ids);
    for (size_t idx = begin; idx < end; ++idx) {
      const auto row = static_cast<int64_t>(idx - begin);
      const auto actual = static_cast<size_t>(window[idx + 1]);
      const std::span<const float> r = row_of(reference, row);
      const std::span<const float> f = row_of(fast, row);
      const double r_lse = log_sum_exp(r);
      const double f_lse = log_sum_exp(f);
      const double r_logprob = r[actual] - r_lse;
      const double f_logprob = f[actual] - f_lse;
      const double kl = kl_divergence(r, r_lse, f, f_lse);
      sums.reference_nll -= r_logprob;
      sums.fast_nll -= f_logprob;
      sums.mean_kl += kl;
      sums.max_kl = std::max(sums.max_kl, kl);
      sums.mean_abs_logprob_error += std::abs(r_logprob - f_logprob);
      if (argmax_row(reference, row) == argmax_row(fast, row)) sums.top1_agreement += 1.0;
      ++sums.num_tokens;
    }
  }

  // Logits of the last token; `ids` are at most max_context.
  static TensorView run_prompt(ChunkRunner& runner, const std::vector<int32_t>& ids,
                               int64_t& last_row) {
    TensorView logits;
    for (size_t begin = 0; begin < ids.size(); begin += kChunkTokens) {
      const size_t end = std::min(begin + kChunkTokens, ids.size());
      logits = runner.run(
          0, {ids.begin() + static_cast<int64_t>(begin), ids.begin() + static_cast<int64_t>(end)});
      last_row = static_cast<int64_t>(end - begin) - 1;
    }
    return logits;
  }

  // Both copies step together as long as they agree: {tokens compared, no difference}.
  std::pair<int64_t, bool> compare_answer(const std::vector<int32_t>& prompt,
                                          const GreedyOptions& options) {
    reset();
    std::vector<int32_t> next = prompt;
    int64_t num_compared = 0;
    while (num_compared < options.max_tokens) {
      int64_t row = 0;
      const TensorView reference = run_prompt(*reference_, next, row);
      const TensorView fast = run_prompt(*fast_, next, row);
      if (top2_gap(row_of(reference, row)) < options.min_gap) break;
      const int32_t token = argmax_row(reference, row);
      if (argmax_row(fast, row) != token) return {num_compared, false};
      ++num_compared;
      if (std::find(options.end_ids.begin(), options.end_ids.end(), token) !=
          options.end_ids.end()) {
        break;
      }
      next = {token};
    }
    return {num_compared, true};
  }

  std::unique_ptr<ChunkRunner> reference_;
  std::unique_ptr<ChunkRunner> fast_;
};

}  // namespace

double WindowFidelity::reference_perplexity() const { return std::exp(reference_nll); }
double WindowFidelity::fast_perplexity() const { return std::exp(fast_nll); }
double WindowFidelity::perplexity_error() const {
  return fast_perplexity() / reference_perplexity() - 1.0;
}

Result<std::unique_ptr<FidelityCheck>> FidelityCheck::open(const FidelityOptions& options) {
  ChunkRunnerOptions runner;
  runner.num_threads = options.num_threads;
  runner.max_tokens = kChunkTokens;
  runner.max_context = options.max_context;
  runner.kv_dtype = DType::kF32;
  SLIPSTREAM_ASSIGN_OR_RETURN(auto reference,
                              ChunkRunner::open(options.model, *cpu_ops(CpuIsa::kRef), runner));
  runner.kv_dtype = options.kv_dtype;
  runner.weight_dtype = options.weight_dtype;
  runner.keep_stored_dtypes = options.keep_stored_dtypes;
  runner.deterministic = options.deterministic;
  SLIPSTREAM_ASSIGN_OR_RETURN(auto fast, ChunkRunner::open(options.model, *options.ops, runner));
  return std::unique_ptr<FidelityCheck>(
      std::make_unique<FidelityCheckImpl>(std::move(reference), std::move(fast)));
}

}  // namespace slipstream
