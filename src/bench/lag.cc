#include "bench/lag.h"

#include <algorithm>
#include <cmath>

namespace slipstream {
namespace {

constexpr size_t kNumBins = 100'001;
constexpr int64_t kNsPerUs = 1000;

}  // namespace

LagCounts::LagCounts() : counts_(kNumBins, 0) {}

void LagCounts::add(int64_t lag_ns) {
  const int64_t lag_us = std::max<int64_t>(0, lag_ns) / kNsPerUs;
  ++counts_[std::min(static_cast<size_t>(lag_us), kNumBins - 1)];
  ++num_samples_;
  max_ns_ = std::max(max_ns_, lag_ns);
}

void LagCounts::merge(const LagCounts& other) {
  for (size_t i = 0; i < kNumBins; ++i) counts_[i] += other.counts_[i];
  num_samples_ += other.num_samples_;
  max_ns_ = std::max(max_ns_, other.max_ns_);
}

double LagCounts::percentile_ms(double share) const {
  const auto rank = static_cast<int64_t>(std::ceil(share * static_cast<double>(num_samples_)));
  int64_t seen = 0;
  for (size_t us = 0; us + 1 < kNumBins; ++us) {
    seen += counts_[us];
    if (seen >= std::max<int64_t>(rank, 1)) return static_cast<double>(us) * 1e-3;
  }
  return max_ms();
}

double LagCounts::max_ms() const { return static_cast<double>(max_ns_) * 1e-6; }

Json lag_json(const LagCounts& lag) {
  if (lag.num_samples() == 0) {
    return Json{{"p50", nullptr}, {"p99", nullptr}, {"max", nullptr}, {"samples", 0}};
  }
  return Json{{"p50", lag.percentile_ms(0.5)},
              {"p99", lag.percentile_ms(0.99)},
              {"max", lag.max_ms()},
              {"samples", lag.num_samples()}};
}

}  // namespace slipstream
