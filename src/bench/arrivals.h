// When requests of a load are sent: all at once, a number at a time, at a rate, in bursts, or as a
// recorded trace has it. Pure functions but for reading a trace.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"

namespace slipstream {

enum class ArrivalKind : uint8_t { kAllAtOnce, kClosed, kConstant, kPoisson, kBursts, kTrace };

struct Arrivals {
  ArrivalKind kind = ArrivalKind::kAllAtOnce;
  double rate = 0.0;            // requests per second, on average; of kConstant, kPoisson, kBursts
  int64_t concurrency = 0;      // of kClosed
  int64_t burst_size = 1;       // of kBursts: so many at once, evenly spaced to meet the rate
  std::string trace_name = {};  // of kTrace
};

// Nanoseconds after the start, in order; zeros where nothing is scheduled. The same seed gives the
// same times; not for kTrace.
std::vector<int64_t> arrival_times_ns(const Arrivals& arrivals, int64_t num_requests,
                                      uint64_t seed);

// As records have it: "burst", "closed 64", "constant 2", "poisson 3.5", "bursts 16 2",
// "trace azure_llm_2023_conv 4.7" (the last word: the mean rate).
std::string arrival_text(const Arrivals& arrivals);

struct TraceRow {
  int64_t at_ns = 0;  // after the first row
  int64_t input_len = 0, output_len = 0;
};

// CSV as Azure publishes its traces (AzurePublicDataset, Azure LLM inference traces of 2023):
// TIMESTAMP,ContextTokens,GeneratedTokens with a time such as 2023-11-16 18:17:03.9799600. At most
// `max_rows`; errors name file and line.
Result<std::vector<TraceRow>> read_trace(const std::string& path, int64_t max_rows);

}  // namespace slipstream
