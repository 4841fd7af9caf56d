// The soak's judgement: whether a request's events are in order, its answer is the one it gives
// alone, and an idle engine has nothing left of it.
//
// Every function that looks for a fault gives it in words, or nothing when there is none.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bench/soak_workload.h"
#include "slipstream/engine.h"

namespace slipstream {

// Everything that one request has been given.
struct SoakAnswer {
  std::vector<int32_t> token_ids;
  std::vector<TokenLogprobs> logprobs;  // of the tokens that came with them
  std::vector<TokenLogprobs> prompt_logprobs;
  std::string text;
  FinishReason finish = FinishReason::kNone;  // of the first final event
  int32_t stop_idx = -1;
  std::string error;
  int64_t num_cached_tokens = 0;
  int64_t num_events = 0;
  int64_t num_firsts = 0;
  int64_t num_finals = 0;
  int64_t num_after_final = 0;
  bool began_with_first = false;

  bool ended() const { return num_finals > 0; }
  // By itself: at a stop or at its length.
  bool ended_normally() const {
    return finish == FinishReason::kStop || finish == FinishReason::kLength;
  }
};

void append_event(const TokenEvent& event, SoakAnswer& answer);

// Of the events alone. `cancelled`: somebody asked for the request's end.
std::string stream_fault(const SoakRequest& asked, const SoakAnswer& answer, int64_t max_model_len,
                         bool cancelled);

struct SoakComparison {
  std::string difference;       // empty: the same
  int64_t num_tokens = 0;       // delivered
  int64_t num_same_tokens = 0;  // of them, before the first that differs
};
// Tokens, log-probabilities, text and end, bit for bit; of an answer that was ended from outside
// the tokens it had got until then.
SoakComparison compare_answers(const SoakAnswer& got, const SoakAnswer& alone);

// What the caller has counted, to hold against what the engine has counted.
struct SoakCounts {
  int64_t num_ended = 0;  // requests
  int64_t num_tokens = 0;
};
// Of an engine that nobody asks anything; `before` are its counts when the soak began.
std::string idle_fault(const EngineStats& before, const EngineStats& idle,
                       const SoakCounts& counts);

}  // namespace slipstream
