#include "bench/load_check.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/strings.h"
#include "bench/distribution.h"
#include "bench/http_call.h"
#include "bench/load_client.h"
#include "bench/load_stats.h"
#include "bench/record.h"
#include "bench/scripted_server.h"

namespace slipstream {
namespace {

constexpr double kNsPerMs = 1e6;
constexpr double kMsPerNs = 1e-6;
constexpr int64_t kSendSpanNs = 1'000'000'000;  // requests are spread over it
constexpr double kStallThreshold = 2.0 / 3.0;   // of the injected stall

const std::array<std::pair<ScriptedFault, const char*>, 4> kFaults = {
    {{ScriptedFault::kHttp429, "http_429"},
     {ScriptedFault::kHttp500, "http_500"},
     {ScriptedFault::kErrorEvent, "error_event"},
     {ScriptedFault::kClose, "closed_early"}}};

class LoadCheck {
 public:
  explicit LoadCheck(const LoadCheckOptions& options) : options_(options) {
    const auto share = options_.fault_share;
    fault_every_ = share > 0.0 ? std::max<int64_t>(1, std::llround(1.0 / share)) : 0;
  }

  Result<Json> run();

 private:
  StreamScript script(int64_t request_idx) const;
  std::vector<LoadSession> sessions() const;
  std::map<std::string, int64_t> expected_errors() const;
  void compare_times(const LoadResult& load, const std::vector<ScriptedLog>& log);
  void compare_counts(const std::vector<ScriptedLog>& log);
  void limit(const std::string& what, double error_ms) {
    if (std::fabs(error_ms) <= kMaxRecoveryErrorMs) return;
    faults_.push_back(str(what, " is ", error_ms, " ms off"));
  }

