// ServerMetrics: what /metrics shows. vLLM's names, so that existing dashboards read them, with
// finer buckets below 10 ms; ours begin with slipstream:.
//
// Owns the registry. Calls and the HTTP server count here; engine totals are mirrored at a scrape.
// Network thread only.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "metrics/metrics.h"
#include "slipstream/engine.h"

namespace slipstream {

struct HttpObservation {
  std::string_view handler;  // the matched route's path, "none" for none: never what a client sent
  std::string_view method;
  int status = 0;  // 499: the client left
  double seconds = 0.0;
  int64_t request_bytes = 0;
  int64_t response_bytes = 0;
};

// One finished choice.
struct ChoiceObservation {
  FinishReason finish = FinishReason::kNone;
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;
  int64_t generated_tokens = 0;
  int64_t max_tokens = 0;  // asked for; 0: the rest of the context
  int64_t n = 1;
  // Steady clock; 0: never reached.
  int64_t arrival_ns = 0;
  int64_t scheduled_ns = 0;
  int64_t first_token_ns = 0;
  int64_t last_token_ns = 0;
};

class ServerMetrics {
 public:
  ServerMetrics();
  ~ServerMetrics();

  struct EngineSeries {
    std::string model_name;
    Engine* engine = nullptr;
    double read_gb_s = 0.0;  // 0: not measured
  };
  // Once the model is loaded, before the first call. The engine outlives the last scrape.
  void attach(const EngineSeries& engine);

  void count_http(const HttpObservation& http);
  void count_unknown_fields(int64_t count) { unknown_fields_.add(static_cast<uint64_t>(count)); }
  void count_ledger_failure() { ledger_failures_.add(); }

  // The three of a running choice; only after attach().
  void observe_first_token(double seconds) { time_to_first_token_->observe(seconds); }
  void observe_inter_token(double seconds) { inter_token_->observe(seconds); }
  void observe_finished(const ChoiceObservation& choice);

  std::string text() const { return registry_.text(); }
  MetricRegistry& registry() { return registry_; }

 private:
  struct HttpSeries {
    Counter* requests;
    Histogram* seconds;
    Histogram* request_bytes;
    Histogram* response_bytes;
  };
  void attach_gauges(const EngineSeries& engine, const MetricLabels& labels);
  void attach_counters(Engine& engine, const MetricLabels& labels);
  void attach_histograms(const MetricLabels& labels, int64_t max_model_len);

  MetricRegistry registry_;
  std::map<std::string, HttpSeries, std::less<>> http_;  // "handler method status"
  Counter& unknown_fields_;
  Counter& ledger_failures_;
  std::array<Counter*, 6> finished_{};  // by FinishReason
  Histogram* time_to_first_token_ = nullptr;
  Histogram* inter_token_ = nullptr;
  Histogram* time_per_output_token_ = nullptr;
  Histogram* decode_rate_ = nullptr;
  Histogram* e2e_ = nullptr;
  Histogram* queue_ = nullptr;
  Histogram* prefill_ = nullptr;
  Histogram* decode_ = nullptr;
  Histogram* inference_ = nullptr;
  Histogram* prompt_tokens_ = nullptr;
  Histogram* generation_tokens_ = nullptr;
  Histogram* max_tokens_ = nullptr;
  Histogram* n_ = nullptr;
  Histogram* computed_tokens_ = nullptr;
};

}  // namespace slipstream
