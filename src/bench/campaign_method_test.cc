// The method's numbers: sizes within their bounds, rates strictly between the extremes, prompts
// that no earlier point has sent.
#include "bench/campaign_method.h"

#include <gtest/gtest.h>

#include <set>

namespace slipstream {
namespace {

TEST(CampaignMethod, APointTakesAMinuteOfLoadWithinItsBounds) {
  const CampaignSweep sweep;
  EXPECT_EQ(requests_of_rate(0.0, sweep), 32);
  EXPECT_EQ(requests_of_rate(0.5, sweep), 32);
  EXPECT_EQ(requests_of_rate(2.01, sweep), 121);
  EXPECT_EQ(requests_of_rate(17.0, sweep), 1'000);
  EXPECT_EQ(requests_of_rate(1e30, sweep), 1'000);
}

TEST(CampaignMethod, RatesLieEvenlyBetweenTheExtremes) {
  CampaignSweep sweep;
  sweep.num_rates = 3;
  EXPECT_EQ(rates_between(1.0, 5.0, sweep), (std::vector<double>{2.0, 3.0, 4.0}));
  EXPECT_EQ(rates_between(5.0, 1.0, sweep), (std::vector<double>{2.0, 3.0, 4.0}));
  EXPECT_EQ(rates_between(0.0123, 0.0456, sweep), (std::vector<double>{0.0206, 0.029, 0.0373}));
  EXPECT_EQ(rates_between(1111.0, 5555.0, sweep), (std::vector<double>{2220, 3330, 4440}));
  sweep.num_rates = 0;
  EXPECT_TRUE(rates_between(1.0, 5.0, sweep).empty());
}

TEST(CampaignMethod, RatesThatWouldSayTheSameAreLeftOut) {
  const CampaignSweep sweep;
  EXPECT_EQ(rates_between(1.0, 100.0, sweep).size(), 10u);
  const std::vector<double> few = rates_between(8.0, 10.0, sweep);
  ASSERT_EQ(few.size(), 3u);  // gaps of 0.5, 5 % of 10
  EXPECT_EQ(few.front(), 8.5);
  EXPECT_TRUE(rates_between(9.9, 10.0, sweep).empty());
  EXPECT_TRUE(rates_between(10.0, 10.0, sweep).empty());
  EXPECT_TRUE(rates_between(0.0, 10.0, sweep).empty());
}

TEST(CampaignMethod, SeedsDifferByShapeLoadAndRepeatAndAreTheSameAgain) {
  std::set<uint64_t> seeds;
  for (const CampaignShape& shape : {CampaignShape{128, 8}, CampaignShape{128, 8, 0.5}}) {
    for (const char* load : {"one at a time", "rate 1"}) {
      for (const int64_t repeat : {0, 1}) {
        const uint64_t seed = point_seed(42, "m", shape, load, repeat);
        EXPECT_EQ(seed, point_seed(42, "m", shape, load, repeat));
        seeds.insert(seed);
      }
    }
  }
  seeds.insert(point_seed(43, "m", {128, 8}, "rate 1", 0));
  EXPECT_EQ(seeds.size(), 9u);
}

TEST(CampaignMethod, VersionsAreReadOutOfWhatEnginesPrint) {
  const auto expect_words = [](const char* printed, const char* version, const char* commit) {
    const VersionWords words = parse_version(printed);
    EXPECT_EQ(words.version, version) << printed;
    EXPECT_EQ(words.commit, commit) << printed;
  };
  expect_words("slipstream 0.1.0 (25b416e-dirty)\n", "0.1.0", "25b416e-dirty");
  expect_words("version: 0.5.0-dev (build 1, commit 0c1e570)\nbuilt with GNU 12.2.0 for Linux\n",
               "0.5.0-dev", "0c1e570");
  expect_words("INFO loading\n0.25.1+cu130\n", "0.25.1+cu130", "");
  expect_words("nightly\n", "nightly", "");
  expect_words("", "", "");
}

}  // namespace
}  // namespace slipstream
