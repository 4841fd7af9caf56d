// The shares of a profile: of the limit that binds, which is measured and never assumed.
#include "bench/profile_table.h"

#include <gtest/gtest.h>

#include <iterator>
#include <sstream>
#include <vector>

namespace slipstream {
namespace {

constexpr double kReadGbS = 1000.0;

// 8 MB and 10 GFLOP in 20 us: 400 GB/s and 500 TFLOP/s.
StepProfile::Op product(double gemm_tflops) {
  return {.name = "linear 4096x2048",
          .num_calls = 4,
          .us = 20.0,
          .bytes = 8e6,
          .flops = 1e10,
          .format = "bf16",
          .gemm_tflops = gemm_tflops};
}

TEST(ProfileTable, AShareIsOfTheLimitThatTakesLonger) {
  const LimitShare computes = limit_share(product(800.0), kReadGbS);
  EXPECT_EQ(computes.limit, "bf16");
  EXPECT_NEAR(computes.share, 500.0 / 800.0, 1e-9);
  const LimitShare reads = limit_share(product(5000.0), kReadGbS);  // as those of few tokens
  EXPECT_EQ(reads.limit, "read");
  EXPECT_NEAR(reads.share, 0.4, 1e-9);
}

TEST(ProfileTable, WhatIsNotKnownIsNoLimit) {
  EXPECT_EQ(limit_share(product(0.0), kReadGbS).limit, "read");
  EXPECT_EQ(limit_share(product(800.0), 0.0).limit, "bf16");
  EXPECT_EQ(limit_share(product(0.0), 0.0).share, 0.0);
}

TEST(ProfileTable, ALineAnOp) {
  StepProfile profile{.num_steps = 2, .num_tokens = 16, .span_us = 50.0};
  profile.ops = {product(800.0), {.name = "rms_norm", .num_calls = 2, .us = 10.0, .bytes = 1e6}};
  std::vector<std::string> lines;
  std::istringstream text(profile_table(profile, kReadGbS));
  for (std::string line; std::getline(text, line);) lines.push_back(line);
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_EQ(
      lines[0],
      "2 steps of 8.0 tokens, 25.0 us each, op by op; limits measured here: read 1000.0 GB/s, "
      "bf16 products 800.0 TFLOP/s");
  const auto words = [](const std::string& line) {
    std::istringstream in(line);
    return std::vector<std::string>(std::istream_iterator<std::string>(in), {});
  };
  // Op, calls, us a step, share of the step, us a call, GB/s, TFLOP/s, share of the limit, limit.
  EXPECT_EQ(words(lines[2]), (std::vector<std::string>{"linear", "4096x2048", "2.0", "10.0", "40.0",
                                                       "5.0", "400.0", "500.0", "62.5", "bf16"}));
  EXPECT_EQ(words(lines[3]), (std::vector<std::string>{"rms_norm", "1.0", "5.0", "20.0", "5.0",
                                                       "100.0", "-", "10.0", "read"}));
  profile.ops[1].gemm_tflops = 0.0;
  EXPECT_NE(profile_table(profile, 0.0).find("100.0        -      -"), std::string::npos);
}

}  // namespace
}  // namespace slipstream
