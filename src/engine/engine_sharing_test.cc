// Shared prefixes and steps planned ahead change when a token is computed, never which one it is:
// every answer equals, bit for bit, the one given alone by an engine that does neither.
#include <gtest/gtest.h>

#include <thread>
#include <tuple>

#include "engine/engine_test_util.h"

namespace slipstream {
namespace {

EngineOptions plain_options() {
  EngineOptions options = tiny_options();
  options.enable_prefix_caching = false;
  options.one_ahead = false;
  return options;
}

// Requests whose prompts begin with one of a few texts, cut anywhere.
std::vector<Request> sharing_requests(size_t count, uint64_t seed) {
  SplitMix64 random(seed);
  std::vector<std::vector<int32_t>> prefixes(3);
  for (std::vector<int32_t>& prefix : prefixes) {
    for (int i = 0; i < 60; ++i) prefix.push_back(static_cast<int32_t>(random.below(kVocab)));
  }
  std::vector<Request> requests = random_requests(count, seed + 1);
  for (Request& request : requests) {
    std::vector<int32_t>& ids = request.prompt_token_ids;
    const std::vector<int32_t>& prefix = prefixes[random.below(prefixes.size())];
    ids.insert(ids.begin(), prefix.begin(),
               prefix.begin() + static_cast<int64_t>(random.below(prefix.size() + 1)));
    ids.resize(std::min<size_t>(ids.size(), 90));
    request.sampling.max_tokens =
        std::min(*request.sampling.max_tokens, kContext - std::ssize(ids));
    if (random.below(4) == 0) request.cache_salt = "other";
  }
  return requests;
}

// caching, one ahead, tokens a step, KV blocks (0: enough)
using Setting = std::tuple<bool, bool, int64_t, int64_t>;

class EngineSharingTest : public testing::TestWithParam<Setting> {
 protected:
  static void SetUpTestSuite() {
    requests_ = new std::vector<Request>(sharing_requests(48, 21));
    alone_ = new std::vector<std::vector<TokenEvent>>();
    Recorder recorder;
    const auto engine = open_engine(plain_options(), recorder);
    for (const Request& request : *requests_) {
      alone_->push_back(recorder.wait(engine->submit(request).value()));
    }
  }
  static void TearDownTestSuite() {
    delete requests_;
    delete alone_;
  }

