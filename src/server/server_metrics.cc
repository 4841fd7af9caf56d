#include "server/server_metrics.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "base/check.h"
#include "base/strings.h"

namespace slipstream {
namespace {

// vLLM's bounds, with finer ones where a fast engine lives.
const std::vector<double> kTimeToFirstToken = {.001, .0025, .005, .0075, .01, .02, .04, .06,
                                               .08,  .1,    .25,  .5,    .75, 1,   2.5, 5,
                                               7.5,  10,    20,   40,    80,  160, 640, 2560};
const std::vector<double> kPerToken = {.0001, .00025, .0005, .001, .0025, .005, .0075, .01, .025,
                                       .05,   .075,   .1,    .15,  .2,    .3,   .4,    .5,  .75,
                                       1,     2.5,    5,     7.5,  10,    20,   40,    80};
const std::vector<double> kRequest = {.005, .01, .025, .05, .1,  .2,  .3,  .5,   .8,
                                      1,    1.5, 2,    2.5, 5,   10,  15,  20,   30,
                                      40,   50,  60,   120, 240, 480, 960, 1920, 7680};
const std::vector<double> kHttpSeconds = {.001, .0025, .005, .01, .025, .05, .1,  .25, .5,
                                          1,    2.5,   5,    10,  30,   60,  120, 600};
const std::vector<double> kBytes = {100, 1e3, 1e4, 1e5, 1e6, 1e7};
const std::vector<double> kDecodeRates = {1,   2,   5,   10,  20,  30,   50,   75,   100, 150,
                                          200, 300, 400, 600, 800, 1000, 1500, 2000, 3000};
const std::vector<double> kCounts = {1, 2, 5, 10, 20};

// 1, 2, 5, 10, ... up to `longest`.
std::vector<double> token_bounds(int64_t longest) {
  std::vector<double> bounds;
  for (double decade = 1;; decade *= 10) {
    for (const double step : {1.0, 2.0, 5.0}) {
      if (decade * step > static_cast<double>(longest) && !bounds.empty()) return bounds;
      bounds.push_back(decade * step);
    }
  }
}

double seconds_between(int64_t from_ns, int64_t to_ns) {
  return static_cast<double>(to_ns - from_ns) / 1e9;
}

// A family of HTTP counts has classes of statuses, not every status.
std::string status_class(int status) { return str(status / 100, "xx"); }

MetricLabels with(MetricLabels labels, const std::string& name, const std::string& value) {
  labels.emplace_back(name, value);
  return labels;
}

}  // namespace

ServerMetrics::ServerMetrics()
    : unknown_fields_(registry_.counter("slipstream:unknown_request_fields_total",
                                        "Members of request bodies that no row of the parameter "
                                        "table names; they are ignored.",
                                        {})),
      ledger_failures_(registry_.counter("slipstream:ledger_failures_total",
                                         "Calls whose usage could not be written.", {})) {}

ServerMetrics::~ServerMetrics() = default;

void ServerMetrics::attach(const EngineSeries& engine) {
  SLIPSTREAM_CHECK(e2e_ == nullptr, "metrics are attached once");
  const MetricLabels labels = {{"model_name", engine.model_name}, {"engine", "0"}};
  attach_gauges(engine, labels);
  attach_counters(*engine.engine, labels);
  attach_histograms(labels, engine.engine->model().max_model_len);
}

void ServerMetrics::attach_gauges(const EngineSeries& series, const MetricLabels& labels) {
  Engine* engine = series.engine;
  const auto gauge = [&](const char* name, const char* help, auto read) {
    registry_.gauge(name, help, labels, [engine, read] { return read(engine->stats()); });
  };
  gauge("vllm:num_requests_running", "Requests in the running batch.",
        [](const EngineStats& stats) { return static_cast<double>(stats.num_running); });
  gauge("vllm:num_requests_waiting", "Requests that wait to run.",
        [](const EngineStats& stats) { return static_cast<double>(stats.num_waiting); });
  gauge("vllm:kv_cache_usage_perc", "Share of KV blocks that requests hold, 0 to 1.",
        [](const EngineStats& stats) {
          return static_cast<double>(stats.kv_blocks_used) /
                 static_cast<double>(std::max<int64_t>(stats.kv_blocks_total, 1));
        });
  gauge("slipstream:kv_blocks_total", "KV blocks there are.",
        [](const EngineStats& stats) { return static_cast<double>(stats.kv_blocks_total); });
  gauge("slipstream:kv_blocks_used", "KV blocks that requests hold.",
        [](const EngineStats& stats) { return static_cast<double>(stats.kv_blocks_used); });
  gauge("slipstream:kv_blocks_cached", "KV blocks that hold a prefix a request may share.",
        [](const EngineStats& stats) { return static_cast<double>(stats.kv_blocks_cached); });
  gauge("slipstream:latency_gear", "1 while a lone request is computed without steps, else 0.",
        [gear = engine->model().latency_executor](const EngineStats& stats) {
          return !gear.empty() && gear == stats.executor_in_use ? 1.0 : 0.0;
        });
  const ModelInfo& model = engine->model();
  registry_
      .gauge("slipstream:roof_read_gigabytes_per_second",
             "Read bandwidth measured over the model's weights at start; 0: not measured.", labels)
      .set(series.read_gb_s);
  registry_
      .gauge("slipstream:roof_tokens_per_second",
             "Decode speed of one request that this bandwidth allows.", labels)
      .set(model.bytes_per_token > 0
               ? series.read_gb_s * 1e9 / static_cast<double>(model.bytes_per_token)
               : 0.0);
  registry_
      .gauge("slipstream:weight_bytes_per_token", "Weight bytes one decoded token streams.", labels)
      .set(static_cast<double>(model.bytes_per_token));
  MetricLabels info = labels;
  info.emplace_back("num_gpu_blocks", std::to_string(engine->stats().kv_blocks_total));
  info.emplace_back("cache_dtype", model.kv_format);
  registry_.gauge("vllm:cache_config_info", "The KV cache, as labels.", info).set(1.0);
  registry_
      .gauge("slipstream:model_info", "The model, as labels.",
             {{"model_name", series.model_name},
              {"family", model.family},
              {"weights", model.weights_format},
              {"device", model.device},
              {"executor", model.executor},
              {"latency_executor", model.latency_executor},
              {"kernels", model.kernels}})
      .set(1.0);
}

void ServerMetrics::attach_counters(Engine& engine, const MetricLabels& labels) {
  struct Mirrored {
    Counter* counter;
    int64_t EngineStats::* total;
  };
  auto mirrored = std::make_shared<std::vector<Mirrored>>();
  const auto mirror = [&](const char* name, const char* help, int64_t EngineStats::* total) {
    mirrored->push_back({&registry_.counter(name, help, labels), total});
  };
  Counter* prompt_tokens =
      &registry_.counter("vllm:prompt_tokens_total", "Prompt tokens computed or cached.", labels);
  mirror("vllm:generation_tokens_total", "Tokens generated.", &EngineStats::num_generated_tokens);
  mirror("vllm:num_preemptions_total", "Requests that lost their KV blocks and began again.",
         &EngineStats::num_preemptions);
  mirror("vllm:prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache.",
         &EngineStats::prefix_cache_queries);
  mirror("vllm:prefix_cache_hits_total", "Prompt tokens found in it.",
         &EngineStats::prefix_cache_hits);
  mirror("vllm:prompt_tokens_cached_total", "Prompt tokens not computed because they were cached.",
         &EngineStats::prefix_cache_hits);
  const char* by_source = "vllm:prompt_tokens_by_source_total";
  const char* by_source_help = "Prompt tokens by where their keys and values came from.";
  mirrored->push_back(
      {&registry_.counter(by_source, by_source_help, with(labels, "source", "local_compute")),
       &EngineStats::num_prompt_tokens});
  mirrored->push_back(
      {&registry_.counter(by_source, by_source_help, with(labels, "source", "local_cache_hit")),
       &EngineStats::prefix_cache_hits});
  mirror("slipstream:engine_steps_total", "Steps of the engine.", &EngineStats::num_steps);
  mirror("slipstream:latency_runs_total", "Times that a lone request went to the latency gear.",
         &EngineStats::num_runs);
  mirror("slipstream:latency_runs_stopped_total",
         "Of them, those that were over before their last token.", &EngineStats::num_runs_stopped);
  mirror("slipstream:latency_run_tokens_total", "Tokens that the latency gear has made.",
         &EngineStats::num_run_tokens);
  for (const FinishReason reason :
       {FinishReason::kStop, FinishReason::kLength, FinishReason::kAbort, FinishReason::kError,
        FinishReason::kDeadline}) {
    finished_[static_cast<size_t>(reason)] =
        &registry_.counter("vllm:request_success_total", "Finished requests by reason.",
                           with(labels, "finished_reason", finish_reason_name(reason)));
  }
  std::vector<double> bounds;
  for (size_t bucket = 0; bucket + 1 < EngineStats().step_tokens_histogram.size(); ++bucket) {
    bounds.push_back(static_cast<double>(uint64_t{1} << bucket));
  }
  Histogram* step_tokens = &registry_.histogram(
      "vllm:iteration_tokens_total", "Tokens computed in one engine step.", labels, bounds);
  registry_.before_scrape([mirrored, prompt_tokens, step_tokens, &engine] {
    const EngineStats stats = engine.stats();
    for (const Mirrored& entry : *mirrored) {
      entry.counter->mirror(static_cast<uint64_t>(stats.*entry.total));
    }
    prompt_tokens->mirror(static_cast<uint64_t>(stats.num_prompt_tokens + stats.prefix_cache_hits));
    std::vector<uint64_t> counts(stats.step_tokens_histogram.begin(),
                                 stats.step_tokens_histogram.end());
    step_tokens->mirror(counts,
                        static_cast<double>(stats.num_prompt_tokens + stats.num_generated_tokens));
  });
}

void ServerMetrics::attach_histograms(const MetricLabels& labels, int64_t max_model_len) {
  const auto add = [&](const char* name, const char* help, const std::vector<double>& bounds) {
    return &registry_.histogram(name, help, labels, bounds);
  };
  time_to_first_token_ = add("vllm:time_to_first_token_seconds",
                             "From the request's head to its first token.", kTimeToFirstToken);
  inter_token_ =
      add("vllm:inter_token_latency_seconds", "From one token of a choice to the next.", kPerToken);
  time_per_output_token_ = add("vllm:request_time_per_output_token_seconds",
                               "A choice's mean time per token after the first.", kPerToken);
  e2e_ = add("vllm:e2e_request_latency_seconds", "From the request's head to its last token.",
             kRequest);
  queue_ = add("vllm:request_queue_time_seconds", "From the request's head to its first step.",
               kRequest);
  inference_ = add("vllm:request_inference_time_seconds", "From its first step to its last token.",
                   kRequest);
  prefill_ =
      add("vllm:request_prefill_time_seconds", "From its first step to its first token.", kRequest);
  decode_ = add("vllm:request_decode_time_seconds", "From its first token to its last.", kRequest);
  decode_rate_ = add("slipstream:decode_tokens_per_second",
                     "A choice's tokens per second after the first.", kDecodeRates);
  const std::vector<double> tokens = token_bounds(max_model_len);
  prompt_tokens_ = add("vllm:request_prompt_tokens", "Prompt tokens of a choice.", tokens);
  generation_tokens_ =
      add("vllm:request_generation_tokens", "Generated tokens of a choice.", tokens);
  max_tokens_ = add("vllm:request_params_max_tokens", "max_tokens, where it was sent.", tokens);
  n_ = add("vllm:request_params_n", "n of the call of a choice.", kCounts);
  computed_tokens_ = add("vllm:request_prefill_kv_computed_tokens",
                         "Prompt tokens of a choice that were not cached.", tokens);
}

void ServerMetrics::count_http(const HttpObservation& http) {
  const std::string status = status_class(http.status);
  const std::string key = str(http.handler, " ", http.method, " ", status);
  auto found = http_.find(key);
  if (found == http_.end()) {
    const MetricLabels handler = {{"handler", std::string(http.handler)},
                                  {"method", std::string(http.method)}};
    const HttpSeries series = {
        &registry_.counter("http_requests_total", "Requests by route, method and class of status.",
                           with(handler, "status", status)),
        &registry_.histogram("http_request_duration_seconds",
                             "From a request's head to the last byte of its answer.", handler,
                             kHttpSeconds),
        &registry_.histogram("http_request_size_bytes", "Bytes of request bodies.", handler,
                             kBytes),
        &registry_.histogram("http_response_size_bytes", "Bytes of response bodies.", handler,
                             kBytes)};
    found = http_.emplace(key, series).first;
  }
  found->second.requests->add();
  found->second.seconds->observe(http.seconds);
  found->second.request_bytes->observe(static_cast<double>(http.request_bytes));
  found->second.response_bytes->observe(static_cast<double>(http.response_bytes));
}

void ServerMetrics::observe_finished(const ChoiceObservation& choice) {
  finished_[static_cast<size_t>(choice.finish)]->add();
  prompt_tokens_->observe(static_cast<double>(choice.prompt_tokens));
  generation_tokens_->observe(static_cast<double>(choice.generated_tokens));
  computed_tokens_->observe(static_cast<double>(choice.prompt_tokens - choice.cached_tokens));
  if (choice.max_tokens > 0) max_tokens_->observe(static_cast<double>(choice.max_tokens));
  n_->observe(static_cast<double>(choice.n));
  if (choice.first_token_ns == 0) return;
  e2e_->observe(seconds_between(choice.arrival_ns, choice.last_token_ns));
  if (choice.scheduled_ns > 0) {
    queue_->observe(seconds_between(choice.arrival_ns, choice.scheduled_ns));
    prefill_->observe(seconds_between(choice.scheduled_ns, choice.first_token_ns));
    inference_->observe(seconds_between(choice.scheduled_ns, choice.last_token_ns));
  }
  const double decode_s = seconds_between(choice.first_token_ns, choice.last_token_ns);
  decode_->observe(decode_s);
  if (choice.generated_tokens > 1) {
    const auto later_tokens = static_cast<double>(choice.generated_tokens - 1);
    time_per_output_token_->observe(decode_s / later_tokens);
    if (decode_s > 0.0) decode_rate_->observe(later_tokens / decode_s);
  }
}

}  // namespace slipstream
