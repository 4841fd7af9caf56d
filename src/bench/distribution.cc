#include "bench/distribution.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <numeric>

#include "base/random.h"

namespace slipstream {
namespace {

constexpr int kNumSamples = 1000;

}  // namespace

double percentile(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  return sorted_percentile(values, share);
}

double sorted_percentile(const std::vector<double>& sorted, double share) {
  if (sorted.empty()) return 0.0;
  const double rank = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(std::floor(rank));
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (sorted[above] - sorted[below]) * (rank - std::floor(rank));
}

double mean(const std::vector<double>& values) {
  if (values.empty()) return 0.0;
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

Json distribution_json(const std::vector<double>& values) {
  return Json{{"p50", percentile(values, 0.5)},
              {"p90", percentile(values, 0.9)},
              {"p99", percentile(values, 0.99)},
              {"max", percentile(values, 1.0)}};
}

Json full_distribution_json(std::vector<double> values) {
  if (values.empty()) return nullptr;
  std::sort(values.begin(), values.end());
  Json json{{"mean", mean(values)}};
  constexpr std::array kShares = {std::pair{"p50", 0.5},    std::pair{"p90", 0.9},
                                  std::pair{"p95", 0.95},   std::pair{"p99", 0.99},
                                  std::pair{"p999", 0.999}, std::pair{"max", 1.0}};
  for (const auto& [name, share] : kShares) json[name] = sorted_percentile(values, share);
  return json;
}

Interval bootstrap_interval(
    const std::vector<double>& values,
    const std::function<double(const std::vector<double>& sorted)>& statistic, uint64_t seed) {
  if (values.empty()) return {};
  std::vector<double> sorted = values;
  std::sort(sorted.begin(), sorted.end());
  SplitMix64 random(seed);
  std::vector<uint32_t> times_drawn(sorted.size());
  std::vector<double> sample(sorted.size());
  std::vector<double> statistics;
  for (int sample_idx = 0; sample_idx < kNumSamples; ++sample_idx) {
    // Counting how often each is drawn gives the sample in order without sorting it.
    std::fill(times_drawn.begin(), times_drawn.end(), 0u);
    for (size_t i = 0; i < sorted.size(); ++i) ++times_drawn[random.below(sorted.size())];
    auto out = sample.begin();
    for (size_t i = 0; i < sorted.size(); ++i) out = std::fill_n(out, times_drawn[i], sorted[i]);
    statistics.push_back(statistic(sample));
  }
  std::sort(statistics.begin(), statistics.end());
  return {sorted_percentile(statistics, 0.025), sorted_percentile(statistics, 0.975)};
}

Json interval_json(const Interval& interval) { return Json::array({interval.low, interval.high}); }

}  // namespace slipstream
