// The serving measurement: streamed requests against a running server, from the client's side.
#pragma once

#include <cstdint>
#include <string>

#include "base/json.h"
#include "base/status.h"
#include "bench/record.h"

namespace slipstream {

struct ServeBenchOptions {
  std::string url = "http://127.0.0.1:8000";
  std::string endpoint = "/v1/completions";
  std::string model;  // empty: the server's first
  std::string api_key;
  int64_t num_prompts = 256;
  int64_t input_len = 128;
  int64_t output_len = 128;
  int64_t max_concurrency = 0;  // 0: all at once
  double request_rate = 0.0;    // requests per second; 0: closed loop
  bool poisson = true;          // with request_rate: exponential gaps, else constant ones
  int64_t num_idle_connections = 0;
  int64_t vocab_size = 256;  // prompts are random ids below this
  double temperature = 0.0;
  uint64_t seed = 1;
  int repeats = 1;
};

// Writes a record per repeat, which includes errors, and returns the last. TTFT runs from the send
// to the first event with a choice; inter-token latency is between such events of one stream.
Result<Json> bench_serve(const ServeBenchOptions& options, RecordWriter& records);

}  // namespace slipstream
