// The engine measurement: what a step costs beside the model. The fake executor at step time 0
// computes nothing, so the time from step to step is the engine's own work: scheduling, KV
// bookkeeping, building the batch, sampling, text, events.
//
// Opens its own engine: the times are taken on the engine's thread, inside the event sink.
#pragma once

#include <cstdint>

#include "base/json.h"
#include "base/status.h"
#include "bench/record.h"
#include "slipstream/options.h"

namespace slipstream {

struct EngineBenchOptions {
  int64_t num_seqs = 256;  // running at once
  int64_t input_len = 16;  // of the shortest prompt; lengths differ by up to a KV block
  int64_t output_len = 200;
  int repeats = 5;
  uint64_t seed = 1;
};

// Writes a record per repeat and a summary over all steps, which is returned. One more repeat runs
// first and is not recorded. Of `engine_options`, the executor and the limits are chosen here.
Result<Json> bench_engine(const EngineOptions& engine_options, const EngineBenchOptions& options,
                          RecordWriter& records);

}  // namespace slipstream
