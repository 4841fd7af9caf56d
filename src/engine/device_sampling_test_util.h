// What the tests of drawing on a GPU share: rows of logits, and a GPU to draw from them.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <numbers>
#include <span>
#include <string>
#include <vector>

#include "base/random.h"
#include "base/thread_pool.h"
#include "ops/ops.h"

namespace slipstream {

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();

inline float normal(SplitMix64& random) {
  const double u = (static_cast<double>(random.below(1u << 30)) + 0.5) / (1u << 30);
  const double v = static_cast<double>(random.below(1u << 30)) / (1u << 30);
  return static_cast<float>(std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * v));
}

// Rows of the kinds that models and masks make, by turns.
inline std::vector<float> make_row(int64_t vocab_size, int kind, SplitMix64& random) {
  std::vector<float> row(static_cast<size_t>(vocab_size));
  for (float& logit : row) {
    logit = 2.5f * normal(random);
    if (kind == 1) logit *= 3.0f;                                           // few tokens are likely
    if (kind == 2) logit = std::round(logit);                               // many are equal
    if (kind == 3 && random.below(1000) != 0) logit = -kInfinity;           // most are forbidden
    if (kind == 4) logit = 1.5f;                                            // all are equal
    if (kind == 5) logit = random.below(500) == 0 ? 30.0f : logit - 60.0f;  // a plateau
  }
  return row;
}
inline constexpr int kNumKinds = 6;

class GpuDraws {
 public:
  // False, and why, without a GPU.
  bool open(int64_t max_rows, int64_t vocab_size, int64_t num_states, std::string* why) {
    ops_ = cuda_ops(why);
    if (ops_ == nullptr) return false;
    vocab_size_ = vocab_size;
    ctx_.pool = &pool_;
    const Status status = ops_->open(ctx_, {.max_tokens = max_rows,
                                            .max_cols = 64,
                                            .max_heads = 1,
                                            .max_head_dim = 64,
                                            .max_context = 16'384,
                                            .vocab_size = vocab_size,
                                            .max_sample_states = num_states});
    EXPECT_TRUE(status.ok()) << status.message();
    return true;
  }
  void set_state(int32_t idx, const SampleState& state) {
    ops_->set_sample_state(ctx_, idx, state);
  }
  // The tokens of `rows` of `logits` [.., vocab_size].
  std::vector<int32_t> draw(const std::vector<float>& logits, std::span<const SampleRow> rows) {
    Buffer device(logits.size() * sizeof(float), *ops_->memory);
    ops_->memory->copy_in(device.data(), logits.data(), device.bytes());
    ops_->sample(ctx_,
                 TensorView::contiguous(device.data(), DType::kF32,
                                        {std::ssize(logits) / vocab_size_, vocab_size_}),
                 rows, 0);
    const std::span<const int32_t> ids = ops_->sampled(ctx_, 0);
    return {ids.begin(), ids.end()};
  }
  // Of the last draw.
  std::vector<SampledLogprobs> logprobs() {
    const std::span<const SampledLogprobs> all = ops_->sampled_logprobs(ctx_, 0);
    return {all.begin(), all.end()};
  }

 private:
  const Ops* ops_ = nullptr;
  int64_t vocab_size_ = 0;
  ThreadPool pool_{1};
  OpContext ctx_;
};

}  // namespace slipstream