  const LoadCheckOptions& options_;
  int64_t fault_every_ = 0;
  Json record_;
  Json faults_ = Json::array();
};

StreamScript LoadCheck::script(int64_t request_idx) const {
  StreamScript script{.ttft_ns = std::llround(options_.ttft_ms * kNsPerMs),
                      .itl_ns = std::llround(options_.itl_ms * kNsPerMs),
                      .num_chunks = static_cast<int>(options_.num_chunks),
                      .fault = ScriptedFault::kNone,
                      .stall_chunk = -1,
                      .stall_ns = 0};
  if (fault_every_ > 0 && request_idx % fault_every_ == fault_every_ - 1) {
    const auto kind = static_cast<size_t>(request_idx / fault_every_) % kFaults.size();
    script.fault = kFaults[kind].first;
  } else if (options_.stall_every > 0 && request_idx % options_.stall_every == 0) {
    script.stall_chunk = script.num_chunks - 1;
    script.stall_ns = std::llround(options_.stall_ms * kNsPerMs);
  }
  return script;
}

std::vector<LoadSession> LoadCheck::sessions() const {
  std::vector<LoadSession> sessions;
  for (int64_t i = 0; i < options_.num_streams; ++i) {
    const Json body{{"prompt", Json::array({i})}, {"stream", true}};
    // The first one waits as well: a connection is made when a request is due, as in a real load.
    sessions.push_back(
        {.send_at_ns = 1 + i * kSendSpanNs / options_.num_streams, .body = dump_json(body)});
  }
  return sessions;
}

std::map<std::string, int64_t> LoadCheck::expected_errors() const {
  std::map<std::string, int64_t> expected;
  for (int64_t i = 0; i < options_.num_streams; ++i) {
    for (const auto& [fault, kind] : kFaults) {
      if (script(i).fault == fault) ++expected[kind];
    }
  }
  return expected;
}

void LoadCheck::compare_times(const LoadResult& load, const std::vector<ScriptedLog>& log) {
  std::vector<double> ttft_error_ms, itl_error_ms, arrival_error_ms, server_late_ms;
  for (size_t i = 0; i < load.streams.size(); ++i) {
    const StreamTimes& stream = load.streams[i];
    if (!stream.ok || stream.chunk_ns.size() != log[i].written_ns.size()) continue;
    const StreamScript injected = script(static_cast<int64_t>(i));
    ttft_error_ms.push_back(figures_of(stream).ttft_ms -
                            static_cast<double>(injected.ttft_ns) * kMsPerNs);
    for (size_t chunk = 0; chunk < stream.chunk_ns.size(); ++chunk) {
      arrival_error_ms.push_back(
          static_cast<double>(stream.chunk_ns[chunk] - log[i].written_ns[chunk]) * kMsPerNs);
      server_late_ms.push_back(
          static_cast<double>(log[i].written_ns[chunk] - log[i].due_ns[chunk]) * kMsPerNs);
      if (chunk == 0) continue;
      const int64_t injected_ns = log[i].due_ns[chunk] - log[i].due_ns[chunk - 1];
      const int64_t measured_ns = stream.chunk_ns[chunk] - stream.chunk_ns[chunk - 1];
      itl_error_ms.push_back(static_cast<double>(measured_ns - injected_ns) * kMsPerNs);
    }
  }
  limit("the median TTFT", median(ttft_error_ms));
  limit("the median ITL", median(itl_error_ms));
  limit("the arrival of chunks at p99, beside what the server wrote,",
        percentile(arrival_error_ms, 0.99));
  record_["ttft_error_ms"] = full_distribution_json(std::move(ttft_error_ms));
  record_["itl_error_ms"] = full_distribution_json(std::move(itl_error_ms));
  record_["arrival_error_ms"] = full_distribution_json(std::move(arrival_error_ms));
  record_["server_late_ms"] = full_distribution_json(std::move(server_late_ms));
}

void LoadCheck::compare_counts(const std::vector<ScriptedLog>& log) {
  const Json expected(expected_errors());
  record_["expected_errors_by_kind"] = expected;
  if (record_["errors_by_kind"] != expected) {
    faults_.push_back(
        str("errors ", dump_json(record_["errors_by_kind"]), " instead of ", dump_json(expected)));
  }
  int64_t num_stalls = 0;
  int64_t num_chunks = 0;
  for (int64_t i = 0; i < options_.num_streams; ++i) {
    if (script(i).fault != ScriptedFault::kNone) continue;
    const std::vector<int64_t>& written = log[static_cast<size_t>(i)].written_ns;
    num_chunks += std::ssize(written);
    for (size_t chunk = 1; chunk < written.size(); ++chunk) {
      const double gap_ms = static_cast<double>(written[chunk] - written[chunk - 1]) * kMsPerNs;
      if (gap_ms > record_["stalls"]["over_ms"].get<double>()) ++num_stalls;
    }
  }
  record_["expected_stalls"] = num_stalls;
  if (record_["stalls"]["count"] != num_stalls) {
    faults_.push_back(
        str(record_["stalls"]["count"].get<int64_t>(), " stalls found instead of ", num_stalls));
  }
  if (record_["chunks"] != num_chunks) {
    faults_.push_back(
        str(record_["chunks"].get<int64_t>(), " chunks counted instead of ", num_chunks));
  }
}

Result<Json> LoadCheck::run() {
  RecordHead head;
  head.kind = "load";
  head.config = Json{{"streams", options_.num_streams},     {"chunks", options_.num_chunks},
                     {"ttft_ms", options_.ttft_ms},         {"itl_ms", options_.itl_ms},
                     {"fault_share", options_.fault_share}, {"stall_every", options_.stall_every},
                     {"stall_ms", options_.stall_ms}};
  record_ = begin_record(head);
  SLIPSTREAM_ASSIGN_OR_RETURN(
      const auto server, ScriptedServer::create(options_.num_streams, [this](int64_t request_idx) {
        return script(request_idx);
      }));
  SLIPSTREAM_ASSIGN_OR_RETURN(HttpTarget target,
                              parse_target(str("http://127.0.0.1:", server->port())));
  SLIPSTREAM_RETURN_IF_ERROR(resolve_target(target));
  LoadOptions load_options;
  load_options.num_threads = options_.client_threads;
  SLIPSTREAM_ASSIGN_OR_RETURN(const LoadResult load, run_load(target, sessions(), load_options));
  const std::vector<ScriptedLog>& log = server->stop();
  add_load_figures(load,
                   {.goodput = {},
                    .output_len = options_.num_chunks,
                    .stall_ms = options_.stall_ms * kStallThreshold,
                    .seed = 1},
                   record_);
  compare_times(load, log);
  compare_counts(log);
  if (!record_["valid"].get<bool>()) {
    for (const Json& reason : record_["invalid_reasons"]) faults_.push_back(reason);
  }
  record_["passed"] = faults_.empty();
  record_["faults"] = faults_;
  return record_;
}

}  // namespace

Result<Json> check_load(const LoadCheckOptions& options) { return LoadCheck(options).run(); }

}  // namespace slipstream
