#include "sampling/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>

#include "base/random.h"

namespace slipstream {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<float> random_logits(size_t vocab_size, uint64_t seed, float scale = 6.0f) {
  SplitMix64 random(seed);
  std::vector<float> logits(vocab_size);
  for (float& logit : logits) {
    logit = scale * (random.symmetric() + random.symmetric() + random.symmetric());
  }
  return logits;
}

Result<Sample> sample(std::vector<float> logits, const SamplingParams& params, uint64_t seed = 1,
                      int64_t position = 0) {
  Sampler sampler;
  const LogitsPipeline pipeline(params, {});
  return sampler.sample(logits, {params, pipeline, seed, position});
}

int32_t sample_id(const std::vector<float>& logits, const SamplingParams& params, uint64_t seed = 1,
                  int64_t position = 0) {
  const auto result = sample(logits, params, seed, position);
  EXPECT_TRUE(result.ok()) << result.status().message();
  return result.ok() ? result->token_id : -1;
}

// The definition, written without a shortcut.
int32_t sample_plainly(const std::vector<float>& logits, float temperature, uint64_t seed,
                       int64_t position, const std::set<int32_t>& allowed = {}) {
  const float max = *std::max_element(logits.begin(), logits.end());
  int32_t best = -1;
  float best_score = -kInfinity;
  for (size_t id = 0; id < logits.size(); ++id) {
    if (!allowed.empty() && !allowed.contains(static_cast<int32_t>(id))) continue;
    const PhiloxWords words =
        philox4x32_10({static_cast<uint32_t>(position), 0, static_cast<uint32_t>(id / 4), 0}, seed);
    const double u = static_cast<double>(uniform_open(words[id % 4]));
    const float score =
        (logits[id] - max) / temperature + static_cast<float>(-std::log(-std::log(u)));
    if (score > best_score) {
      best = static_cast<int32_t>(id);
      best_score = score;
    }
  }
  return best;
}

TEST(SamplerTest, GreedyTakesTheLowestIdOfEqualLogits) {
  SamplingParams greedy;
  greedy.temperature = 0.0f;
  std::vector<float> logits(1003, -1.0f);
  logits[1002] = logits[517] = logits[998] = 2.0f;
  EXPECT_EQ(sample_id(logits, greedy), 517);
}

TEST(SamplerTest, ShortcutsGiveTheTokenOfTheDefinition) {
  for (const float temperature : {0.05f, 0.7f, 1.0f, 3.0f, 50.0f}) {
    for (const float scale : {0.1f, 3.0f, 8.0f}) {
      const std::vector<float> logits = random_logits(3001, 5, scale);
      for (int64_t position = 0; position < 60; ++position) {
        SamplingParams params;
        params.temperature = temperature;
        ASSERT_EQ(sample_id(logits, params, 77, position),
                  sample_plainly(logits, temperature, 77, position));
      }
    }
  }
}

TEST(SamplerTest, FrequenciesFollowTheSoftmax) {
  const std::vector<float> logits = {1.0f, 0.0f, -1.0f, 2.0f, 0.5f, -3.0f, 1.5f, 0.0f};
  SamplingParams params;
  params.temperature = 0.8f;
  double total = 0.0;
  for (const float logit : logits) total += std::exp(static_cast<double>(logit) / 0.8);
  constexpr int kDraws = 20000;
  std::vector<int> counts(logits.size(), 0);
  for (int position = 0; position < kDraws; ++position) {
    ++counts[static_cast<size_t>(sample_id(logits, params, 12345, position))];
  }
  double chi_square = 0.0;
  for (size_t id = 0; id < logits.size(); ++id) {
    const double expected = kDraws * std::exp(static_cast<double>(logits[id]) / 0.8) / total;
    chi_square += (counts[id] - expected) * (counts[id] - expected) / expected;
  }
  EXPECT_LT(chi_square, 24.3) << "7 degrees of freedom, one chance in a thousand";
}

TEST(SamplerTest, TopKKeepsExactlyTheBest) {
  std::vector<float> logits = random_logits(2000, 3, 0.5f);
  logits[700] = logits[701] = logits[702] = 9.0f;  // of three equals the lower two ids stay
  SamplingParams params;
  params.top_k = 2;
  std::set<int32_t> seen;
  for (int64_t position = 0; position < 200; ++position) {
    seen.insert(sample_id(logits, params, 4, position));
  }
  EXPECT_EQ(seen, (std::set<int32_t>{700, 701}));
  params.top_k = 5000;
  EXPECT_EQ(sample_id(logits, params, 4, 9), sample_plainly(logits, 1.0f, 4, 9))
      << "more than the vocabulary is all of it";
}

TEST(SamplerTest, TopPKeepsTheShortestListThatReachesIt) {
  // Probabilities 0.5, 0.3, 0.15, 0.05.
  const std::vector<float> logits = {std::log(0.15f), std::log(0.5f), std::log(0.05f),
                                     std::log(0.3f)};
  const auto seen = [&](float top_p, float min_p = 0.0f) {
    SamplingParams params;
    params.top_p = top_p;
    params.min_p = min_p;
    std::set<int32_t> ids;
    for (int64_t position = 0; position < 500; ++position) {
      ids.insert(sample_id(logits, params, 8, position));
    }
    return ids;
  };
  EXPECT_EQ(seen(1e-6f), (std::set<int32_t>{1}));
  EXPECT_EQ(seen(0.49f), (std::set<int32_t>{1}));
  EXPECT_EQ(seen(0.51f), (std::set<int32_t>{1, 3}));
  EXPECT_EQ(seen(0.81f), (std::set<int32_t>{0, 1, 3}));
  EXPECT_EQ(seen(0.96f), (std::set<int32_t>{0, 1, 2, 3}));
  EXPECT_EQ(seen(1.0f, 0.4f), (std::set<int32_t>{1, 3})) << "min_p is relative to the best";
  EXPECT_EQ(seen(0.51f, 0.7f), (std::set<int32_t>{1}));
  EXPECT_EQ(seen(1.0f, 1.0f), (std::set<int32_t>{1}));
}

TEST(SamplerTest, TopPOfAFlatRowMatchesASortedRow) {
  const std::vector<float> logits = random_logits(20000, 11, 0.3f);
  std::vector<int32_t> order(logits.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
  std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
  });
  double total = 0.0;
  for (const float logit : logits) total += std::exp(static_cast<double>(logit));
  std::set<int32_t> kept;
  double sum = 0.0;
  for (const int32_t id : order) {
    kept.insert(id);
    sum += std::exp(static_cast<double>(logits[static_cast<size_t>(id)]));
    if (sum >= 0.5 * total) break;
  }
  SamplingParams params;
  params.top_p = 0.5f;
  for (int64_t position = 0; position < 40; ++position) {
    ASSERT_EQ(sample_id(logits, params, 2, position),
              sample_plainly(logits, 1.0f, 2, position, kept));
  }
}

