#include "bench/arrivals.h"

#include <array>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <optional>
#include <string_view>

#include "base/random.h"
#include "base/strings.h"
#include "bench/dataset_file.h"

namespace slipstream {
namespace {

constexpr double kNsPerS = 1e9;

// Nanoseconds since 1970 of "2023-11-16 18:17:03.9799600".
std::optional<int64_t> trace_time_ns(const std::string& text) {
  std::tm time{};
  double seconds = 0.0;
  int length = 0;
  const int count =
      std::sscanf(text.c_str(), "%d-%d-%d%*1[ T]%d:%d:%lf%n", &time.tm_year, &time.tm_mon,
                  &time.tm_mday, &time.tm_hour, &time.tm_min, &seconds, &length);
  if (count != 6 || length == 0 || !(seconds >= 0.0 && seconds < 61.0)) return std::nullopt;
  time.tm_year -= 1900;
  time.tm_mon -= 1;
  return static_cast<int64_t>(::timegm(&time)) * 1'000'000'000 + std::llround(seconds * kNsPerS);
}

std::optional<int64_t> trace_count(const std::string& text) {
  long long value = 0;
  int length = 0;
  const bool is_number = std::sscanf(text.c_str(), "%lld%n", &value, &length) == 1;
  if (!is_number || static_cast<size_t>(length) != text.size() || value < 0) return std::nullopt;
  return value;
}

}  // namespace

std::vector<int64_t> arrival_times_ns(const Arrivals& arrivals, int64_t num_requests,
                                      uint64_t seed) {
  std::vector<int64_t> times(static_cast<size_t>(num_requests), 0);
  const bool is_scheduled = arrivals.kind == ArrivalKind::kConstant ||
                            arrivals.kind == ArrivalKind::kPoisson ||
                            arrivals.kind == ArrivalKind::kBursts;
  if (!is_scheduled) return times;
  SplitMix64 random(seed);
  double at_s = 0.0;
  for (int64_t i = 0; i < num_requests; ++i) {
    times[static_cast<size_t>(i)] = static_cast<int64_t>(at_s * kNsPerS);
    if (arrivals.kind == ArrivalKind::kPoisson) {
      const double uniform = (static_cast<double>(random.next() >> 11) + 0.5) * 0x1p-53;
      at_s += -std::log(uniform) / arrivals.rate;
    } else if (arrivals.kind == ArrivalKind::kConstant) {
      at_s = static_cast<double>(i + 1) / arrivals.rate;
    } else {
      const int64_t burst_idx = (i + 1) / arrivals.burst_size;
      at_s = static_cast<double>(burst_idx * arrivals.burst_size) / arrivals.rate;
    }
  }
  return times;
}

std::string arrival_text(const Arrivals& arrivals) {
  switch (arrivals.kind) {
    case ArrivalKind::kAllAtOnce:
      return "burst";
    case ArrivalKind::kClosed:
      return str("closed ", arrivals.concurrency);
    case ArrivalKind::kConstant:
      return str("constant ", arrivals.rate);
    case ArrivalKind::kPoisson:
      return str("poisson ", arrivals.rate);
    case ArrivalKind::kBursts:
      return str("bursts ", arrivals.burst_size, " ", arrivals.rate);
    case ArrivalKind::kTrace:
      return str("trace ", arrivals.trace_name, " ", arrivals.rate);
  }
  return "";
}

Result<std::vector<TraceRow>> read_trace(const std::string& path, int64_t max_rows) {
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::vector<std::string> lines, read_dataset_lines(path));
  if (lines.front() != "TIMESTAMP,ContextTokens,GeneratedTokens") {
    return failed(str(path, ":1: TIMESTAMP,ContextTokens,GeneratedTokens is expected, not ",
                      quote(lines.front())));
  }
  std::vector<TraceRow> rows;
  int64_t first_ns = 0;
  for (size_t i = 1; i < lines.size() && static_cast<int64_t>(rows.size()) < max_rows; ++i) {
    const std::vector<std::string> cells = split(lines[i], ',');
    const auto time_ns = cells.empty() ? std::nullopt : trace_time_ns(cells[0]);
    const auto input_len = cells.size() == 3 ? trace_count(cells[1]) : std::nullopt;
    const auto output_len = cells.size() == 3 ? trace_count(cells[2]) : std::nullopt;
    if (!time_ns || !input_len || !output_len) {
      return failed(str(path, ":", i + 1, ": a time and two whole numbers are expected, not ",
                        quote(lines[i])));
    }
    if (rows.empty()) first_ns = *time_ns;
    const int64_t at_ns = *time_ns - first_ns;
    if (!rows.empty() && at_ns < rows.back().at_ns) {
      return failed(str(path, ":", i + 1, ": earlier than the row before; sort it by time"));
    }
    rows.push_back({at_ns, *input_len, *output_len});
  }
  if (rows.empty()) return failed(str(path, ": no rows"));
  return rows;
}

}  // namespace slipstream
