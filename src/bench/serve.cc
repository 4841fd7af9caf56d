#include "bench/serve.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/strings.h"
#include "bench/distribution.h"
#include "bench/serve_requests.h"

namespace slipstream {
namespace {

constexpr int64_t kCallTimeoutMs = 10'000;
constexpr auto kReadyPoll = std::chrono::milliseconds(20);
constexpr int kMaxProbes = 16;           // of the search for a rate
constexpr double kRatePrecision = 0.05;  // it ends when the bounds are this close
constexpr double kMaxSlowdown = 64.0;    // it gives up so far below all at once
constexpr double kMaxProbeSeconds = 600.0;
constexpr uint64_t kRepeatStride = 7919;

bool is_chat_endpoint(const std::string& endpoint) {
  return endpoint.find("chat") != std::string::npos;
}

// One load and the record of it.
struct Run {
  std::string label;
  Arrivals arrivals;
  uint64_t seed = 1;
};

class ServeBench {
 public:
  ServeBench(const ServeBenchOptions& options, RecordWriter& records, const ServeBenchHooks& hooks)
      : options_(options), records_(records), hooks_(hooks) {}

  Result<ServeBenchOutcome> run();

 private:
  Status set_up();
  Status wait_ready();
  Status choose_model();
  Status plan_arrivals();
  Status warm_up();
  Result<Json> measure(const Run& run);
  Result<LoadResult> load(const Run& run, std::vector<PromptLengths> lengths,
                          std::vector<int64_t> times_ns);
  Status repeat_runs(Arrivals arrivals);
  Result<double> search_rate();
  Result<bool> probe(double rate, double& share);
  Json config() const;
  bool stopped() const { return outcome_.interrupted || !outcome_.server_lost.empty(); }
  bool should_stop() const { return hooks_.should_stop && hooks_.should_stop(); }

