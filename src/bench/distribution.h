// Order statistics of a set of measurements, and how sure one may be of them.
#pragma once

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "base/json.h"

namespace slipstream {

// Linear interpolation between the closest ranks; `share` from 0 to 1. 0 for an empty set.
double percentile(std::vector<double> values, double share);
// The same of a set that is in order already.
double sorted_percentile(const std::vector<double>& sorted, double share);
inline double median(std::vector<double> values) { return percentile(std::move(values), 0.5); }
double mean(const std::vector<double>& values);  // 0 for an empty set

// {"p50", "p90", "p99", "max"}
Json distribution_json(const std::vector<double>& values);
// {"mean", "p50", "p90", "p95", "p99", "p999", "max"}; null for an empty set.
Json full_distribution_json(std::vector<double> values);

// The middle 95 % of what `statistic` gives for 1,000 samples drawn with replacement (percentile
// bootstrap; Efron 1979). The same values and seed give the same interval. `statistic` gets each
// sample in order.
struct Interval {
  double low = 0.0, high = 0.0;
};
Interval bootstrap_interval(
    const std::vector<double>& values,
    const std::function<double(const std::vector<double>& sorted)>& statistic, uint64_t seed);
// [low, high]
Json interval_json(const Interval& interval);

}  // namespace slipstream