TEST(SamplerTest, LongListsKeepWhatASortedRowKeeps) {
  std::vector<float> logits = random_logits(6000, 13, 0.4f);
  for (float& logit : logits) logit = std::round(logit * 256.0f) / 256.0f;  // equals at the cut
  std::vector<int32_t> order(logits.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
  });
  const float max = logits[static_cast<size_t>(order[0])];
  for (const float temperature : {0.9f, 3.0f, 40.0f}) {
    for (const int32_t top_k : {0, 700, 5999}) {
      for (const float top_p : {1.0f, 0.9f, 0.3f}) {
        for (const float min_p : {0.0f, 0.2f}) {
          SamplingParams params;
          params.temperature = temperature;
          params.top_k = top_k;
          params.top_p = top_p;
          params.min_p = min_p;
          const auto mass = [&](int32_t id) {
            return std::exp(static_cast<double>((logits[static_cast<size_t>(id)] - max)) /
                            static_cast<double>(temperature));
          };
          const size_t count = top_k > 0 ? static_cast<size_t>(top_k) : order.size();
          double total = 0.0, sum = 0.0;
          for (size_t i = 0; i < count; ++i) total += mass(order[i]);
          std::set<int32_t> kept;
          for (size_t i = 0; i < count && sum < static_cast<double>(top_p) * total; ++i) {
            sum += mass(order[i]);
            if (mass(order[i]) >= static_cast<double>(min_p)) kept.insert(order[i]);
          }
          for (int64_t position = 0; position < 12; ++position) {
            ASSERT_EQ(sample_id(logits, params, 6, position),
                      sample_plainly(logits, temperature, 6, position, kept))
                << temperature << " " << top_k << " " << top_p << " " << min_p;
          }
        }
      }
    }
  }
}

