// Sequence: the token timeline of one request as the scheduler sees it.
//
// Owns ids, counters and the block table; knows nothing of sampling, text or the device. Lives in
// SchedulerState and is changed by schedule() alone.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "kv/block_manager.h"
#include "slipstream/request.h"

namespace slipstream {

enum class SequenceState : uint8_t {
  kWaiting,    // never ran
  kRunning,    // holds the blocks of all its tokens
  kPreempted,  // gave its blocks back; waits to compute its tokens again
  kFinished,
};

// Stands for a token that a step in flight will sample: the step after it is planned before the
// token is known.
constexpr int32_t kPendingToken = -1;

// Names a sequence in one stretch of running. Request ids are 64 bits and never used twice;
// `num_preemptions` tells results of the stretch before a preemption from those after it. Results
// that carry a handle no longer current are dropped.
struct SequenceHandle {
  RequestId request = 0;
  uint32_t num_preemptions = 0;
  bool operator==(const SequenceHandle&) const = default;
};

struct Sequence {
  RequestId request = 0;
  std::vector<int32_t> token_ids;  // the prompt, then what was generated, then pending ones
  int64_t num_prompt_tokens = 0;
  int64_t num_computed = 0;       // positions whose K and V are in the pages
  int64_t num_in_flight = 0;      // positions after those that planned steps compute
  int64_t num_committed = 0;      // tokens that are known and final; pending ones lie beyond
  int64_t max_tokens = 0;         // prompt and answer together; never exceeds the pool
  int64_t num_cached_tokens = 0;  // of the prompt, that the first admission found in the cache
  int64_t deadline_ns = 0;        // 0: none
  bool wants_prompt_logits = false;
  std::string cache_salt;

  // Order of service: smaller first. Fixed at arrival, so it is the same before and after a
  // preemption.
  int64_t rank_ns = 0;
  SequenceState state = SequenceState::kWaiting;
  uint32_t num_preemptions = 0;
  BlockTable blocks;

  int64_t num_tokens() const { return static_cast<int64_t>(token_ids.size()); }
  int64_t num_planned() const { return num_computed + num_in_flight; }
  // Positions no step is planned for yet. The last token of an answer that is as long as it may be
  // has nothing to give: it is not computed.
  int64_t num_unplanned() const {
    const int64_t useful =
        max_tokens > num_prompt_tokens ? std::min(num_tokens(), max_tokens - 1) : num_tokens();
    return useful - num_planned();
  }
  SequenceHandle handle() const { return {request, num_preemptions}; }

  // Earlier in the order of service.
  bool before(const Sequence& other) const {
    return rank_ns != other.rank_ns ? rank_ns < other.rank_ns : request < other.request;
  }
  // Rows of logits wanted from positions [begin, begin + count): the last token's, and with
  // wants_prompt_logits those of the whole prompt.
  int64_t num_logit_rows(int64_t begin, int64_t count) const {
    const int64_t end = begin + count;
    int64_t num_rows = 0;
    if (wants_prompt_logits && begin < num_prompt_tokens) {
      num_rows = (end < num_prompt_tokens ? end : num_prompt_tokens) - begin;
    }
    const bool last_counted = wants_prompt_logits && end <= num_prompt_tokens;
    return num_rows + (end == num_tokens() && !last_counted ? 1 : 0);
  }
};

}  // namespace slipstream
