#include "bench/throughput.h"

#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/strings.h"
#include "base/trace.h"
#include "bench/decode.h"
#include "bench/distribution.h"
#include "bench/host_time.h"
#include "bench/profile_table.h"
#include "bench/roof.h"
#include "bench/serial_roof.h"
#include "slipstream/engine.h"
#include "slipstream/step_profile.h"

namespace slipstream {
namespace {

struct Totals {
  int64_t num_tokens = 0;  // generated
  int64_t num_steps = 0;   // that generated some
  int64_t num_ended = 0;
  std::string error;
};

// The sink's side of a run.
class EndCounter {
 public:
  void record(std::span<const TokenEvent> events) {
    const std::lock_guard lock(mutex_);
    ++totals_.num_steps;
    for (const TokenEvent& event : events) {
      if (event.token_id >= 0) ++totals_.num_tokens;
      if (event.finish == FinishReason::kNone) continue;
      ++totals_.num_ended;
      if (event.finish != FinishReason::kLength && totals_.error.empty()) {
        totals_.error =
            str("a request ended with ", finish_reason_name(event.finish), ": ", event.error);
      }
    }
    ended_.notify_one();
  }
  // Waits for `num_requests` ends.
  Result<Totals> take(int64_t num_requests) {
    std::unique_lock lock(mutex_);
    ended_.wait(lock, [&] { return totals_.num_ended >= num_requests; });
    Totals totals = std::exchange(totals_, {});
    if (!totals.error.empty()) return failed(totals.error);
    return totals;
  }

 private:
  std::mutex mutex_;
  std::condition_variable ended_;
  Totals totals_;
};

struct Run {
  double seconds = 0.0;
  double busy_seconds = 0.0;  // of a GPU
  Totals totals;
  std::vector<int64_t> host_us;  // steps by time: see EngineStats
  HostTime host_time;
};

// The time that a share of the steps stays under, from a histogram in quarters of an octave.
double host_us_quantile(const std::vector<int64_t>& counts, double share) {
  const int64_t total = std::accumulate(counts.begin(), counts.end(), int64_t{0});
  int64_t seen = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    seen += counts[i];
    if (static_cast<double>(seen) >= share * static_cast<double>(total)) {
      return std::exp2(static_cast<double>(i) / 4.0);
    }
  }
  return 0.0;
}

Result<Run> run_once(Engine& engine, EndCounter& counter, const ThroughputOptions& options,
                     int64_t num_prompts, uint64_t seed) {
  std::vector<Request> requests(static_cast<size_t>(num_prompts));
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].prompt_token_ids =
        random_token_ids(options.input_len, engine.model().vocab_size, seed * 1'000'003u + i);
    requests[i].sampling.temperature = 0.0f;
    requests[i].sampling.max_tokens = options.output_len;
    requests[i].sampling.ignore_eos = true;
  }
  const EngineStats before = engine.stats();
  const int64_t begin_ns = steady_now_ns();
  for (Request& request : requests) {
    SLIPSTREAM_RETURN_IF_ERROR(engine.submit(std::move(request)).status());
  }
  Run run;
  SLIPSTREAM_ASSIGN_OR_RETURN(run.totals, counter.take(num_prompts));
  run.seconds = static_cast<double>(steady_now_ns() - begin_ns) * 1e-9;
  const EngineStats after = engine.stats();
  run.busy_seconds = static_cast<double>(after.device_busy_ns - before.device_busy_ns) * 1e-9;
  run.host_time.add(before, after);
  for (size_t i = 0; i < after.step_host_us_histogram.size(); ++i) {
    run.host_us.push_back(after.step_host_us_histogram[i] - before.step_host_us_histogram[i]);
  }
  return run;
}