TEST(SamplerTest, ChoicesOfOneSeedDiffer) {
  const std::vector<float> logits = random_logits(5000, 23, 0.5f);
  const SamplingParams params;
  const LogitsPipeline pipeline(params, {});
  Sampler sampler;
  const auto answer = [&](uint32_t choice_idx) {
    std::vector<int32_t> ids;
    for (int64_t position = 0; position < 8; ++position) {
      std::vector<float> row = logits;
      ids.push_back(sampler.sample(row, {params, pipeline, 99, position, choice_idx})->token_id);
    }
    return ids;
  };
  std::set<std::vector<int32_t>> answers;
  for (uint32_t choice_idx = 0; choice_idx < 50; ++choice_idx) answers.insert(answer(choice_idx));
  EXPECT_EQ(answers.size(), 50u);
  EXPECT_EQ(answer(3), answer(3));
}

TEST(SamplerTest, SeedAndPositionDecideAndNothingElse) {
  const std::vector<float> logits = random_logits(5000, 21, 1.0f);
  const SamplingParams params;
  const int32_t id = sample_id(logits, params, 99, 7);
  Sampler shared;
  const LogitsPipeline pipeline(params, {});
  std::set<int32_t> others;
  for (int64_t position = 0; position < 20; ++position) {
    std::vector<float> row = logits;
    const auto result = shared.sample(row, {params, pipeline, 99, position});
    if (position == 7) {
      EXPECT_EQ(result->token_id, id) << "whatever was drawn before it";
    }
    others.insert(result->token_id);
  }
  EXPECT_GT(others.size(), 5u);
  EXPECT_NE(sample_id(logits, params, 100, 7), id);
}

TEST(SamplerTest, TinyTemperatureIsGreedy) {
  const std::vector<float> logits = random_logits(1000, 31);
  SamplingParams greedy, tiny;
  greedy.temperature = 0.0f;
  for (const float temperature : {1e-45f, 1e-30f, 1e-6f}) {
    tiny.temperature = temperature;
    EXPECT_EQ(sample_id(logits, tiny), sample_id(logits, greedy));
    tiny.top_p = 0.9f;
    EXPECT_EQ(sample_id(logits, tiny), sample_id(logits, greedy));
  }
}

TEST(SamplerTest, BadLogitsAreAnErrorOfTheirRequest) {
  const SamplingParams params;
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), kInfinity}) {
    for (const size_t id : {size_t{0}, size_t{37}, size_t{99}}) {
      std::vector<float> logits(100, 1.0f);
      logits[id] = bad;
      const auto result = sample(logits, params);
      ASSERT_FALSE(result.ok());
      EXPECT_NE(result.status().message().find(std::to_string(id)), std::string::npos);
    }
  }
  const auto masked = sample(std::vector<float>(100, -kInfinity), params);
  ASSERT_FALSE(masked.ok());
  EXPECT_NE(masked.status().message().find("no token"), std::string::npos);
}

TEST(SamplerTest, MaskedTokensAreNeverDrawn) {
  std::vector<float> logits(64, -kInfinity);
  logits[13] = -50.0f;
  SamplingParams params;
  for (const int32_t top_k : {0, 1, 20}) {
    params.top_k = top_k;
    for (int64_t position = 0; position < 50; ++position) {
      ASSERT_EQ(sample_id(logits, params, 3, position), 13);
    }
  }
}

