#include "sampling/logits_pipeline.h"

#include <algorithm>
#include <limits>

namespace slipstream {
namespace {

constexpr float kMasked = -std::numeric_limits<float>::infinity();

}  // namespace

LogitsPipeline::LogitsPipeline(const SamplingParams& params,
                               std::span<const int32_t> prompt_token_ids)
    : params_(&params),
      counts_tokens_(params.repetition_penalty != 1.0f || params.presence_penalty != 0.0f ||
                     params.frequency_penalty != 0.0f),
      always_active_(!params.logit_bias.empty() || !params.allowed_token_ids.empty() ||
                     !params.bad_token_ids.empty()),
      allowed_ids_(params.allowed_token_ids) {
  std::sort(allowed_ids_.begin(), allowed_ids_.end());
  for (const std::vector<int32_t>& bad_ids : params.bad_token_ids) {
    tail_capacity_ = std::max(tail_capacity_, bad_ids.size() - 1);
  }
  if (params.repetition_penalty == 1.0f) return;
  for (const int32_t token_id : prompt_token_ids) counts_.emplace(token_id, 0);
}

void LogitsPipeline::append(int32_t token_id) {
  ++num_tokens_;
  if (counts_tokens_) ++counts_[token_id];
  if (tail_capacity_ == 0) return;
  if (tail_.size() == tail_capacity_) tail_.erase(tail_.begin());
  tail_.push_back(token_id);
}

void LogitsPipeline::forbid_early(std::span<const int32_t> ids) {
  if (params_->min_tokens > 0) early_ids_.assign(ids.begin(), ids.end());
}

void LogitsPipeline::apply(std::span<float> logits) const {
  for (const auto& [token_id, count] : counts_) {
    float& logit = logits[static_cast<size_t>(token_id)];
    logit =
        logit > 0.0f ? logit / params_->repetition_penalty : logit * params_->repetition_penalty;
    if (count == 0) continue;
    logit -= params_->frequency_penalty * static_cast<float>(count);
    logit -= params_->presence_penalty;
  }
  for (const auto& [token_id, bias] : params_->logit_bias) {
    logits[static_cast<size_t>(token_id)] += bias;
  }
  mask(logits);
}

// Last, so that no arithmetic meets an infinity.
void LogitsPipeline::mask(std::span<float> logits) const {
  if (!allowed_ids_.empty()) {
    auto next = logits.begin();
    for (const int32_t token_id : allowed_ids_) {
      const auto allowed = logits.begin() + token_id;
      if (allowed < next) continue;  // named twice
      std::fill(next, allowed, kMasked);
      next = allowed + 1;
    }
    std::fill(next, logits.end(), kMasked);
  }
  for (const std::vector<int32_t>& bad_ids : params_->bad_token_ids) {
    if (completes(bad_ids)) logits[static_cast<size_t>(bad_ids.back())] = kMasked;
  }
  if (!too_early()) return;
  for (const int32_t token_id : early_ids_) logits[static_cast<size_t>(token_id)] = kMasked;
}

// Whether the answer ends in all of `bad_ids` but the last.
bool LogitsPipeline::completes(const std::vector<int32_t>& bad_ids) const {
  const auto length = std::ssize(bad_ids) - 1;
  return length <= std::ssize(tail_) &&
         std::equal(bad_ids.begin(), bad_ids.end() - 1, tail_.end() - length);
}

}  // namespace slipstream
