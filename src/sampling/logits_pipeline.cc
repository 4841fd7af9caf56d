#include "sampling/logits_pipeline.h"

namespace slipstream {

LogitsPipeline::LogitsPipeline(const SamplingParams& params,
                               std::span<const int32_t> prompt_token_ids)
    : params_(&params),
      counts_tokens_(params.repetition_penalty != 1.0f || params.presence_penalty != 0.0f ||
                     params.frequency_penalty != 0.0f) {
  if (params.repetition_penalty == 1.0f) return;
  for (const int32_t token_id : prompt_token_ids) counts_.emplace(token_id, 0);
}

void LogitsPipeline::append(int32_t token_id) {
  if (counts_tokens_) ++counts_[token_id];
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
}

}  // namespace slipstream
