// What this machine can do at most, as records: memory, matrix products, and what it costs to have
// everything that computes wait for everything else.
#pragma once

#include <cstdint>
#include <string>

#include "base/json.h"
#include "base/status.h"
#include "bench/record.h"

namespace slipstream {

struct LimitsOptions {
  std::string device = "auto";   // as EngineOptions::device
  std::string cpu_isa = "auto";  // as EngineOptions::cpu_isa
  int num_threads = 1;
  int64_t bytes = 0;  // of memory, written and read; 0: 256 MiB, of a GPU's 4 GiB
  int repeats = 3;
};

// Writes a record per repeat and a summary of medians, which is returned. On the CPU launch_us is
// the hand-over of a loop to the threads; what a device does not have is null.
Result<Json> bench_limits(const LimitsOptions& options, RecordWriter& records);

}  // namespace slipstream
