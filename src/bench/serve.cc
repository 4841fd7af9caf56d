#include "bench/serve.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "base/random.h"
#include "base/strings.h"
#include "bench/decode.h"
#include "bench/distribution.h"
#include "bench/http_load.h"

namespace slipstream {
namespace {

constexpr double kMs = 1e-6;  // of a nanosecond

std::string request_body(const ServeBenchOptions& options, uint64_t seed) {
  Json body{{"prompt", random_token_ids(options.input_len, options.vocab_size, seed)},
            {"max_tokens", options.output_len},
            {"temperature", options.temperature},
            {"seed", static_cast<int64_t>(seed >> 11)},
            {"ignore_eos", true},
            {"stream", true},
            {"stream_options", Json{{"include_usage", true}}}};
  if (!options.model.empty()) body["model"] = options.model;
  return dump_json(body);
}

std::vector<LoadRequest> make_requests(const ServeBenchOptions& options, int repeat_idx) {
  SplitMix64 random(options.seed + static_cast<uint64_t>(repeat_idx) * 7919u);
  std::vector<LoadRequest> requests(static_cast<size_t>(options.num_prompts));
  double at_s = 0.0;
  for (LoadRequest& request : requests) {
    request.body = request_body(options, random.next());
    if (options.request_rate <= 0.0) continue;
    request.send_at_ns = static_cast<int64_t>(at_s * 1e9);
    const double uniform = (static_cast<double>(random.next() >> 11) + 0.5) * 0x1p-53;
    at_s += (options.poisson ? -std::log(uniform) : 1.0) / options.request_rate;
  }
  return requests;
}

Json spread(std::vector<double> values) {
  if (values.empty()) return nullptr;
  double sum = 0.0;
  for (const double value : values) sum += value;
  Json json{{"mean", sum / static_cast<double>(values.size())}};
  for (const auto& [name, share] :
       {std::pair{"p50", 0.5}, std::pair{"p90", 0.9}, std::pair{"p95", 0.95},
        std::pair{"p99", 0.99}, std::pair{"p999", 0.999}, std::pair{"max", 1.0}}) {
    json[name] = percentile(values, share);
  }
  return json;
}

void add_measured(const std::vector<StreamTimes>& streams, Json& record) {
  std::vector<double> ttft;
  std::vector<double> itl;
  std::vector<double> tpot;
  std::vector<double> e2e;
  int64_t num_tokens = 0;
  int64_t num_ok = 0;
  int64_t begin_ns = INT64_MAX;
  int64_t end_ns = 0;
  std::string first_error;
  for (const StreamTimes& stream : streams) {
    if (!stream.ok) {
      if (first_error.empty()) first_error = stream.error;
      continue;
    }
    ++num_ok;
    begin_ns = std::min(begin_ns, stream.sent_ns);
    end_ns = std::max(end_ns, stream.ended_ns);
    num_tokens += std::max<int64_t>(0, stream.completion_tokens);
    e2e.push_back(static_cast<double>(stream.ended_ns - stream.sent_ns) * kMs);
    if (stream.event_ns.empty()) continue;
    ttft.push_back(static_cast<double>(stream.event_ns.front() - stream.sent_ns) * kMs);
    for (size_t i = 1; i < stream.event_ns.size(); ++i) {
      itl.push_back(static_cast<double>(stream.event_ns[i] - stream.event_ns[i - 1]) * kMs);
    }
    if (stream.completion_tokens > 1) {
      tpot.push_back(static_cast<double>(stream.event_ns.back() - stream.event_ns.front()) * kMs /
                     static_cast<double>(stream.completion_tokens - 1));
    }
  }
  const double seconds = num_ok > 0 ? static_cast<double>(end_ns - begin_ns) * 1e-9 : 0.0;
  record["requests"] = streams.size();
  record["errors"] = static_cast<int64_t>(streams.size()) - num_ok;
  if (!first_error.empty()) record["first_error"] = first_error;
  record["seconds"] = seconds;
  record["ttft_ms"] = spread(std::move(ttft));
  record["itl_ms"] = spread(std::move(itl));
  record["tpot_ms"] = spread(std::move(tpot));
  record["e2e_ms"] = spread(std::move(e2e));
  record["output_tok_s"] = seconds > 0.0 ? static_cast<double>(num_tokens) / seconds : 0.0;
  record["requests_s"] = seconds > 0.0 ? static_cast<double>(num_ok) / seconds : 0.0;
}

std::string arrival_of(const ServeBenchOptions& options, int64_t concurrency) {
  if (options.request_rate > 0.0) {
    return str(options.poisson ? "poisson " : "constant ", options.request_rate);
  }
  if (concurrency >= options.num_prompts) return "burst";
  return str("closed ", concurrency);
}

}  // namespace

Result<Json> bench_serve(const ServeBenchOptions& options, RecordWriter& records) {
  SLIPSTREAM_ASSIGN_OR_RETURN(const HttpTarget parsed, parse_target(options.url, options.endpoint));
  HttpTarget target = parsed;
  target.api_key = options.api_key;
  LoadOptions load;
  load.max_concurrency =
      options.max_concurrency > 0 ? options.max_concurrency : options.num_prompts;
  load.num_idle_connections = options.num_idle_connections;
  RecordHead head;
  head.kind = "serve";
  head.config = Json{
      {"endpoint", options.endpoint},         {"input_len", options.input_len},
      {"output_len", options.output_len},     {"max_concurrency", load.max_concurrency},
      {"request_rate", options.request_rate}, {"idle_connections", options.num_idle_connections},
      {"temperature", options.temperature},   {"seed", options.seed}};
  head.repeats = options.repeats;
  Json record;
  for (int repeat_idx = 0; repeat_idx < options.repeats; ++repeat_idx) {
    record = begin_record(head);
    SLIPSTREAM_ASSIGN_OR_RETURN(const std::vector<StreamTimes> streams,
                                run_load(target, make_requests(options, repeat_idx), load));
    record["repeat"] = repeat_idx;
    record["url"] = options.url;
    record["arrival"] = arrival_of(options, load.max_concurrency);
    add_measured(streams, record);
    SLIPSTREAM_RETURN_IF_ERROR(records.write(record));
  }
  return record;
}

}  // namespace slipstream
