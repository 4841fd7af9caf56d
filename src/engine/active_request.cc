#include "engine/active_request.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace slipstream {
namespace {

// The answer starts a text of its own only after a prompt that shows none (bos alone).
bool starts_text(const Tokenizer& tokenizer, const std::vector<int32_t>& prompt_token_ids) {
  return std::all_of(prompt_token_ids.begin(), prompt_token_ids.end(),
                     [&](int32_t id) { return tokenizer.is_special(id); });
}

}  // namespace

const char* finish_reason_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kNone:
      return "";
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kAbort:
      return "abort";
    case FinishReason::kError:
      return "error";
    case FinishReason::kDeadline:
      return "deadline";
  }
  return "";
}

ActiveRequest::ActiveRequest(Request request, const ActiveRequestArgs& args)
    : id_(args.id),
      request_(std::move(request)),
      seed_(args.seed),
      max_new_tokens_(args.max_new_tokens),
      stop_token_ids_(request_.sampling.stop_token_ids),
      pipeline_(request_.sampling, request_.prompt_token_ids),
      stop_matcher_(request_.sampling.stop, request_.sampling.include_stop_in_output) {
  if (!request_.sampling.ignore_eos) {
    stop_token_ids_.insert(stop_token_ids_.end(), args.eos_token_ids->begin(),
                           args.eos_token_ids->end());
  }
  std::sort(stop_token_ids_.begin(), stop_token_ids_.end());
  pipeline_.forbid_early(stop_token_ids_);
  if (args.tokenizer != nullptr) {
    decoder_.emplace(
        *args.tokenizer,
        DecodeOptions{.skip_special = request_.sampling.skip_special_tokens,
                      .at_text_start = starts_text(*args.tokenizer, request_.prompt_token_ids)});
  }
  if (wants_prompt_logprobs()) {
    TokenLogprobs unknown;
    unknown.id = -1;
    prompt_logprobs_.resize(request_.prompt_token_ids.size() - 1, unknown);
  }
}

TokenLogprobs* ActiveRequest::missing_prompt_logprobs(int64_t position) {
  if (first_event_sent_) return nullptr;
  SLIPSTREAM_CHECK(position >= 1 && position <= std::ssize(prompt_logprobs_),
                   "prompt tokens after the first have log-probabilities");
  TokenLogprobs& logprobs = prompt_logprobs_[static_cast<size_t>(position - 1)];
  return logprobs.id < 0 ? &logprobs : nullptr;
}

void ActiveRequest::step_begins(int64_t now_ns, int64_t num_cached_tokens) {
  if (scheduled_ns_ != 0) return;
  scheduled_ns_ = now_ns;
  num_cached_tokens_ = num_cached_tokens;
}

void ActiveRequest::accept(Sample sample, TokenEvent& event) {
  ++num_generated_;
  last_token_id_ = sample.token_id;
  pipeline_.append(sample.token_id);
  const bool may_stop = num_generated_ >= request_.sampling.min_tokens;
  const bool at_stop_id = may_stop && std::binary_search(stop_token_ids_.begin(),
                                                         stop_token_ids_.end(), sample.token_id);
  event.request = id_;
  event.token_id = sample.token_id;
  event.text = visible_text(sample.token_id, at_stop_id);
  if (sample.logprobs) {
    event.has_logprobs = true;
    event.logprobs = std::move(*sample.logprobs);
  }
  if (at_stop_id || stop_matcher_.stopped()) {
    event.finish = FinishReason::kStop;
  } else if (num_generated_ == max_new_tokens_) {
    event.finish = FinishReason::kLength;
  }
  if (event.finish != FinishReason::kNone) event.text += rest_of_text();
  if (const auto stop_idx = stop_matcher_.stop_idx()) {
    event.stop_idx = static_cast<int32_t>(*stop_idx);
  }
  complete_first(event);
}

TokenEvent ActiveRequest::end(FinishReason reason, std::string error) {
  TokenEvent event;
  event.request = id_;
  event.finish = reason;
  event.error = std::move(error);
  event.text = rest_of_text();
  complete_first(event);
  return event;
}

std::string ActiveRequest::visible_text(int32_t token_id, bool at_stop_id) {
  if (!decoder_) return {};
  if (at_stop_id && !request_.sampling.include_stop_in_output) return {};
  const std::string text = decoder_->push(token_id);
  // Before min_tokens a stop string is text like any other.
  if (num_generated_ < request_.sampling.min_tokens) return text;
  return stop_matcher_.push(text);
}

std::string ActiveRequest::rest_of_text() {
  if (!decoder_ || stop_matcher_.stopped()) return {};
  std::string text = stop_matcher_.push(decoder_->flush());
  return text + stop_matcher_.flush();
}

void ActiveRequest::complete_first(TokenEvent& event) {
  if (std::exchange(first_event_sent_, true)) return;
  event.first = true;
  event.seed = seed_;
  event.num_cached_tokens = num_cached_tokens_;
  event.scheduled_ns = scheduled_ns_;
  // An early end leaves the tail unknown.
  while (!prompt_logprobs_.empty() && prompt_logprobs_.back().id < 0) prompt_logprobs_.pop_back();
  event.prompt_logprobs = std::move(prompt_logprobs_);
}

}  // namespace slipstream
