#include "bench/distribution.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace slipstream {

double percentile(std::vector<double> values, double share) {
  if (values.empty()) return 0.0;
  std::sort(values.begin(), values.end());
  const double rank = share * static_cast<double>(values.size() - 1);
  const auto below = static_cast<size_t>(std::floor(rank));
  const size_t above = std::min(below + 1, values.size() - 1);
  return values[below] + (values[above] - values[below]) * (rank - std::floor(rank));
}

Json distribution_json(const std::vector<double>& values) {
  return Json{{"p50", percentile(values, 0.5)},
              {"p90", percentile(values, 0.9)},
              {"p99", percentile(values, 0.99)},
              {"max", percentile(values, 1.0)}};
}

}  // namespace slipstream
