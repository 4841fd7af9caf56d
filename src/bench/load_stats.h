// What the times of a load say: latencies, throughput, goodput, stalls, errors by kind, and whether
// the client was quick enough to be believed.
//
// Definitions, those that `vllm bench serve` publishes:
//   TTFT  the first chunk with tokens, after the send
//   E2E   the last such chunk, after the send
//   TPOT  (E2E - TTFT) / (output tokens - 1), of answers with two tokens or more
//   ITL   between one such chunk and the next of the same answer, whatever tokens they bring
//   goodput  answers within every limit, per second
// A request that failed counts as an error and in nothing else. Pure functions, from any thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/status.h"
#include "bench/load_client.h"

namespace slipstream {

// Limits in milliseconds within which an answer is good; 0: none.
struct GoodputLimits {
  double ttft_ms = 0.0, tpot_ms = 0.0, e2e_ms = 0.0;

  bool any() const { return ttft_ms > 0.0 || tpot_ms > 0.0 || e2e_ms > 0.0; }
};
// "ttft:300", "tpot:50", "e2el:2000", or several with spaces or commas between.
Status add_goodput_limits(const std::string& text, GoodputLimits& limits);
Json goodput_limits_json(const GoodputLimits& limits);  // {"ttft_ms": 300}

struct RequestFigures {
  double ttft_ms = 0.0, e2e_ms = 0.0;
  double tpot_ms = 0.0;  // 0 with fewer than two tokens
  int64_t output_tokens = 0;
};
// Of a stream that is ok. Tokens are those of the usage, or the chunks where none came.
RequestFigures figures_of(const StreamTimes& stream);
bool is_good(const RequestFigures& figures, const GoodputLimits& limits);

struct LoadFacts {
  GoodputLimits goodput = {};
  int64_t output_len = 0;   // asked for; 0: differs from request to request
  double stall_ms = 200.0;  // a longer gap within an answer is a stall
  uint64_t seed = 1;        // of the confidence intervals
};

// The most that the client may lag at p99 for its figures to be valid.
constexpr double kMaxClientLagMs = 1.0;

// Adds every measured field to the record.
void add_load_figures(const LoadResult& load, const LoadFacts& facts, Json& record);

// One record of what the repeats have in common: the median of each figure over them, and the 95 %
// interval of its mean over them. At least one record.
Json summary_of_repeats(const std::vector<Json>& records, uint64_t seed);

}  // namespace slipstream
