// The prefill measurement: time from submit to the first token of one long prompt, beside the rate
// of a large matrix product of the same format measured in the same run.
#pragma once

#include <cstdint>

#include "base/json.h"
#include "base/status.h"
#include "bench/engine_client.h"
#include "bench/record.h"

namespace slipstream {

struct PrefillBenchOptions {
  int64_t input_len = 512;
  int num_prompts = 1;  // per repeat, one after the other
  int repeats = 5;
  uint64_t seed = 1;
};

// Writes a record per repeat and a summary of medians, which is returned. One more repeat runs
// first and is not recorded. `engine_options` are those the client was opened with.
Result<Json> bench_prefill(EngineClient& client, const EngineOptions& engine_options,
                           const PrefillBenchOptions& options, RecordWriter& records);

}  // namespace slipstream
