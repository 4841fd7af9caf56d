// The serving measurement: a load against a running server of any make, from its clients' side, as
// records.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/json.h"
#include "base/status.h"
#include "bench/arrivals.h"
#include "bench/load_client.h"
#include "bench/load_prompts.h"
#include "bench/load_stats.h"
#include "bench/record.h"

namespace slipstream {

struct ServeBenchOptions {
  std::string url = "http://127.0.0.1:8000";
  std::string endpoint = "/v1/completions";
  std::string model;  // empty: the server's first
  std::string api_key;
  int64_t num_prompts = 256;  // conversations, where there are several turns
  int64_t input_len = 128;
  int64_t output_len = 128;
  Arrivals arrivals;
  int64_t max_concurrency = 0;  // 0: no bound
  std::string trace_path;       // with kTrace
  double trace_speed = 1.0;
  PromptOptions prompts;
  int64_t num_warmups = 1;
  int64_t num_idle_connections = 0;
  int64_t request_timeout_s = 600;
  int client_threads = 0;   // 0: one a core
  double wait_ready_s = 0;  // 0: the server must be ready
  double temperature = 0.0;
  bool ignore_eos = true;        // sent only when true
  bool per_chunk_usage = false;  // asks for the tokens of each chunk
  Json extra_body = Json::object();
  GoodputLimits goodput;
  bool find_rate = false;       // searches the highest Poisson rate that meets the limits
  double goodput_share = 0.99;  // of the requests, within the limits
  double stall_ms = 200.0;
  uint64_t seed = 1;
  int repeats = 1;
};

struct ServeBenchHooks {
  // What runs now, such as "repeat 2 of 5", and its requests in all.
  std::function<void(const std::string& label, int64_t num_requests, const LoadState& state)>
      on_progress;
  std::function<bool()> should_stop;
  // Every request of a measured run, before its record is written.
  std::function<void(const LoadResult& result)> on_result;
};

struct ServeBenchOutcome {
  int num_records = 0;
  int64_t num_errors = 0;
  bool all_valid = true;
  bool interrupted = false;  // the run under way was dropped; finished ones are recorded
  std::string server_lost;   // empty: it stayed; else the line that says so
};

// Writes a record per repeat as it ends, then a summary where there are several. An error is one of
// usage, of the server before the first record, or of --save.
Result<ServeBenchOutcome> bench_serve(const ServeBenchOptions& options, RecordWriter& records,
                                      const ServeBenchHooks& hooks);

// Refuses what contradicts itself, before anything is sent.
Status check_serve_options(const ServeBenchOptions& options);

}  // namespace slipstream
