// ActiveRequest: what the engine keeps of a request beside the scheduler's Sequence: parameters,
// sampling state, text and stop conditions. Turns sampled tokens into TokenEvents.
//
// Built on the submitting thread, then owned by the engine thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/sample_state_pool.h"
#include "sampling/logits_pipeline.h"
#include "sampling/sampler.h"
#include "slipstream/request.h"
#include "text/output_stream.h"
#include "text/tokenizer.h"

namespace slipstream {

struct ActiveRequestArgs {
  RequestId id = 0;
  uint64_t seed = 0;
  int64_t max_new_tokens = 0;            // 0: the prompt's log-probabilities only
  const Tokenizer* tokenizer = nullptr;  // null: not loaded; else outlives the request
  const std::vector<int32_t>* eos_token_ids = nullptr;  // sorted
};

class ActiveRequest {
 public:
  ActiveRequest(Request request, const ActiveRequestArgs& args);
  ActiveRequest(const ActiveRequest&) = delete;
  ActiveRequest& operator=(const ActiveRequest&) = delete;

  RequestId id() const { return id_; }
  const SamplingParams& sampling() const { return request_.sampling; }
  const std::vector<int32_t>& prompt_token_ids() const { return request_.prompt_token_ids; }
  int64_t num_prompt_tokens() const { return std::ssize(request_.prompt_token_ids); }
  int32_t priority() const { return request_.priority; }
  const std::string& cache_salt() const { return request_.cache_salt; }
  int64_t deadline_ns() const { return request_.deadline_ns; }
  int64_t max_new_tokens() const { return max_new_tokens_; }
  int64_t num_generated() const { return num_generated_; }
  // Ids that end the answer, sorted.
  const std::vector<int32_t>& stop_token_ids() const { return stop_token_ids_; }
  int32_t last_token_id() const { return last_token_id_; }  // of the answer; -1: none yet
  // Its place among the ids that the device draws in the step launched last.
  int32_t drawn_idx() const { return drawn_idx_; }
  void set_drawn_idx(int32_t drawn_idx) { drawn_idx_ = drawn_idx; }
  // Where the device counts its tokens; not held unless it does.
  SampleStatePool::Lease& sample_state() { return sample_state_; }

  // A step that computes tokens of the request begins; the first one counts.
  void step_begins(int64_t now_ns, int64_t num_cached_tokens);

  SampleRequest sample_request(int64_t position) const {
    return {request_.sampling, pipeline_, seed_, position, request_.sampling.choice_idx};
  }

  bool wants_prompt_logprobs() const { return request_.sampling.prompt_logprobs.has_value(); }
  // Log-probabilities of the prompt token at `position` >= 1; null once they are known, which they
  // stay when a preempted prompt is computed again.
  TokenLogprobs* missing_prompt_logprobs(int64_t position);

  // Fills the new `event` with the next token of the answer, and with a finish reason when a stop
  // condition holds.
  void accept(Sample sample, TokenEvent& event);
  // The last event of a request that ends without a further token.
  TokenEvent end(FinishReason reason, std::string error);

 private:
  std::string visible_text(int32_t token_id, bool at_stop_id);
  std::string rest_of_text();
  void complete_first(TokenEvent& event);

  RequestId id_;
  Request request_;
  uint64_t seed_;
  int64_t max_new_tokens_;
  std::vector<int32_t> stop_token_ids_;  // sorted, with the model's own unless ignored
  LogitsPipeline pipeline_;
  std::optional<DecodeStream> decoder_;
  StopMatcher stop_matcher_;
  int64_t num_generated_ = 0;
  int32_t last_token_id_ = -1;
  int32_t drawn_idx_ = -1;
  SampleStatePool::Lease sample_state_;
  int64_t scheduled_ns_ = 0;
  int64_t num_cached_tokens_ = 0;
  bool first_event_sent_ = false;
  std::vector<TokenLogprobs> prompt_logprobs_;  // [num_prompt_tokens - 1]; id < 0: not known yet
};

}  // namespace slipstream
