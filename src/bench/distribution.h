// Order statistics of a set of measurements.
#pragma once

#include <vector>

#include "base/json.h"

namespace slipstream {

// Linear interpolation between the closest ranks; `share` from 0 to 1. 0 for an empty set.
double percentile(std::vector<double> values, double share);
inline double median(std::vector<double> values) { return percentile(std::move(values), 0.5); }

// {"p50", "p90", "p99", "max"}
Json distribution_json(const std::vector<double>& values);

}  // namespace slipstream