  static std::vector<Request>* requests_;
  static std::vector<std::vector<TokenEvent>>* alone_;
};
std::vector<Request>* EngineSharingTest::requests_ = nullptr;
std::vector<std::vector<TokenEvent>>* EngineSharingTest::alone_ = nullptr;

TEST_P(EngineSharingTest, S6S22TokensAreThoseOfEachRequestAlone) {
  const auto [caching, one_ahead, num_batched_tokens, num_blocks] = GetParam();
  EngineOptions options = plain_options();
  options.enable_prefix_caching = caching;
  options.one_ahead = one_ahead;
  options.max_num_batched_tokens = num_batched_tokens;
  options.max_num_seqs = 12;
  options.kv_cache_bytes = num_blocks * kBlockBytes;
  Recorder recorder;
  const auto engine = open_engine(options, recorder);
  SplitMix64 random(static_cast<uint64_t>(num_batched_tokens));
  std::vector<RequestId> ids;
  std::vector<bool> cancelled(requests_->size() * 2);
  for (size_t i = 0; i < cancelled.size(); ++i) {
    ids.push_back(engine->submit((*requests_)[i % requests_->size()]).value());
    if (random.below(4) == 0) std::this_thread::yield();
    if (random.below(10) != 0) continue;
    const size_t victim = random.below(ids.size());
    engine->cancel(ids[victim]);
    cancelled[victim] = true;
  }
  for (size_t i = 0; i < ids.size(); ++i) {
    const std::vector<TokenEvent> events = recorder.wait(ids[i]);
    expect_well_formed(events);
    const std::vector<TokenEvent>& alone = (*alone_)[i % requests_->size()];
    if (!cancelled[i]) {
      expect_same_answer(alone, events);
      continue;
    }
    const std::vector<int32_t> got = token_ids(events);
    const std::vector<int32_t> all = token_ids(alone);
    ASSERT_LE(got.size(), all.size());
    EXPECT_TRUE(std::equal(got.begin(), got.end(), all.begin()));
  }
  const EngineStats stats = engine->stats();
  EXPECT_EQ(stats.prefix_cache_hits > 0, caching);
  if (num_blocks > 0) {
    EXPECT_GT(stats.num_preemptions, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Settings, EngineSharingTest,
                         testing::Combine(testing::Bool(), testing::Bool(),
                                          testing::Values(int64_t{5}, int64_t{33}, int64_t{512}),
                                          testing::Values(int64_t{0}, int64_t{12})));

// The second of two requests in an engine that caches.
std::vector<TokenEvent> second_answer(const Request& first, const Request& second) {
  Recorder recorder;
  const auto engine = open_engine(tiny_options(), recorder);
  recorder.wait(engine->submit(first).value());
  return recorder.wait(engine->submit(second).value());
}

std::vector<TokenEvent> cold_answer(const Request& request) {
  Recorder recorder;
  const auto engine = open_engine(plain_options(), recorder);
  return recorder.wait(engine->submit(request).value());
}

Request prompt_of(std::vector<int32_t> ids) {
  Request request;
  request.prompt_token_ids = std::move(ids);
  request.sampling.seed = 4;
  request.sampling.ignore_eos = true;
  request.sampling.max_tokens = 20;
  request.sampling.logprobs = 3;
  return request;
}

std::vector<int32_t> some_ids(size_t count, uint64_t seed) {
  SplitMix64 random(seed);
  std::vector<int32_t> ids;
  for (size_t i = 0; i < count; ++i) ids.push_back(static_cast<int32_t>(random.below(kVocab)));
  return ids;
}

TEST(PrefixSharingTest, HitGivesTheBitsOfAColdStart) {
  const Request request = prompt_of(some_ids(80, 1));
  const std::vector<TokenEvent> hit = second_answer(request, request);
  EXPECT_EQ(hit[0].num_cached_tokens, 64) << "the last token is computed";
  expect_same_answer(cold_answer(request), hit);
}

TEST(PrefixSharingTest, S8WriterThatDivergesInsideABlockDisturbsNobody) {
  Request other = prompt_of(some_ids(80, 1));
  other.prompt_token_ids[37] ^= 1;
  const Request request = prompt_of(some_ids(80, 1));
  const std::vector<TokenEvent> diverged = second_answer(request, other);
  EXPECT_EQ(diverged[0].num_cached_tokens, 32);
  expect_same_answer(cold_answer(other), diverged);
  expect_same_answer(cold_answer(request), second_answer(other, request));
}

TEST(PrefixSharingTest, S18DifferentSaltsNeverHit) {
  Request request = prompt_of(some_ids(80, 1));
  request.cache_salt = "alice";
  Request other = request;
  other.cache_salt = "bob";
  EXPECT_EQ(second_answer(request, other)[0].num_cached_tokens, 0);
  EXPECT_EQ(second_answer(request, request)[0].num_cached_tokens, 64);
}

TEST(PrefixSharingTest, NextTurnFindsTheAnswerBeforeIt) {
  const Request first = prompt_of(some_ids(40, 1));
  const std::vector<int32_t> answer = token_ids(cold_answer(first));
  Request next = first;
  next.prompt_token_ids.insert(next.prompt_token_ids.end(), answer.begin(), answer.end());
  next.prompt_token_ids.push_back(5);
  const std::vector<TokenEvent> events = second_answer(first, next);
  EXPECT_EQ(events[0].num_cached_tokens, 48);
  expect_same_answer(cold_answer(next), events);
}

TEST(PrefixSharingTest, S19FailedRequestLeavesNothingToShare) {
  const Request good = prompt_of(some_ids(80, 1));
  Request bad = good;
  bad.sampling.allowed_token_ids = {7};
  bad.sampling.bad_token_ids = {{7, 7}};  // nothing may follow the first token
  Recorder recorder;
  const auto engine = open_engine(tiny_options(), recorder);
  const RequestId victim = engine->submit(prompt_of(some_ids(80, 2))).value();
  const std::vector<TokenEvent> events = recorder.wait(engine->submit(bad).value());
  EXPECT_EQ(events.back().finish, FinishReason::kError);
  EXPECT_FALSE(events.back().error.empty());
  const std::vector<TokenEvent> after = recorder.wait(engine->submit(good).value());
  EXPECT_EQ(after[0].num_cached_tokens, 0);
  expect_same_answer(cold_answer(good), after);
  expect_same_answer(cold_answer(prompt_of(some_ids(80, 2))), recorder.wait(victim));
}

TEST(PrefixSharingTest, S17AbortOfOneChoiceLeavesItsSiblingsAlone) {
  const Request request = prompt_of(some_ids(80, 1));
  std::vector<std::vector<TokenEvent>> alone;
  Recorder recorder;
  const auto engine = open_engine(tiny_options(), recorder);
  std::vector<RequestId> ids;
  for (uint32_t choice = 0; choice < 6; ++choice) {
    Request each = request;
    each.sampling.choice_idx = choice;
    alone.push_back(cold_answer(each));
    ids.push_back(engine->submit(each).value());
  }
  engine->cancel(ids[0]);
  engine->cancel(ids[3]);
  for (const size_t choice : {1u, 2u, 4u, 5u}) {
    expect_same_answer(alone[choice], recorder.wait(ids[choice]));
  }
  EXPECT_NE(token_ids(alone[1]), token_ids(alone[2]));
}

TEST(PrefixSharingSlow, S13TwoLengthsAtOnceNeverDiverge) {
  const Request requests[] = {prompt_of(some_ids(40, 1)), prompt_of(some_ids(80, 1))};
  const std::vector<TokenEvent> alone[] = {cold_answer(requests[0]), cold_answer(requests[1])};
  Recorder recorder;
  const auto engine = open_engine(tiny_options(), recorder);
  for (int run = 0; run < 1000; ++run) {
    const RequestId ids[] = {engine->submit(requests[0]).value(),
                             engine->submit(requests[1]).value()};
    for (size_t i = 0; i < 2; ++i) expect_same_answer(alone[i], recorder.wait(ids[i]));
  }
}

}  // namespace
}  // namespace slipstream
