// The soak's workload: what request number `request_idx` of a seed asks, and when it comes and
// goes. A pure function of the shape and the index, so that a seed and a number name a request
// again; times are in mean gaps between arrivals, which the caller gives a length.
#pragma once

#include <cstdint>
#include <optional>

#include "slipstream/request.h"

namespace slipstream {

// What the engine under load can take.
struct SoakShape {
  uint64_t seed = 1;
  int64_t vocab_size = 0;
  int64_t max_model_len = 0;
  int32_t max_num_seqs = 16;
  int32_t max_logprobs = 20;
  bool has_tokenizer = true;  // stop strings need one
};

struct SoakRequest {
  Request request;                // without a deadline: that has no place on a clock yet
  int64_t num_shared_tokens = 0;  // of the prompt: its beginning, which others have as well
  double gap = 0.0;               // since the request before
  int64_t most_unfinished = 1;    // it comes when fewer than so many are unfinished
  // When it is cancelled, if it is: after so many tokens (0: at once), or so long after it came.
  std::optional<int64_t> cancel_after_tokens;
  std::optional<double> cancel_after_gaps;
  std::optional<double> deadline_gaps;
};

SoakRequest soak_request(const SoakShape& shape, int64_t request_idx);

}  // namespace slipstream
