#include "bench/load_stats.h"

#include <algorithm>
#include <array>
#include <map>
#include <utility>

#include "base/strings.h"
#include "bench/distribution.h"

namespace slipstream {
namespace {

constexpr double kMsPerNs = 1e-6;
constexpr std::array kLatencies = {"ttft_ms", "itl_ms", "tpot_ms", "e2e_ms"};
constexpr std::array kRates = {"output_tok_s", "requests_s", "total_tok_s"};

double ms_between(int64_t from_ns, int64_t to_ns) {
  return static_cast<double>(to_ns - from_ns) * kMsPerNs;
}

// Everything of the streams that ended well, and the span of all.
struct Gathered {
  std::vector<double> ttft_ms, itl_ms, tpot_ms, e2e_ms;
  std::vector<double> output_tokens, prompt_tokens, tokens_per_chunk;
  std::map<std::string, int64_t> errors_by_kind;
  std::string first_error;
  int64_t begin_ns = INT64_MAX, end_ns = 0;
  int64_t last_sent_ns = 0;
  int64_t num_ok = 0, num_good = 0, num_chunks = 0;
  int64_t num_without_usage = 0, num_short = 0;
  int64_t num_stalls = 0;
};

void gather_gaps(const StreamTimes& stream, const LoadFacts& facts, Gathered& all) {
  for (size_t i = 1; i < stream.chunk_ns.size(); ++i) {
    const double gap_ms = ms_between(stream.chunk_ns[i - 1], stream.chunk_ns[i]);
    all.itl_ms.push_back(gap_ms);
    if (gap_ms > facts.stall_ms) ++all.num_stalls;
  }
}

void gather_ok(const StreamTimes& stream, const LoadFacts& facts, Gathered& all) {
  const RequestFigures figures = figures_of(stream);
  const auto num_chunks = static_cast<int64_t>(stream.chunk_ns.size());
  ++all.num_ok;
  all.num_chunks += num_chunks;
  all.ttft_ms.push_back(figures.ttft_ms);
  all.e2e_ms.push_back(figures.e2e_ms);
  if (figures.output_tokens > 1) all.tpot_ms.push_back(figures.tpot_ms);
  all.output_tokens.push_back(static_cast<double>(figures.output_tokens));
  if (stream.prompt_tokens >= 0) {
    all.prompt_tokens.push_back(static_cast<double>(stream.prompt_tokens));
  }
  if (stream.completion_tokens < 0) ++all.num_without_usage;
  if (facts.output_len > 0 && figures.output_tokens < facts.output_len) ++all.num_short;
  if (is_good(figures, facts.goodput)) ++all.num_good;
  gather_gaps(stream, facts, all);
  for (const int32_t tokens : stream.chunk_tokens) all.tokens_per_chunk.push_back(tokens);
  if (stream.chunk_tokens.empty() && stream.completion_tokens >= 0) {
    all.tokens_per_chunk.push_back(static_cast<double>(figures.output_tokens) /
                                   static_cast<double>(num_chunks));
  }
}

Gathered gather(const LoadResult& load, const LoadFacts& facts) {
  Gathered all;
  for (const StreamTimes& stream : load.streams) {
    if (stream.sent_ns > 0) {
      all.begin_ns = std::min(all.begin_ns, stream.sent_ns);
      all.last_sent_ns = std::max(all.last_sent_ns, stream.sent_ns);
    }
    if (stream.ok) {
      all.end_ns = std::max(all.end_ns, stream.ended_ns);
      gather_ok(stream, facts, all);
      continue;
    }
    ++all.errors_by_kind[stream.error_kind];
    if (all.first_error.empty()) {
      all.first_error = str(stream.error_kind, stream.error.empty() ? "" : ": ", stream.error);
    }
  }
  return all;
}

double sum(const std::vector<double>& values) {
  return mean(values) * static_cast<double>(values.size());
}

// How sure the figures of this one run are: its requests drawn again and again.
Json request_intervals(const Gathered& all, uint64_t seed) {
  Json intervals = Json::object();
  const std::array<std::pair<const char*, const std::vector<double>*>, 3> sets = {
      {{"ttft_ms", &all.ttft_ms}, {"tpot_ms", &all.tpot_ms}, {"e2e_ms", &all.e2e_ms}}};
  for (const auto& [name, values] : sets) {
    if (values->empty()) continue;
    intervals[name] = Json{
        {"mean", interval_json(bootstrap_interval(*values, mean, seed))},
        {"p50", interval_json(bootstrap_interval(
                    *values, [](const auto& v) { return sorted_percentile(v, 0.5); }, seed))},
        {"p99", interval_json(bootstrap_interval(
                    *values, [](const auto& v) { return sorted_percentile(v, 0.99); }, seed))}};
  }
  return intervals;
}

Json invalid_reasons(const LoadResult& load) {
  Json reasons = Json::array();
  const double lag_ms = load.lag.percentile_ms(0.99);
  if (load.lag.num_samples() == 0) {
    reasons.push_back("the client's lag could not be measured");
  } else if (lag_ms > kMaxClientLagMs) {
    reasons.push_back(str("the client lagged ", lag_ms, " ms at p99, more than ", kMaxClientLagMs,
                          " ms: give it more --client-threads, or a machine of its own"));
  }
  if (load.server_lost) reasons.push_back("the server went away");
  if (load.interrupted) reasons.push_back("the run was interrupted");
  return reasons;
}

void add_counts(const LoadResult& load, const LoadFacts& facts, const Gathered& all, Json& record) {
  const auto num_requests = static_cast<int64_t>(load.streams.size());
  record["requests"] = num_requests;
  record["errors"] = num_requests - all.num_ok;
  record["errors_by_kind"] = all.errors_by_kind;
  if (!all.first_error.empty()) record["first_error"] = all.first_error;
  record["output_tokens"] = full_distribution_json(all.output_tokens);
  record["output_tokens_total"] = static_cast<int64_t>(sum(all.output_tokens) + 0.5);
  record["prompt_tokens"] = full_distribution_json(all.prompt_tokens);
  if (facts.output_len > 0) record["short_answers"] = all.num_short;
  record["answers_without_usage"] = all.num_without_usage;
  record["chunks"] = all.num_chunks;
  record["tokens_per_chunk"] = full_distribution_json(all.tokens_per_chunk);
}

void add_client(const LoadResult& load, Json& record) {
  const auto num_chunks = static_cast<double>(load.num_chunks);
  record["client_lag_ms"] = lag_json(load.lag);
  record["client_threads"] = load.num_threads;
  record["client_cpu_us_per_chunk"] =
      load.num_chunks > 0 ? Json(load.client_cpu_us / num_chunks) : Json(nullptr);
  record["invalid_reasons"] = invalid_reasons(load);
  record["valid"] = record["invalid_reasons"].empty();
}

// The figure at "ttft_ms.p50" or "requests_s" of each record that has it.
std::vector<double> figures_at(const std::vector<Json>& records, const char* name,
                               const std::string& statistic) {
  std::vector<double> values;
  for (const Json& record : records) {
    const auto found = record.find(name);
    if (found == record.end()) continue;
    const Json value = statistic.empty()    ? *found
                       : found->is_object() ? found->value(statistic, Json(nullptr))
                                            : Json(nullptr);
    if (value.is_number()) values.push_back(value.get<double>());
  }
  return values;
}

}  // namespace

Status add_goodput_limits(const std::string& text, GoodputLimits& limits) {
  std::string spaced = text;
  std::replace(spaced.begin(), spaced.end(), ',', ' ');
  for (const std::string& part : split(spaced, ' ')) {
    if (part.empty()) continue;
    const size_t colon = part.find(':');
    const std::string name = part.substr(0, colon);
    double* limit = name == "ttft"                    ? &limits.ttft_ms
                    : name == "tpot"                  ? &limits.tpot_ms
                    : name == "e2el" || name == "e2e" ? &limits.e2e_ms
                                                      : nullptr;
    const Result<Json> value = colon == std::string::npos
                                   ? Result<Json>(Json(nullptr))
                                   : parse_json(part.substr(colon + 1), "goodput");
    const bool is_limit = value.ok() && value->is_number() && value->get<double>() > 0.0;
    if (limit == nullptr || !is_limit) {
      return bad_usage(str("--goodput ", quote(part),
                           ": NAME:MILLISECONDS is expected with ttft, tpot or e2el, such as"
                           " ttft:300 tpot:50"));
    }
    if (*limit > 0.0) return bad_usage(str("--goodput ", name, " is given twice"));
    *limit = value->get<double>();
  }
  return {};
}

Json goodput_limits_json(const GoodputLimits& limits) {
  Json json = Json::object();
  if (limits.ttft_ms > 0.0) json["ttft_ms"] = limits.ttft_ms;
  if (limits.tpot_ms > 0.0) json["tpot_ms"] = limits.tpot_ms;
  if (limits.e2e_ms > 0.0) json["e2e_ms"] = limits.e2e_ms;
  return json;
}

RequestFigures figures_of(const StreamTimes& stream) {
  RequestFigures figures;
  figures.output_tokens = stream.completion_tokens >= 0
                              ? stream.completion_tokens
                              : static_cast<int64_t>(stream.chunk_ns.size());
  figures.ttft_ms = ms_between(stream.sent_ns, stream.chunk_ns.front());
  figures.e2e_ms = ms_between(stream.sent_ns, stream.chunk_ns.back());
  if (figures.output_tokens > 1) {
    figures.tpot_ms =
        (figures.e2e_ms - figures.ttft_ms) / static_cast<double>(figures.output_tokens - 1);
  }
  return figures;
}

bool is_good(const RequestFigures& figures, const GoodputLimits& limits) {
  const auto within = [](double value, double limit) { return limit <= 0.0 || value <= limit; };
  return within(figures.ttft_ms, limits.ttft_ms) && within(figures.tpot_ms, limits.tpot_ms) &&
         within(figures.e2e_ms, limits.e2e_ms);
}

void add_load_figures(const LoadResult& load, const LoadFacts& facts, Json& record) {
  Gathered all = gather(load, facts);
  const double seconds = all.num_ok > 0 ? ms_between(all.begin_ns, all.end_ns) * 1e-3 : 0.0;
  const auto per_second = [seconds](double amount) {
    return seconds > 0.0 ? amount / seconds : 0.0;
  };
  add_counts(load, facts, all, record);
  record["seconds"] = seconds;
  record["send_span_s"] =
      all.last_sent_ns > 0 ? ms_between(all.begin_ns, all.last_sent_ns) * 1e-3 : 0.0;
  record["output_tok_s"] = per_second(sum(all.output_tokens));
  record["requests_s"] = per_second(static_cast<double>(all.num_ok));
  if (static_cast<int64_t>(all.prompt_tokens.size()) == all.num_ok && all.num_ok > 0) {
    record["total_tok_s"] = per_second(sum(all.output_tokens) + sum(all.prompt_tokens));
  }
  if (facts.goodput.any()) {
    record["goodput"] =
        Json{{"limits", goodput_limits_json(facts.goodput)},
             {"requests_s", per_second(static_cast<double>(all.num_good))},
             {"share", load.streams.empty() ? 0.0
                                            : static_cast<double>(all.num_good) /
                                                  static_cast<double>(load.streams.size())}};
  }
  record["stalls"] = Json{{"over_ms", facts.stall_ms}, {"count", all.num_stalls}};
  record["ci95"] = request_intervals(all, facts.seed);
  record["ttft_ms"] = full_distribution_json(std::move(all.ttft_ms));
  record["itl_ms"] = full_distribution_json(std::move(all.itl_ms));
  record["tpot_ms"] = full_distribution_json(std::move(all.tpot_ms));
  record["e2e_ms"] = full_distribution_json(std::move(all.e2e_ms));
  add_client(load, record);
}

Json summary_of_repeats(const std::vector<Json>& records, uint64_t seed) {
  Json summary = records.front();
  for (const char* name : {"repeat", "errors_by_kind", "first_error", "goodput"}) {
    summary.erase(name);
  }
  summary["summary"] = true;
  summary["repeats"] = records.size();
  int64_t num_requests = 0;
  int64_t num_errors = 0;
  bool valid = true;
  Json reasons = Json::array();
  for (const Json& record : records) {
    num_requests += record.at("requests").get<int64_t>();
    num_errors += record.at("errors").get<int64_t>();
    valid = valid && record.at("valid").get<bool>();
    for (const Json& reason : record.at("invalid_reasons")) reasons.push_back(reason);
  }
  summary["requests"] = num_requests;
  summary["errors"] = num_errors;
  summary["valid"] = valid;
  summary["invalid_reasons"] = reasons;
  Json intervals = Json::object();
  for (const char* name : kRates) {
    const std::vector<double> values = figures_at(records, name, "");
    if (values.empty()) continue;
    summary[name] = median(values);
    intervals[name] = interval_json(bootstrap_interval(values, mean, seed));
  }
  for (const char* name : kLatencies) {
    for (const char* statistic : {"mean", "p50", "p90", "p95", "p99", "p999", "max"}) {
      const std::vector<double> values = figures_at(records, name, statistic);
      if (values.empty()) continue;
      summary[name][statistic] = median(values);
      intervals[name][statistic] = interval_json(bootstrap_interval(values, mean, seed));
    }
  }
  summary["ci95"] = std::move(intervals);
  return summary;
}

}  // namespace slipstream