void add_measured(const std::vector<Run>& runs, const ThroughputOptions& options,
                  int64_t num_prompts, Json& record) {
  std::vector<double> seconds;
  std::vector<double> mean_batch;
  std::vector<double> busy;
  std::vector<int64_t> host_us(EngineStats().step_host_us_histogram.size());
  HostTime host_time;
  for (const Run& run : runs) {
    seconds.push_back(run.seconds);
    host_time.add(run.host_time);
    busy.push_back(run.busy_seconds / run.seconds);
    std::transform(host_us.begin(), host_us.end(), run.host_us.begin(), host_us.begin(),
                   std::plus<>());
    mean_batch.push_back(static_cast<double>(run.totals.num_tokens) /
                         static_cast<double>(std::max<int64_t>(1, run.totals.num_steps)));
  }
  const double s = median(seconds);
  const auto prompts = static_cast<double>(num_prompts);
  const double input = prompts * static_cast<double>(options.input_len);
  const double output = prompts * static_cast<double>(options.output_len);
  record["num_prompts"] = num_prompts;
  record["input_len"] = options.input_len;
  record["output_len"] = options.output_len;
  record["seconds"] = s;
  record["requests_s"] = prompts / s;
  record["input_tok_s"] = input / s;
  record["output_tok_s"] = output / s;
  record["total_tok_s"] = (input + output) / s;
  record["mean_batch"] = median(mean_batch);
  if (median(busy) > 0.0) record["gpu_busy_fraction"] = std::min(1.0, median(busy));
  record["cpu_us_per_step"] =
      Json{{"p50", host_us_quantile(host_us, 0.5)}, {"p99", host_us_quantile(host_us, 0.99)}};
  record["host_us_per_step"] = host_time.us_per_step();
}

int64_t num_prompts_of(const EngineOptions& engine_options, const ThroughputOptions& options) {
  return options.num_prompts > 0 ? options.num_prompts : (engine_options.max_num_seqs * 3 + 1) / 2;
}

// The roof and the share of it that was reached.
void add_roof(const ModelInfo& model, const Workload& work, const RoofRates& rates, Json& record) {
  const double roof_tok_s = serial_roof_tok_s(model, work, rates);
  if (roof_tok_s <= 0.0) return;
  record["serial_roof"] = Json{{"output_tok_s", roof_tok_s},
                               {"share", record["output_tok_s"].get<double>() / roof_tok_s},
                               {"read_gb_s", rates.read_gb_s},
                               {"gemm_tflops", rates.gemm_tflops}};
}

EngineOptions with_room(EngineOptions chosen, const ThroughputOptions& options) {
  chosen.enable_prefix_caching = false;
  if (chosen.max_model_len == 0) chosen.max_model_len = options.input_len + options.output_len;
  chosen.max_queued_requests =
      std::max(chosen.max_queued_requests, num_prompts_of(chosen, options));
  return chosen;
}

}  // namespace

Result<std::string> profile_throughput(const EngineOptions& engine_options,
                                       const ThroughputOptions& options) {
  EngineOptions chosen = with_room(engine_options, options);
  const int64_t num_prompts = num_prompts_of(chosen, options);
  StepProfile profile{.most_steps = options.profile_steps,
                      .least_seqs = std::min<int64_t>(num_prompts, chosen.max_num_seqs),
                      .skipped_steps = options.profile_steps};
  chosen.profile = &profile;
  std::unique_ptr<TraceWriter> trace;  // outlives the engine
  if (!options.profile_trace.empty()) {
    // A small model's step has a hundred ops and takes as few microseconds.
    SLIPSTREAM_ASSIGN_OR_RETURN(
        trace, TraceWriter::open(options.profile_trace,
                                 {.lane_capacity = 1 << 18, .flush_interval_ms = 20}));
    profile.trace = trace.get();
  }
  EndCounter counter;
  double read_gb_s = 0.0;
  {
    SLIPSTREAM_ASSIGN_OR_RETURN(
        const std::unique_ptr<Engine> engine,
        Engine::open(chosen,
                     [&counter](std::span<const TokenEvent> events) { counter.record(events); }));
    read_gb_s = engine->measure_read_gb_s();
    SLIPSTREAM_RETURN_IF_ERROR(
        run_once(*engine, counter, options, num_prompts, options.seed).status());
  }
  if (profile.ops.empty()) {
    return bad_usage(str("--profile: the model was not computed for more than ",
                         profile.skipped_steps, " steps of ", profile.least_seqs,
                         " sequences, which are left out; give longer answers or fewer steps"));
  }
  return profile_table(profile, read_gb_s);
}