TEST(LogitsPipelineTest, PenaltiesMatchHandComputedValues) {
  SamplingParams params;
  params.repetition_penalty = 2.0f;
  params.frequency_penalty = 0.5f;
  params.presence_penalty = 0.25f;
  params.logit_bias = {{3, 1.0f}, {0, -2.0f}};
  const std::vector<int32_t> prompt = {0, 1, 1};
  LogitsPipeline pipeline(params, prompt);
  pipeline.append(1);
  pipeline.append(2);
  pipeline.append(2);
  std::vector<float> logits = {4.0f, -1.0f, 3.0f, 0.5f, 7.0f};
  pipeline.apply(logits);
  EXPECT_FLOAT_EQ(logits[0], 4.0f / 2 - 2.0f) << "prompt tokens are repeated, not present";
  EXPECT_FLOAT_EQ(logits[1], -1.0f * 2 - 0.5f - 0.25f);
  EXPECT_FLOAT_EQ(logits[2], 3.0f / 2 - 2 * 0.5f - 0.25f);
  EXPECT_FLOAT_EQ(logits[3], 1.5f);
  EXPECT_FLOAT_EQ(logits[4], 7.0f);
}

std::set<int32_t> unmasked(const LogitsPipeline& pipeline, size_t vocab_size) {
  std::vector<float> logits(vocab_size, 1.0f);
  EXPECT_TRUE(pipeline.active());
  pipeline.apply(logits);
  std::set<int32_t> ids;
  for (size_t id = 0; id < vocab_size; ++id) {
    if (logits[id] != -kInfinity) ids.insert(static_cast<int32_t>(id));
  }
  return ids;
}

TEST(LogitsPipelineTest, OnlyAllowedTokensStay) {
  SamplingParams params;
  params.allowed_token_ids = {7, 0, 3, 7};
  EXPECT_EQ(unmasked(LogitsPipeline(params, {}), 9), (std::set<int32_t>{0, 3, 7}));
  params.allowed_token_ids = {8};
  EXPECT_EQ(unmasked(LogitsPipeline(params, {}), 9), (std::set<int32_t>{8}));
  params.logit_bias = {{2, 100.0f}, {8, -100.0f}};
  EXPECT_EQ(unmasked(LogitsPipeline(params, {}), 9), (std::set<int32_t>{8}))
      << "a bias brings nothing back";
}

TEST(LogitsPipelineTest, BadSequencesNeverComplete) {
  SamplingParams params;
  params.bad_token_ids = {{4}, {1, 2}, {1, 1, 3}};
  const std::vector<int32_t> prompt = {1, 1};
  LogitsPipeline pipeline(params, prompt);
  const auto banned = [&] {
    std::set<int32_t> ids = {0, 1, 2, 3, 4};
    for (const int32_t id : unmasked(pipeline, 5)) ids.erase(id);
    return ids;
  };
  EXPECT_EQ(banned(), (std::set<int32_t>{4})) << "the prompt is not the answer";
  pipeline.append(1);
  EXPECT_EQ(banned(), (std::set<int32_t>{2, 4}));
  pipeline.append(1);
  EXPECT_EQ(banned(), (std::set<int32_t>{2, 3, 4}));
  pipeline.append(1);
  EXPECT_EQ(banned(), (std::set<int32_t>{2, 3, 4})) << "only the last tokens count";
  pipeline.append(0);
  EXPECT_EQ(banned(), (std::set<int32_t>{4}));
}

TEST(LogitsPipelineTest, EndsAreMaskedBeforeMinTokens) {
  SamplingParams params;
  params.min_tokens = 2;
  LogitsPipeline pipeline(params, {});
  EXPECT_FALSE(pipeline.active()) << "nothing would end the answer";
  const std::vector<int32_t> ends = {1, 3};
  pipeline.forbid_early(ends);
  EXPECT_EQ(unmasked(pipeline, 4), (std::set<int32_t>{0, 2}));
  pipeline.append(0);
  EXPECT_EQ(unmasked(pipeline, 4), (std::set<int32_t>{0, 2}));
  pipeline.append(2);
  EXPECT_FALSE(pipeline.active());
}

TEST(LogitsPipelineTest, ARowWithoutTokensIsAnErrorAndNeverNotANumber) {
  SamplingParams params;
  params.allowed_token_ids = {2};
  params.bad_token_ids = {{2}};
  params.repetition_penalty = 1.5f;
  params.logprobs = 1;
  for (const float temperature : {0.0f, 1.0f}) {
    for (const float top_p : {0.5f, 1.0f}) {
      params.temperature = temperature;
      params.top_p = top_p;
      const auto result = sample({1.0f, 2.0f, 3.0f}, params);
      ASSERT_FALSE(result.ok());
      EXPECT_NE(result.status().message().find("no token"), std::string::npos);
    }
  }
}

