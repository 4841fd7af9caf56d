#include "sampling/sampling_params.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

namespace slipstream {
namespace {

constexpr SamplingLimits kLimits{.vocab_size = 100, .max_logprobs = 20, .has_tokenizer = true};

using Change = std::function<void(SamplingParams&)>;

void expect_refused(const char* name, const Change& change) {
  SamplingParams params;
  change(params);
  const Status status = validate_sampling_params(params, kLimits);
  ASSERT_FALSE(status.ok()) << name;
  EXPECT_EQ(status.code(), StatusCode::kBadUsage);
  EXPECT_NE(status.message().find(name), std::string::npos) << status.message();
  EXPECT_EQ(status.message().find('\n'), std::string::npos);
}

void expect_accepted(const Change& change) {
  SamplingParams params;
  change(params);
  const Status status = validate_sampling_params(params, kLimits);
  EXPECT_TRUE(status.ok()) << status.message();
}

const float kBadFloats[] = {std::numeric_limits<float>::quiet_NaN(),
                            std::numeric_limits<float>::infinity(),
                            -std::numeric_limits<float>::infinity(), 1e30f, -1e30f};

TEST(SamplingParamsTest, NumbersOutsideTheirRangeAreRefusedByName) {
  for (const float bad : kBadFloats) {
    expect_refused("temperature", [&](auto& p) { p.temperature = bad; });
    expect_refused("top_p", [&](auto& p) { p.top_p = bad; });
    expect_refused("min_p", [&](auto& p) { p.min_p = bad; });
    expect_refused("repetition_penalty", [&](auto& p) { p.repetition_penalty = bad; });
    expect_refused("presence_penalty", [&](auto& p) { p.presence_penalty = bad; });
    expect_refused("frequency_penalty", [&](auto& p) { p.frequency_penalty = bad; });
    expect_refused("logit_bias", [&](auto& p) { p.logit_bias = {{3, bad}}; });
  }
  expect_refused("temperature", [](auto& p) { p.temperature = -0.1f; });
  expect_refused("top_p", [](auto& p) { p.top_p = 0.0f; });
  expect_refused("top_k", [](auto& p) { p.top_k = -2; });
  expect_refused("repetition_penalty", [](auto& p) { p.repetition_penalty = 0.0f; });
}

TEST(SamplingParamsTest, EdgesOfTheRangesAreAccepted) {
  expect_accepted([](auto& p) { p.temperature = 0.0f; });
  expect_accepted([](auto& p) { p.temperature = -0.0f; });
  expect_accepted([](auto& p) { p.temperature = 1e-45f; });
  expect_accepted([](auto& p) { p.top_k = std::numeric_limits<int32_t>::max(); });
  expect_accepted([](auto& p) { p.top_k = -1; });
  expect_accepted([](auto& p) { p.min_p = 1.0f; });
  expect_accepted([](auto& p) { p.logit_bias = {{0, -100.0f}, {99, 100.0f}}; });
  expect_accepted([](auto& p) { p.logprobs = 20; });
  expect_accepted([](auto& p) { p.seed = std::numeric_limits<uint64_t>::max(); });
}

TEST(SamplingParamsTest, IdsAreCheckedAgainstTheWidthOfTheLogits) {
  for (const int32_t bad : {-1, 100, std::numeric_limits<int32_t>::max()}) {
    expect_refused("logit_bias", [&](auto& p) { p.logit_bias = {{bad, 1.0f}}; });
    expect_refused("stop_token_ids", [&](auto& p) { p.stop_token_ids = {bad}; });
  }
  expect_refused("logit_bias", [](auto& p) { p.logit_bias = {{5, 1.0f}, {5, 2.0f}}; });
  expect_refused("logit_bias", [](auto& p) { p.logit_bias.assign(1'000'000, {1, 0.0f}); });
}

TEST(SamplingParamsTest, MasksNameTokensAndHaveLimits) {
  for (const int32_t bad : {-1, 100, std::numeric_limits<int32_t>::max()}) {
    expect_refused("allowed_token_ids", [&](auto& p) { p.allowed_token_ids = {3, bad}; });
    expect_refused("bad_token_ids", [&](auto& p) { p.bad_token_ids = {{1}, {2, bad}}; });
  }
  expect_refused("allowed_token_ids", [](auto& p) { p.allowed_token_ids.assign(101, 1); });
  expect_refused("bad_token_ids", [](auto& p) { p.bad_token_ids = {{}}; });
  expect_refused("bad_token_ids", [](auto& p) { p.bad_token_ids.assign(2000, {1}); });
  expect_refused("bad_token_ids",
                 [](auto& p) { p.bad_token_ids = {std::vector<int32_t>(1000, 1)}; });
  expect_accepted([](auto& p) { p.allowed_token_ids.assign(100, 99); });
  expect_accepted([](auto& p) { p.bad_token_ids.assign(1024, std::vector<int32_t>(128, 0)); });
}

TEST(SamplingParamsTest, MasksLeaveAToken) {
  std::vector<std::vector<int32_t>> all_but_one(99);
  for (int32_t id = 0; id < 99; ++id) all_but_one[static_cast<size_t>(id)] = {id};
  expect_accepted([&](auto& p) { p.bad_token_ids = all_but_one; });
  expect_accepted([&](auto& p) {
    p.bad_token_ids = all_but_one;
    p.allowed_token_ids = {4, 99};
  });
  expect_refused("leave none", [&](auto& p) {
    p.bad_token_ids = all_but_one;
    p.allowed_token_ids = {4, 5};
  });
  expect_refused("leave none", [&](auto& p) {
    p.bad_token_ids = all_but_one;
    p.bad_token_ids.push_back({99});
  });
}

TEST(SamplingParamsTest, LengthsAreCheckedAgainstEachOther) {
  expect_refused("max_tokens", [](auto& p) { p.max_tokens = 0; });
  expect_refused("max_tokens", [](auto& p) { p.max_tokens = -1; });
  expect_refused("min_tokens", [](auto& p) { p.min_tokens = -1; });
  expect_refused("min_tokens", [](auto& p) {
    p.max_tokens = 3;
    p.min_tokens = 4;
  });
  expect_accepted([](auto& p) {
    p.max_tokens = 0;
    p.prompt_logprobs = 0;
  });
}

TEST(SamplingParamsTest, StopStringsHaveLimits) {
  expect_refused("stop", [](auto& p) { p.stop = {""}; });
  expect_refused("stop", [](auto& p) { p.stop.assign(10'000, "x"); });
  expect_refused("stop", [](auto& p) { p.stop = {std::string(1 << 20, 'x')}; });
  expect_refused("stop", [](auto& p) { p.stop = {"\xff"}; });
  expect_refused("stop_token_ids", [](auto& p) { p.stop_token_ids.assign(10'000, 1); });
  SamplingParams params;
  params.stop = {"x"};
  SamplingLimits without_tokenizer = kLimits;
  without_tokenizer.has_tokenizer = false;
  EXPECT_FALSE(validate_sampling_params(params, without_tokenizer).ok());
}

TEST(SamplingParamsTest, LogprobsHaveACap) {
  for (const int32_t bad : {-1, 21, 100}) {
    expect_refused("logprobs", [&](auto& p) { p.logprobs = bad; });
    expect_refused("prompt_logprobs", [&](auto& p) { p.prompt_logprobs = bad; });
  }
}

}  // namespace
}  // namespace slipstream
