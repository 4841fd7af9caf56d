// The simulator's second half: answers as text. Random tokens, cut code points and stop strings go
// through the shipped ActiveRequest, and what comes out is compared with a definition that reads
// the whole answer at once. Deterministic: a seed names a run.
#pragma once

#include <cstdint>
#include <string>

#include "base/status.h"

namespace slipstream {

struct SimStreamOptions {
  int64_t num_answers = 10'000;
  uint64_t seed = 1;
};

struct SimStreamReport {
  int64_t num_answers = 0;
  int64_t num_tokens = 0;
  int64_t num_stopped_by_string = 0;
  int64_t num_stopped_by_id = 0;
  int64_t num_at_length = 0;
  int64_t num_aborted = 0;
  std::string violation;  // empty: every rule held
  bool ok() const { return violation.empty(); }
};

SimStreamReport run_stream_simulation(const SimStreamOptions& options);

}  // namespace slipstream