  const ServeBenchOptions& options_;
  RecordWriter& records_;
  const ServeBenchHooks& hooks_;
  HttpTarget target_;
  std::string model_;
  std::vector<PromptLengths> lengths_;
  std::vector<TraceRow> trace_;
  std::optional<double> cold_start_s_;
  int64_t num_clipped_ = 0;
  Json probes_ = Json::array();
  ServeBenchOutcome outcome_;
};

Status ServeBench::wait_ready() {
  const int64_t begin_ns = steady_now_ns();
  const auto elapsed_s = [begin_ns] {
    return static_cast<double>(steady_now_ns() - begin_ns) * 1e-9;
  };
  for (;;) {
    const Result<HttpReply> reply = http_call(target_, "/v1/models", "", kCallTimeoutMs);
    // A server that asks for another key, or has no such route, is up.
    if (reply.ok() && reply->status < 500) break;
    if (should_stop()) return failed("interrupted while waiting for the server");
    if (elapsed_s() > options_.wait_ready_s) {
      const std::string why =
          reply.ok() ? str("it answers HTTP ", reply->status) : reply.status().message();
      return failed(
          str(options_.url, " was not ready within ", options_.wait_ready_s, " s: ", why));
    }
    std::this_thread::sleep_for(kReadyPoll);
  }
  cold_start_s_ = elapsed_s();
  return {};
}

Status ServeBench::choose_model() {
  model_ = options_.model;
  SLIPSTREAM_ASSIGN_OR_RETURN(const HttpReply reply,
                              http_call(target_, "/v1/models", "", kCallTimeoutMs));
  if (reply.status == 401 || reply.status == 403) {
    return failed(str(options_.url, " refuses the key (HTTP ", reply.status, "); give --api-key"));
  }
  std::string known;
  const Result<Json> json = parse_json(reply.body, "models");
  if (reply.status == 200 && json.ok() && json->is_object() && json->contains("data") &&
      json->at("data").is_array()) {
    for (const Json& entry : json->at("data")) {
      const std::string id =
          entry.is_object() ? json_string(entry, "id", "").value() : std::string();
      if (id.empty()) continue;
      if (id == options_.model) return {};
      if (model_.empty()) model_ = id;
      known += (known.empty() ? "" : ", ") + quote(id);
    }
  }
  if (known.empty() && model_.empty()) {
    const std::string answer = reply.status == 200
                                   ? " does not list its models"
                                   : str(" answers /v1/models with HTTP ", reply.status);
    return failed(str(options_.url, answer, "; give --model NAME"));
  }
  if (known.empty() || options_.model.empty()) return {};
  return failed(str("--model ", quote(options_.model), ": ", options_.url, " serves ", known));
}

// Shapes and, for a trace, the times: what all repeats have in common.
Status ServeBench::plan_arrivals() {
  if (options_.arrivals.kind != ArrivalKind::kTrace) {
    lengths_.assign(static_cast<size_t>(options_.num_prompts),
                    {options_.input_len, options_.output_len});
    return {};
  }
  SLIPSTREAM_ASSIGN_OR_RETURN(trace_, read_trace(options_.trace_path, options_.num_prompts));
  for (const TraceRow& row : trace_) {
    const PromptLengths length{std::clamp<int64_t>(row.input_len, 1, options_.input_len),
                               std::clamp<int64_t>(row.output_len, 1, options_.output_len)};
    if (length.input_len < row.input_len || length.output_len < row.output_len) ++num_clipped_;
    lengths_.push_back(length);
  }
  return {};
}

Status ServeBench::set_up() {
  SLIPSTREAM_RETURN_IF_ERROR(check_serve_options(options_));
  SLIPSTREAM_ASSIGN_OR_RETURN(target_, parse_target(options_.url));
  target_.api_key = options_.api_key;
  SLIPSTREAM_RETURN_IF_ERROR(resolve_target(target_));
  SLIPSTREAM_RETURN_IF_ERROR(plan_arrivals());
  if (options_.wait_ready_s > 0) SLIPSTREAM_RETURN_IF_ERROR(wait_ready());
  return choose_model();
}

Result<LoadResult> ServeBench::load(const Run& run, std::vector<PromptLengths> lengths,
                                    std::vector<int64_t> times_ns) {
  PromptOptions prompt_options = options_.prompts;
  prompt_options.is_chat = is_chat_endpoint(options_.endpoint);
  TokenCounter counter(target_, model_);
  SLIPSTREAM_ASSIGN_OR_RETURN(std::vector<LoadPrompt> prompts,
                              make_load_prompts(prompt_options, lengths, run.seed, counter));
  const RequestShape shape{.model = model_,
                           .is_chat = prompt_options.is_chat,
                           .temperature = options_.temperature,
                           .ignore_eos = options_.ignore_eos,
                           .per_chunk_usage = options_.per_chunk_usage,
                           .extra_body = options_.extra_body};
  const ServeRequests requests(shape, std::move(prompts), times_ns, run.seed);
  LoadOptions load_options;
  load_options.endpoint = options_.endpoint;
  load_options.max_concurrency = run.arrivals.kind == ArrivalKind::kClosed
                                     ? run.arrivals.concurrency
                                     : options_.max_concurrency;
  load_options.num_threads = options_.client_threads;
  load_options.request_timeout_ms = options_.request_timeout_s * 1000;
  load_options.num_idle_connections = options_.num_idle_connections;
  load_options.next_body = [&requests](size_t session_idx,
                                       const std::vector<std::string>& answers) {
    return requests.next_body(session_idx, answers);
  };
  int64_t num_requests = 0;
  for (const LoadSession& session : requests.sessions()) num_requests += session.num_turns;
  LoadHooks hooks;
  hooks.should_stop = hooks_.should_stop;
  if (hooks_.on_progress) {
    hooks.on_progress = [&](const LoadState& state) {
      hooks_.on_progress(run.label, num_requests, state);
    };
  }
  return run_load(target_, requests.sessions(), load_options, hooks);
}

// One at a time, so that a server that refuses is told from one that is overloaded.
Status ServeBench::warm_up() {
  if (options_.num_warmups == 0) return {};
  std::vector<PromptLengths> lengths;
  for (int64_t i = 0; i < options_.num_warmups; ++i) {
    lengths.push_back(lengths_[static_cast<size_t>(i) % lengths_.size()]);
  }
  const int64_t concurrency = std::max<int64_t>(1, options_.num_warmups / 2);
  const Run run{"warm-up",
                {.kind = ArrivalKind::kClosed, .concurrency = concurrency},
                options_.seed ^ 0xC01D};
  std::vector<int64_t> times_ns(lengths.size(), 0);
  SLIPSTREAM_ASSIGN_OR_RETURN(const LoadResult result,
                              load(run, std::move(lengths), std::move(times_ns)));
  outcome_.interrupted = result.interrupted;
  if (result.interrupted) return {};
  const bool any_ok = std::any_of(result.streams.begin(), result.streams.end(),
                                  [](const StreamTimes& stream) { return stream.ok; });
  if (any_ok) return {};
  const StreamTimes& first = result.streams.front();
  return failed(str(options_.url, options_.endpoint, " answers no request (", first.error_kind,
                    "): ", first.error));
}

Json ServeBench::config() const {
  const PromptOptions& prompts = options_.prompts;
  Json config{{"endpoint", options_.endpoint},
              {"input_len", options_.input_len},
              {"output_len", options_.output_len},
              {"num_prompts", lengths_.size()},
              {"max_concurrency", options_.max_concurrency},
              {"request_rate", options_.arrivals.rate},
              {"dataset_name", prompt_source_names()[static_cast<size_t>(prompts.source)]},
              {"prefix_share", prompts.prefix_share},
              {"turns", prompts.num_turns},
              {"warmups", options_.num_warmups},
              {"idle_connections", options_.num_idle_connections},
              {"temperature", options_.temperature},
              {"ignore_eos", options_.ignore_eos},
              {"seed", options_.seed}};
  if (!prompts.path.empty()) {
    config["dataset"] = std::filesystem::path(prompts.path).filename().string();
  }
  if (options_.arrivals.kind == ArrivalKind::kTrace) {
    config["trace_speed"] = options_.trace_speed;
    config["trace_rows_clipped"] = num_clipped_;
  }
  if (!options_.extra_body.empty()) config["extra_body"] = options_.extra_body;
  return config;
}

// The record of one run; null when it was interrupted, which leaves no record.
Result<Json> ServeBench::measure(const Run& run) {
  RecordHead head;
  head.kind = "serve";
  head.config = config();
  head.repeats = options_.repeats;
  Json record = begin_record(head);
  std::vector<int64_t> times_ns =
      arrival_times_ns(run.arrivals, static_cast<int64_t>(lengths_.size()), run.seed);
  for (size_t i = 0; i < trace_.size(); ++i) {
    times_ns[i] = std::llround(static_cast<double>(trace_[i].at_ns) / options_.trace_speed);
  }
  Arrivals arrivals = run.arrivals;
  if (!trace_.empty() && times_ns.back() > 0) {
    arrivals.rate =
        static_cast<double>(times_ns.size() - 1) * 1e9 / static_cast<double>(times_ns.back());
  }
  SLIPSTREAM_ASSIGN_OR_RETURN(const LoadResult result, load(run, lengths_, std::move(times_ns)));
  if (result.interrupted) {
    outcome_.interrupted = true;
    return Json(nullptr);
  }
  if (hooks_.on_result) hooks_.on_result(result);
  record["url"] = options_.url;
  record["served_model"] = model_;
  record["arrival"] = arrival_text(arrivals);
  record["prefix_share"] = options_.prompts.prefix_share;
  if (cold_start_s_) record["cold_start_s"] = *cold_start_s_;
  const bool is_fixed = options_.arrivals.kind != ArrivalKind::kTrace;
  add_load_figures(result,
                   {.goodput = options_.goodput,
                    .output_len = is_fixed ? options_.output_len : 0,
                    .stall_ms = options_.stall_ms,
                    .seed = options_.seed},
                   record);
  const auto num_errors = record["errors"].get<int64_t>();
  outcome_.num_errors += num_errors;
  outcome_.all_valid = outcome_.all_valid && record["valid"].get<bool>();
  if (result.server_lost) {
    const auto num_ok = static_cast<int64_t>(result.streams.size()) - num_errors;
    outcome_.server_lost = str(options_.url, " went away after ", num_ok,
                               " answers; the record of this run is marked invalid");
  }
  return record;
}

Status ServeBench::repeat_runs(Arrivals arrivals) {
  std::vector<Json> done;
  for (int repeat_idx = 0; repeat_idx < options_.repeats && !stopped(); ++repeat_idx) {
    const Run run{options_.repeats == 1 ? "measuring"
                                        : str("repeat ", repeat_idx + 1, " of ", options_.repeats),
                  arrivals, options_.seed + static_cast<uint64_t>(repeat_idx) * kRepeatStride};
    SLIPSTREAM_ASSIGN_OR_RETURN(Json record, measure(run));
    if (record.is_null()) break;
    record["repeat"] = repeat_idx;
    ++outcome_.num_records;
    SLIPSTREAM_RETURN_IF_ERROR(records_.write(record));
    done.push_back(std::move(record));
  }
  if (done.size() < 2 && probes_.empty()) return {};
  if (done.empty()) return {};
  Json summary = summary_of_repeats(done, options_.seed);
  if (!probes_.empty()) {
    summary["highest_rate"] = Json{{"requests_s", arrivals.rate},
                                   {"limits", goodput_limits_json(options_.goodput)},
                                   {"share", options_.goodput_share},
                                   {"probes", probes_}};
  }
  return records_.write(summary);
}

Result<bool> ServeBench::probe(double rate, double& share) {
  const Run run{
      str("probe ", probes_.size() + 1, ", ", std::round(rate * 1000.0) / 1000.0, " req/s"),
      {.kind = ArrivalKind::kPoisson, .rate = rate},
      options_.seed};
  SLIPSTREAM_ASSIGN_OR_RETURN(const Json record, measure(run));
  if (record.is_null()) return false;
  share = record["goodput"]["share"].get<double>();
  const bool meets = share >= options_.goodput_share;
  probes_.push_back(Json{{"requests_s", rate},
                         {"share", share},
                         {"meets", meets},
                         {"valid", record["valid"]},
                         {"errors", record["errors"]}});
  return meets;
}

// Bisection between a rate that meets the limits and one that does not. All at once gives the most
// that the server completes, and so where to begin.
Result<double> ServeBench::search_rate() {
  const Run all_at_once{"all at once", {.kind = ArrivalKind::kAllAtOnce}, options_.seed};
  SLIPSTREAM_ASSIGN_OR_RETURN(const Json record, measure(all_at_once));
  if (record.is_null() || stopped()) return 0.0;
  const auto capacity = record["requests_s"].get<double>();
  if (capacity <= 0.0) return failed("no request was answered, so there is no rate to search for");
  // A rate that low says that none will do, or takes longer than anyone waits.
  const double lowest =
      std::max(capacity / kMaxSlowdown, static_cast<double>(lengths_.size()) / kMaxProbeSeconds);
  double low = 0.0;
  double high = 0.0;  // none known yet
  double rate = capacity;
  while (static_cast<int>(probes_.size()) < kMaxProbes) {
    double share = 0.0;
    SLIPSTREAM_ASSIGN_OR_RETURN(const bool meets, probe(rate, share));
    if (stopped()) return low;
    (meets ? low : high) = rate;
    if (high == 0.0) {
      rate *= 2.0;
      continue;
    }
    if (high - low <= kRatePrecision * high || (low == 0.0 && high < lowest)) break;
    rate = (low + high) / 2.0;
  }
  return low;
}

Result<ServeBenchOutcome> ServeBench::run() {
  SLIPSTREAM_RETURN_IF_ERROR(set_up());
  SLIPSTREAM_RETURN_IF_ERROR(warm_up());
  if (outcome_.interrupted) return outcome_;
  Arrivals arrivals = options_.arrivals;
  if (options_.find_rate) {
    SLIPSTREAM_ASSIGN_OR_RETURN(const double rate, search_rate());
    if (stopped()) return outcome_;
    if (rate <= 0.0) {
      return failed(str("no rate meets the limits for ", options_.goodput_share * 100.0,
                        " % of the requests, not even ", probes_.back()["requests_s"].get<double>(),
                        " a second"));
    }
    arrivals = {.kind = ArrivalKind::kPoisson, .rate = rate};
    // What the probes found wrong is not wrong with the runs that are recorded.
    outcome_.num_errors = 0;
    outcome_.all_valid = true;
  }
  SLIPSTREAM_RETURN_IF_ERROR(repeat_runs(arrivals));
  return outcome_;
}

}  // namespace

Status check_serve_options(const ServeBenchOptions& o) {
  const bool is_file = o.prompts.source != PromptSource::kRandom;
  const bool has_length = !is_file || o.prompts.source == PromptSource::kSonnet;
  const std::string& name = prompt_source_names()[static_cast<size_t>(o.prompts.source)];
  const bool is_chat = is_chat_endpoint(o.endpoint);
  if (is_file && o.prompts.path.empty()) {
    return bad_usage(str("--dataset-name ", name, " needs --dataset-path FILE"));
  }
  if (!is_file && !o.prompts.path.empty()) {
    return bad_usage("--dataset-path needs --dataset-name; random prompts come from no file");
  }
  if (!has_length && o.prompts.prefix_share > 0.0) {
    return bad_usage(str("--prefix-share makes prompts of its own, and --dataset-name ", name,
                         " brings its own; drop one"));
  }
  if (!has_length && o.prompts.num_turns > 1) {
    return bad_usage(str("--turns: the prompts of ", name, " are what their file says; drop it"));
  }
  if (!has_length && o.arrivals.kind == ArrivalKind::kTrace) {
    return bad_usage(str("--trace gives the prompts' lengths, and --dataset-name ", name,
                         " has its own; drop one"));
  }
  if (o.prompts.source == PromptSource::kRandom && o.prompts.as_ids && !is_chat &&
      o.prompts.num_turns > 1) {
    return bad_usage(
        "--turns needs text to put answers into; add --text-prompts or --endpoint"
        " /v1/chat/completions");
  }
  if (o.find_rate && !o.goodput.any()) {
    return bad_usage("--find-rate needs --goodput, such as --goodput ttft:300 tpot:50");
  }
  const bool is_scheduled = o.arrivals.kind != ArrivalKind::kAllAtOnce;
  if (o.find_rate && (is_scheduled || o.max_concurrency > 0)) {
    return bad_usage(
        "--find-rate chooses its own rates; drop --request-rate, --trace and"
        " --max-concurrency");
  }
  return {};
}

Result<ServeBenchOutcome> bench_serve(const ServeBenchOptions& options, RecordWriter& records,
                                      const ServeBenchHooks& hooks) {
  return ServeBench(options, records, hooks).run();
}

}  // namespace slipstream
