// The throughput measurement: many requests at once, until the last one ends.
//
// Opens its own engine: the times are taken on the engine's thread, inside the event sink.
#pragma once

#include <cstdint>
#include <string>

#include "base/json.h"
#include "base/status.h"
#include "bench/record.h"
#include "slipstream/options.h"

namespace slipstream {

struct ThroughputOptions {
  int64_t num_prompts = 0;  // 0: one and a half times what runs at once
  int64_t input_len = 128;
  int64_t output_len = 128;
  int repeats = 3;
  uint64_t seed = 1;
  int64_t profile_steps = 0;       // instead of measuring: what each op of so many full steps takes
  std::string profile_trace = {};  // file that gets these ops and steps as Chrome trace JSON
};

// A table of `profile_steps` steps with as many sequences as run at once, after as many that are
// left out; see profile_table.h.
Result<std::string> profile_throughput(const EngineOptions& engine_options,
                                       const ThroughputOptions& options);

// Writes a record per repeat and a summary of medians, which is returned. A short repeat runs first
// and is not recorded. Prompts are random ids, answers greedy and exactly output_len long; the
// prefix cache is off, for the repeats would find their prompts in it.
Result<Json> bench_throughput(const EngineOptions& engine_options, const ThroughputOptions& options,
                              RecordWriter& records);

}  // namespace slipstream
