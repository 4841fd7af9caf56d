#include "sampling/sampling_params.h"

#include <algorithm>
#include <unordered_set>

#include "base/strings.h"
#include "base/utf8.h"

namespace slipstream {
namespace {

struct FloatRange {
  float low;
  float high;
};

Status check_range(const char* name, float value, FloatRange range) {
  // Written so that NaN fails.
  if (value >= range.low && value <= range.high) return {};
  return bad_usage(
      str(name, " is ", value, "; it must be between ", range.low, " and ", range.high));
}

Status check_numbers(const SamplingParams& params) {
  SLIPSTREAM_RETURN_IF_ERROR(
      check_range("temperature", params.temperature, {0.0f, kMaxTemperature}));
  if (!(params.top_p > 0.0f && params.top_p <= 1.0f)) {
    return bad_usage(str("top_p is ", params.top_p, "; it must be above 0 and at most 1"));
  }
  if (params.top_k < -1) {
    return bad_usage(str("top_k is ", params.top_k, "; it must be positive, or 0 or -1 for all"));
  }
  SLIPSTREAM_RETURN_IF_ERROR(check_range("min_p", params.min_p, {0.0f, 1.0f}));
  SLIPSTREAM_RETURN_IF_ERROR(check_range("repetition_penalty", params.repetition_penalty,
                                         {kMinRepetitionPenalty, kMaxRepetitionPenalty}));
  SLIPSTREAM_RETURN_IF_ERROR(
      check_range("presence_penalty", params.presence_penalty, {-2.0f, 2.0f}));
  return check_range("frequency_penalty", params.frequency_penalty, {-2.0f, 2.0f});
}

Status check_id(const char* name, int32_t id, const SamplingLimits& limits) {
  if (id >= 0 && id < limits.vocab_size) return {};
  return bad_usage(
      str(name, " names token ", id, "; the model has tokens 0 to ", limits.vocab_size - 1));
}

Status check_logit_bias(const SamplingParams& params, const SamplingLimits& limits) {
  if (params.logit_bias.size() > static_cast<size_t>(limits.vocab_size)) {
    return bad_usage(str("logit_bias has ", params.logit_bias.size(), " entries for ",
                         limits.vocab_size, " tokens"));
  }
  std::unordered_set<int32_t> seen;
  for (const auto& [id, bias] : params.logit_bias) {
    SLIPSTREAM_RETURN_IF_ERROR(check_id("logit_bias", id, limits));
    if (!(bias >= -100.0f && bias <= 100.0f)) {
      return bad_usage(
          str("logit_bias of token ", id, " is ", bias, "; it must be between -100 and 100"));
    }
    if (!seen.insert(id).second) return bad_usage(str("logit_bias names token ", id, " twice"));
  }
  return {};
}

// Known before the first token: a mask that leaves none could only fail later.
bool leaves_a_token(const SamplingParams& params, const SamplingLimits& limits) {
  std::unordered_set<int32_t> banned;
  for (const std::vector<int32_t>& sequence : params.bad_token_ids) {
    if (sequence.size() == 1) banned.insert(sequence.front());
  }
  const std::vector<int32_t>& allowed = params.allowed_token_ids;
  if (allowed.empty()) return static_cast<int64_t>(banned.size()) < limits.vocab_size;
  return std::any_of(allowed.begin(), allowed.end(),
                     [&banned](int32_t id) { return banned.count(id) == 0; });
}

Status check_masks(const SamplingParams& params, const SamplingLimits& limits) {
  if (params.allowed_token_ids.size() > static_cast<size_t>(limits.vocab_size)) {
    return bad_usage(str("allowed_token_ids has ", params.allowed_token_ids.size(), " ids for ",
                         limits.vocab_size, " tokens"));
  }
  for (const int32_t id : params.allowed_token_ids) {
    SLIPSTREAM_RETURN_IF_ERROR(check_id("allowed_token_ids", id, limits));
  }
  if (params.bad_token_ids.size() > kMaxBadSequences) {
    return bad_usage(str("bad_token_ids has ", params.bad_token_ids.size(), " sequences; at most ",
                         kMaxBadSequences));
  }
  for (const std::vector<int32_t>& sequence : params.bad_token_ids) {
    if (sequence.empty()) return bad_usage("bad_token_ids has an empty sequence");
    if (sequence.size() > kMaxBadSequenceTokens) {
      return bad_usage(str("bad_token_ids has a sequence of ", sequence.size(), " ids; at most ",
                           kMaxBadSequenceTokens));
    }
    for (const int32_t id : sequence) {
      SLIPSTREAM_RETURN_IF_ERROR(check_id("bad_token_ids", id, limits));
    }
  }
  if (!leaves_a_token(params, limits)) {
    return bad_usage("the tokens that are banned or not allowed leave none to choose from");
  }
  return {};
}

Status check_stops(const SamplingParams& params, const SamplingLimits& limits) {
  if (!params.stop.empty() && !limits.has_tokenizer) {
    return bad_usage("stop needs the tokenizer, which is not loaded");
  }
  if (params.stop.size() > kMaxStopStrings) {
    return bad_usage(str("stop has ", params.stop.size(), " strings; at most ", kMaxStopStrings));
  }
  for (const std::string& stop : params.stop) {
    if (stop.empty()) return bad_usage("stop has an empty string");
    if (stop.size() > kMaxStopBytes) {
      return bad_usage(
          str("stop has a string of ", stop.size(), " bytes; at most ", kMaxStopBytes));
    }
    if (!utf8_valid(stop)) return bad_usage("stop has a string that is not valid UTF-8");
  }
  if (params.stop_token_ids.size() > kMaxStopTokenIds) {
    return bad_usage(str("stop_token_ids has ", params.stop_token_ids.size(), " ids; at most ",
                         kMaxStopTokenIds));
  }
  for (const int32_t id : params.stop_token_ids) {
    SLIPSTREAM_RETURN_IF_ERROR(check_id("stop_token_ids", id, limits));
  }
  return {};
}

Status check_logprobs(const char* name, const std::optional<int32_t>& count,
                      const SamplingLimits& limits) {
  if (!count || (*count >= 0 && *count <= limits.max_logprobs && *count <= limits.vocab_size)) {
    return {};
  }
  return bad_usage(str(name, " is ", *count, "; it must be between 0 and ",
                       std::min<int64_t>(limits.max_logprobs, limits.vocab_size)));
}

Status check_lengths(const SamplingParams& params) {
  // Without an answer there must be something else to compute.
  const int64_t fewest = params.prompt_logprobs ? 0 : 1;
  if (params.max_tokens && *params.max_tokens < fewest) {
    return bad_usage(str("max_tokens is ", *params.max_tokens, "; it must be at least ", fewest));
  }
  if (params.min_tokens < 0) {
    return bad_usage(str("min_tokens is ", params.min_tokens, "; it must not be negative"));
  }
  if (params.max_tokens && params.min_tokens > *params.max_tokens) {
    return bad_usage(
        str("min_tokens is ", params.min_tokens, ", above max_tokens ", *params.max_tokens));
  }
  return {};
}

}  // namespace

Status validate_sampling_params(const SamplingParams& params, const SamplingLimits& limits) {
  SLIPSTREAM_RETURN_IF_ERROR(check_numbers(params));
  SLIPSTREAM_RETURN_IF_ERROR(check_logit_bias(params, limits));
  SLIPSTREAM_RETURN_IF_ERROR(check_masks(params, limits));
  SLIPSTREAM_RETURN_IF_ERROR(check_lengths(params));
  SLIPSTREAM_RETURN_IF_ERROR(check_stops(params, limits));
  SLIPSTREAM_RETURN_IF_ERROR(check_logprobs("logprobs", params.logprobs, limits));
  return check_logprobs("prompt_logprobs", params.prompt_logprobs, limits);
}

}  // namespace slipstream
