// The decode measurement: one request at a time, token by token, beside the roof of the same run.
#pragma once

#include <cstdint>

#include "base/json.h"
#include "base/status.h"
#include "bench/engine_client.h"
#include "bench/record.h"

namespace slipstream {

struct DecodeBenchOptions {
  int64_t input_len = 16;
  int64_t output_len = 128;
  int num_prompts = 1;  // per repeat, one after the other
  int repeats = 5;
  uint64_t seed = 1;
  std::string quantization = "auto";  // what the engine was opened with, for the record
  bool timings = false;               // with phases of the latency gear, in the summary
};

// Writes a record per repeat and a summary of medians, which is returned. One more repeat runs
// first and is not recorded.
Result<Json> bench_decode(EngineClient& client, const DecodeBenchOptions& options,
                          RecordWriter& records);

// `count` ids drawn from the vocabulary.
std::vector<int32_t> random_token_ids(int64_t count, int64_t vocab_size, uint64_t seed);

}  // namespace slipstream