TEST(LogitsPipelineTest, LogprobsComeFromTheRawLogits) {
  SamplingParams params;
  params.temperature = 0.0f;
  params.logit_bias = {{2, 100.0f}};
  params.logprobs = 2;
  const std::vector<float> logits = {1.0f, 3.0f, 0.0f, 2.0f};
  const auto result = sample(logits, params);
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->token_id, 2);
  double total = 0.0;
  for (const float logit : logits) total += std::exp(static_cast<double>(logit));
  ASSERT_TRUE(result->logprobs.has_value());
  EXPECT_NEAR(result->logprobs->logprob, -std::log(total), 1e-6);
  ASSERT_EQ(result->logprobs->top.size(), 2u);
  EXPECT_EQ(result->logprobs->top[0].first, 1);
  EXPECT_EQ(result->logprobs->top[1].first, 3);
}

TEST(LogitsRowTest, ProbabilitiesSumToOne) {
  for (const size_t vocab_size : {1u, 15u, 16u, 5000u, 49152u}) {
    const std::vector<float> logits = random_logits(vocab_size, 41);
    TopTokens top_tokens;
    const auto all = token_logprobs(logits, 0, static_cast<int32_t>(vocab_size), top_tokens);
    double sum = 0.0;
    for (const auto& [id, logprob] : all.top) sum += std::exp(static_cast<double>(logprob));
    EXPECT_NEAR(sum, 1.0, 2e-6) << vocab_size;
  }
}

TEST(LogitsRowTest, SelectEqualsASort) {
  for (const size_t vocab_size : {7u, 64u, 1000u, 4097u}) {
    std::vector<float> logits = random_logits(vocab_size, 51);
    for (float& logit : logits) logit = std::round(logit);  // many equals
    std::vector<int32_t> order(vocab_size);
    for (size_t i = 0; i < vocab_size; ++i) order[i] = static_cast<int32_t>(i);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
    });
    TopTokens top_tokens;
    for (const size_t count : {size_t{1}, size_t{5}, size_t{40}, vocab_size}) {
      const auto ids = top_tokens.select(logits, static_cast<int64_t>(count));
      ASSERT_EQ(ids.size(), std::min(count, vocab_size));
      EXPECT_TRUE(std::equal(ids.begin(), ids.end(), order.begin()));
    }
  }
}

TEST(LogitsRowTest, PlacesEqualThoseOfASort) {
  for (const size_t vocab_size : {1u, 7u, 1000u, 4097u}) {
    std::vector<float> logits = random_logits(vocab_size, 61, 2.0f);
    for (float& logit : logits) logit = std::round(logit * 8.0f) / 8.0f;
    for (size_t id = 0; id < vocab_size; id += 5) logits[id] = -kInfinity;
    for (size_t id = 0; id < vocab_size; id += 7) logits[id] = id % 2 == 0 ? 0.0f : -0.0f;
    std::vector<int32_t> order(vocab_size);
    for (size_t i = 0; i < vocab_size; ++i) order[i] = static_cast<int32_t>(i);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
    });
    PlaceFinder places;
    for (size_t count = 1; count <= vocab_size; count += 1 + count / 3) {
      const RowPlace place = places.nth(logits, static_cast<int64_t>(count));
      ASSERT_EQ(place.id, order[count - 1]) << count;
      int64_t num_covered = 0;
      for (size_t id = 0; id < vocab_size; ++id) {
        num_covered += place.covers(logits[id], static_cast<int32_t>(id)) ? 1 : 0;
      }
      ASSERT_EQ(num_covered, static_cast<int64_t>(count));
    }
  }
}

TEST(LogitsRowTest, FastExpIsWithinTwoUlps) {
  for (float x = -86.0f; x < 80.0f; x += 0.00371f) {
    const double exact = std::exp(static_cast<double>(x));
    ASSERT_NEAR(static_cast<double>(fast_exp(x)) / exact, 1.0, 2.4e-7) << x;
  }
}

}  // namespace
}  // namespace slipstream
