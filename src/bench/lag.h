// How late something was, many times over: counts per microsecond, so that a sample costs an
// increment and percentiles are exact to one microsecond below 100 ms.
#pragma once

#include <cstdint>
#include <vector>

#include "base/json.h"

namespace slipstream {

class LagCounts {
 public:
  LagCounts();
  void add(int64_t lag_ns);  // below zero counts as zero
  void merge(const LagCounts& other);

  int64_t num_samples() const { return num_samples_; }
  // Milliseconds; `share` from 0 to 1. 0 without samples; the largest where it lies above 100 ms.
  double percentile_ms(double share) const;
  double max_ms() const;

 private:
  std::vector<uint32_t> counts_;  // by microsecond; the last one: longer
  int64_t num_samples_ = 0;
  int64_t max_ns_ = 0;
};

// {"p50", "p99", "max", "samples"}; null figures without samples.
Json lag_json(const LagCounts& lag);

}  // namespace slipstream