Result<Json> bench_throughput(const EngineOptions& engine_options, const ThroughputOptions& options,
                              RecordWriter& records) {
  const EngineOptions chosen = with_room(engine_options, options);
  const int64_t num_prompts = num_prompts_of(chosen, options);
  EndCounter counter;
  SLIPSTREAM_ASSIGN_OR_RETURN(std::unique_ptr<Engine> engine,
                              Engine::open(chosen, [&counter](std::span<const TokenEvent> events) {
                                counter.record(events);
                              }));
  const ModelInfo model = engine->model();
  RecordHead head;
  head.kind = "throughput";
  head.config = Json{{"max_num_seqs", chosen.max_num_seqs},
                     {"max_num_batched_tokens", chosen.max_num_batched_tokens},
                     {"max_model_len", model.max_model_len},
                     {"quantization", chosen.quantization},
                     {"kv_cache_dtype", model.kv_format},
                     {"executor", model.executor},
                     {"device", model.device},
                     {"one_ahead", chosen.one_ahead},
                     {"seed", options.seed},
                     {"temperature", 0.0}};
  head.repeats = options.repeats;
  head.cores_used = model.num_threads;
  head.model = &model;
  // Of a token in the middle of its answer, alone.
  head.bytes_per_token =
      static_cast<double>(model.bytes_per_token) +
      static_cast<double>(model.kv_bytes_per_token) *
          (static_cast<double>(options.input_len) + static_cast<double>(options.output_len) / 2.0);

  ThroughputOptions short_run = options;
  short_run.output_len = std::min<int64_t>(options.output_len, 8);
  SLIPSTREAM_RETURN_IF_ERROR(run_once(*engine, counter, short_run,
                                      std::min<int64_t>(num_prompts, chosen.max_num_seqs),
                                      options.seed)
                                 .status());
  Json summary = begin_record(head);
  std::vector<Run> runs;
  for (int repeat_idx = 0; repeat_idx < options.repeats; ++repeat_idx) {
    Json record = begin_record(head);
    SLIPSTREAM_ASSIGN_OR_RETURN(const Run run,
                                run_once(*engine, counter, options, num_prompts,
                                         options.seed + 1 + static_cast<uint64_t>(repeat_idx)));
    record["repeat"] = repeat_idx;
    record["max_num_seqs"] = chosen.max_num_seqs;
    record["kv_cache_dtype"] = model.kv_format;
    add_measured({run}, options, num_prompts, record);
    SLIPSTREAM_RETURN_IF_ERROR(records.write(record));
    runs.push_back(run);
  }
  summary["summary"] = true;
  summary["max_num_seqs"] = chosen.max_num_seqs;
  summary["kv_cache_dtype"] = model.kv_format;
  add_measured(runs, options, num_prompts, summary);
  RoofRates rates;
  rates.read_gb_s = engine->measure_read_gb_s();
  engine.reset();  // products are measured where the model was
  SLIPSTREAM_ASSIGN_OR_RETURN(rates.gemm_tflops, measure_products(chosen, model));
  const Workload work{options.input_len, options.output_len,
                      std::min<int64_t>(num_prompts, chosen.max_num_seqs)};
  add_roof(model, work, rates, summary);
  SLIPSTREAM_RETURN_IF_ERROR(records.write(summary));
  return summary;
}

}  // namespace slipstream
