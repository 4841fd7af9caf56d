#include "bench/soak_workload.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "sampling/sampling_params.h"

namespace slipstream {
namespace {

constexpr int64_t kNumRequests = 3000;

SoakShape shape_of(uint64_t seed) {
  SoakShape shape;
  shape.seed = seed;
  shape.vocab_size = 512;
  shape.max_model_len = 512;
  return shape;
}

std::string words(const SoakRequest& r) {
  std::string text;
  for (const int32_t id : r.request.prompt_token_ids) text += std::to_string(id) + " ";
  const SamplingParams& s = r.request.sampling;
  for (const double value :
       {r.gap, r.cancel_after_gaps.value_or(-1.0), r.deadline_gaps.value_or(-1.0),
        static_cast<double>(r.most_unfinished),
        static_cast<double>(r.cancel_after_tokens.value_or(-1)), double{s.temperature},
        double{s.top_p}, double{s.min_p}, double{s.repetition_penalty},
        static_cast<double>(s.top_k), static_cast<double>(*s.seed),
        static_cast<double>(s.max_tokens.value_or(-1)), static_cast<double>(r.request.priority)}) {
    text += std::to_string(value) + " ";
  }
  for (const auto& [id, bias] : s.logit_bias)
    text += std::to_string(id) + ":" + std::to_string(bias);
  for (const std::string& stop : s.stop) text += stop;
  return text + r.request.cache_salt;
}

TEST(SoakWorkloadTest, SeedAndNumberNameARequest) {
  const SoakShape shape = shape_of(7);
  std::vector<std::string> forward;
  for (int64_t idx = 0; idx < 100; ++idx) forward.push_back(words(soak_request(shape, idx)));
  for (int64_t idx = 99; idx >= 0; --idx) {
    EXPECT_EQ(words(soak_request(shape, idx)), forward[static_cast<size_t>(idx)]);
  }
  EXPECT_EQ(std::set<std::string>(forward.begin(), forward.end()).size(), forward.size());
  EXPECT_NE(words(soak_request(shape_of(8), 0)), forward[0]);
}

// A refusal by the engine would be a fault of the soak's own.
TEST(SoakWorkloadTest, EveryRequestIsOneThatAnEngineTakes) {
  for (const auto& [vocab_size, max_model_len] :
       {std::pair<int64_t, int64_t>{2, 2}, {96, 16}, {96, 128}, {151936, 4096}}) {
    SoakShape shape = shape_of(3);
    shape.vocab_size = vocab_size;
    shape.max_model_len = max_model_len;
    for (int64_t idx = 0; idx < 500; ++idx) {
      const Request request = soak_request(shape, idx).request;
      const auto len = std::ssize(request.prompt_token_ids);
      const SamplingParams& sampling = request.sampling;
      const Status status = validate_sampling_params(
          sampling, {.vocab_size = vocab_size, .max_logprobs = 20, .has_tokenizer = true});
      ASSERT_TRUE(status.ok()) << status.message();
      ASSERT_GE(len, 1);
      ASSERT_LE(len + sampling.max_tokens.value_or(1), max_model_len);
      ASSERT_LE(sampling.min_tokens, sampling.max_tokens.value_or(max_model_len - len));
      ASSERT_TRUE(sampling.seed.has_value());
      for (const int32_t id : request.prompt_token_ids) {
        ASSERT_GE(id, 0);
        ASSERT_LT(id, vocab_size);
      }
    }
  }
}

TEST(SoakWorkloadTest, WithoutATokenizerNobodyAsksForStopStrings) {
  SoakShape shape = shape_of(1);
  shape.has_tokenizer = false;
  for (int64_t idx = 0; idx < 500; ++idx) {
    EXPECT_TRUE(soak_request(shape, idx).request.sampling.stop.empty());
  }
}

TEST(SoakWorkloadTest, LengthsReachFromOneToMostOfTheContext) {
  std::vector<size_t> lengths;
  for (int64_t idx = 0; idx < kNumRequests; ++idx) {
    lengths.push_back(soak_request(shape_of(1), idx).request.prompt_token_ids.size());
  }
  std::sort(lengths.begin(), lengths.end());
  EXPECT_EQ(lengths.front(), 1u);
  EXPECT_GT(lengths.back(), 430u);
  EXPECT_LE(lengths.back(), 460u);
  EXPECT_LT(lengths[kNumRequests / 2], 80u) << "most are short";
}

TEST(SoakWorkloadTest, EverySortOfRequestComes) {
  std::map<std::string, int64_t> counts;
  for (int64_t idx = 0; idx < kNumRequests; ++idx) {
    const SoakRequest drawn = soak_request(shape_of(1), idx);
    const SamplingParams& s = drawn.request.sampling;
    counts["greedy"] += s.temperature == 0.0f;
    counts["top_k"] += s.top_k > 0;
    counts["top_p"] += s.top_p < 1.0f;
    counts["min_p"] += s.min_p > 0.0f;
    counts["penalties"] += s.repetition_penalty != 1.0f;
    counts["logit_bias"] += !s.logit_bias.empty();
    counts["bad_token_ids"] += !s.bad_token_ids.empty();
    counts["allowed_token_ids"] += !s.allowed_token_ids.empty();
    counts["stop"] += !s.stop.empty();
    counts["stop_token_ids"] += !s.stop_token_ids.empty();
    counts["min_tokens"] += s.min_tokens > 0;
    counts["to the context's end"] += !s.max_tokens.has_value();
    counts["logprobs"] += s.logprobs.has_value();
    counts["prompt_logprobs"] += s.prompt_logprobs.has_value();
    counts["salt"] += !drawn.request.cache_salt.empty();
    counts["urgent"] += drawn.request.priority < 0;
    counts["patient"] += drawn.request.priority > 0;
    counts["cancelled by tokens"] += drawn.cancel_after_tokens.has_value();
    counts["cancelled by time"] += drawn.cancel_after_gaps.has_value();
    counts["deadline"] += drawn.deadline_gaps.has_value();
    counts["burst"] += drawn.gap == 0.0;
    counts["steady"] += drawn.gap > 0.0 && drawn.most_unfinished > 1;
    counts["lull"] += drawn.most_unfinished == 1;
    counts["shares nothing"] += drawn.num_shared_tokens == 0;
    counts["shares"] += drawn.num_shared_tokens >= 16;
  }
  for (const auto& [what, count] : counts) EXPECT_GT(count, 20) << what;
}

TEST(SoakWorkloadTest, SharedBeginningsAreTheSameTokens) {
  std::map<int32_t, std::vector<std::vector<int32_t>>> by_first;
  for (int64_t idx = 0; idx < 300; ++idx) {
    const SoakRequest drawn = soak_request(shape_of(1), idx);
    if (drawn.num_shared_tokens < 2) continue;
    std::vector<int32_t> shared = drawn.request.prompt_token_ids;
    shared.resize(static_cast<size_t>(drawn.num_shared_tokens));
    by_first[shared.front()].push_back(std::move(shared));
  }
  EXPECT_LE(by_first.size(), 4u);
  for (const auto& [first, prefixes] : by_first) {
    EXPECT_GT(prefixes.size(), 1u);
    for (const std::vector<int32_t>& prefix : prefixes) {
      const size_t len = std::min(prefix.size(), prefixes[0].size());
      EXPECT_TRUE(std::equal(prefix.begin(), prefix.begin() + static_cast<int64_t>(len),
                             prefixes[0].begin()));
    }
  }
}

}  // namespace
}  // namespace slipstream
