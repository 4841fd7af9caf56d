// The load client judged by a server whose delays, faults and stalls are known.
#pragma once

#include <cstdint>

#include "base/json.h"
#include "base/status.h"

namespace slipstream {

struct LoadCheckOptions {
  int64_t num_streams = 1000;
  int64_t num_chunks = 100;  // of each answer
  double ttft_ms = 50.0;
  double itl_ms = 20.0;
  double fault_share = 0.02;  // of the requests, four kinds in turn
  int64_t stall_every = 50;   // one of so many answers stalls once; 0: none
  double stall_ms = 300.0;
  int client_threads = 0;  // 0: one a core
};

// The most that a recovered time may be off for the check to pass.
constexpr double kMaxRecoveryErrorMs = 0.2;

// A record of kind "load": what was injected, what was recovered, `passed` and `faults`, a list of
// what is wrong. Timings are those of this machine now: on a busy one they may fail.
Result<Json> check_load(const LoadCheckOptions& options);

}  // namespace slipstream
