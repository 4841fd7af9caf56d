#include "bench/distribution.h"

#include <gtest/gtest.h>

namespace slipstream {
namespace {

TEST(Percentile, InterpolatesBetweenTheClosestRanks) {
  EXPECT_DOUBLE_EQ(percentile({4.0, 1.0, 3.0, 2.0}, 0.5), 2.5);
  EXPECT_DOUBLE_EQ(percentile({30.0, 10.0, 20.0}, 0.5), 20.0);
  EXPECT_DOUBLE_EQ(percentile({0.0, 100.0}, 0.9), 90.0);
  EXPECT_DOUBLE_EQ(percentile({0.0, 100.0}, 1.0), 100.0);
  EXPECT_DOUBLE_EQ(percentile({7.0}, 0.99), 7.0);
  EXPECT_DOUBLE_EQ(percentile({}, 0.5), 0.0);
}

}  // namespace
}  // namespace slipstream
