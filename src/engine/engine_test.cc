// The engine end to end on tiny models: one rule of its interface per test.
#include "slipstream/engine.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <thread>

#include "base/clock.h"
#include "base/json.h"
#include "base/mmap_file.h"
#include "engine/engine_test_util.h"
#include "text/tokenizer.h"

namespace slipstream {
namespace {

TEST(EngineTest, GreedyAnswerIsTheGoldenOne) {
  const auto text = read_text_file(tiny_model() + "/golden.json", 1 << 20);
  ASSERT_TRUE(text.ok());
  const auto golden = parse_json(*text.operator->(), "golden.json");
  ASSERT_TRUE(golden.ok());
  Recorder recorder;
  const auto engine = open_engine(tiny_options(), recorder);
  Request request;
  request.prompt_token_ids = golden->at("prompt").get<std::vector<int32_t>>();
  const auto greedy = golden->at("greedy").get<std::vector<int32_t>>();
  request.sampling.temperature = 0.0f;
  request.sampling.ignore_eos = true;
  request.sampling.max_tokens = std::ssize(greedy);
  const auto id = engine->submit(request);
  ASSERT_TRUE(id.ok()) << id.status().message();
  EXPECT_EQ(token_ids(recorder.wait(id.value())), greedy);
}

Request endless_request() {
  Request request;
  request.prompt_token_ids = {1, 2, 3};
  request.sampling.ignore_eos = true;
  request.sampling.max_tokens = kContext - 3;
  return request;
}

TEST(EngineTest, CancelTakesEffectInTheNextStep) {
  Recorder recorder;
  const auto engine = open_engine(tiny_options(), recorder);
  recorder.hold();
  const RequestId id = engine->submit(endless_request()).value();
  recorder.wait_for_token(id);  // the engine thread is in the sink
  engine->cancel(id);
  recorder.let_go();
  const std::vector<TokenEvent> events = recorder.wait(id);
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[1].finish, FinishReason::kAbort);
  EXPECT_LT(events[1].token_id, 0);
  engine->cancel(id);  // late, and unknown: ignored
  engine->cancel(12345);
  EXPECT_EQ(engine->submit(endless_request()).value(), id + 1);
  EXPECT_EQ(recorder.wait(id + 1).back().finish, FinishReason::kLength);
  EXPECT_EQ(recorder.events(id).size(), 2u);
}

TEST(EngineTest, DestructorAbortsWhatRunsAndWhatWaits) {
  Recorder recorder;
  EngineOptions options = tiny_options();
  options.max_num_seqs = 2;
  auto engine = open_engine(options, recorder);
  recorder.hold();
  std::vector<RequestId> ids;
  ids.push_back(engine->submit(endless_request()).value());
  recorder.wait_for_token(ids[0]);
  for (int i = 0; i < 5; ++i) ids.push_back(engine->submit(endless_request()).value());
  std::thread release([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    recorder.let_go();
  });
  engine.reset();
  release.join();
  for (const RequestId id : ids) {
    const std::vector<TokenEvent> events = recorder.events(id);
    expect_well_formed(events);
  }
  EXPECT_EQ(recorder.events(ids.back()).back().finish, FinishReason::kAbort);
}

TEST(EngineTest, SubmitFromManyThreadsKeepsRequestsApart) {
  Recorder recorder;
  const auto engine = open_engine(tiny_options(), recorder);
  const std::vector<Request> requests = random_requests(8, 17);
  std::vector<std::vector<int32_t>> alone;
  for (const Request& request : requests) {
    alone.push_back(token_ids(recorder.wait(engine->submit(request).value())));
  }
  std::vector<std::thread> threads;
  std::vector<std::vector<int32_t>> got(32);
  for (size_t thread_idx = 0; thread_idx < 4; ++thread_idx) {
    threads.emplace_back([&, thread_idx] {
      for (size_t i = thread_idx; i < got.size(); i += 4) {
        const auto id = engine->submit(requests[i % requests.size()]);
        got[i] = token_ids(recorder.wait(id.value()));
        if (engine->stats().kv_blocks_used > engine->stats().kv_blocks_total) std::abort();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (size_t i = 0; i < got.size(); ++i) EXPECT_EQ(got[i], alone[i % requests.size()]);
}

TEST(EngineTest, RefusedRequestsProduceNoEventAndHurtNobody) {
  Recorder recorder;
  const auto engine = open_engine(tiny_options(), recorder);
  const Request good = random_requests(1, 23)[0];
  const std::vector<TokenEvent> alone = recorder.wait(engine->submit(good).value());
  const RequestId running = engine->submit(good).value();
  const auto refuse = [&](const std::function<void(Request&)>& change, const char* word) {
    Request request = good;
    change(request);
    const auto id = engine->submit(request);
    ASSERT_FALSE(id.ok()) << word;
    EXPECT_EQ(id.status().code(), StatusCode::kBadUsage);
    EXPECT_NE(id.status().message().find(word), std::string::npos) << id.status().message();
  };
  refuse([](Request& r) { r.prompt_token_ids.clear(); }, "prompt");
  refuse([](Request& r) { r.prompt_token_ids.push_back(kVocab); }, "96");
  refuse([](Request& r) { r.prompt_token_ids.push_back(-1); }, "-1");
  refuse([](Request& r) { r.prompt_token_ids.assign(kContext + 1, 1); }, "128");
  refuse([](Request& r) { r.prompt_token_ids.assign(kContext, 1); }, "128");
  refuse([](Request& r) { r.sampling.max_tokens = kContext; }, "max_tokens");
  refuse([](Request& r) { r.sampling.max_tokens = INT64_MAX; }, "max_tokens");
  refuse(
      [](Request& r) {
        r.sampling.max_tokens = 0;
        r.sampling.prompt_logprobs.reset();
      },
      "max_tokens");
  refuse(
      [](Request& r) {
        r.sampling.max_tokens.reset();
        r.sampling.min_tokens = kContext;
      },
      "min_tokens");
  refuse([](Request& r) { r.sampling.logit_bias = {{kVocab, 1.0f}}; }, "logit_bias");
  refuse([](Request& r) { r.sampling.stop = {"x"}; }, "stop");
  refuse([](Request& r) { r.priority = INT32_MIN; }, "priority");
  refuse([](Request& r) { r.cache_salt.assign(5000, 's'); }, "cache_salt");
  expect_same_answer(alone, recorder.wait(running));
}

TEST(EngineTest, FullQueueRefuses) {
  Recorder recorder;
  EngineOptions options = tiny_options();
  options.max_num_seqs = 1;
  options.max_queued_requests = 2;
  const auto engine = open_engine(options, recorder);
  recorder.hold();
  const RequestId first = engine->submit(endless_request()).value();
  recorder.wait_for_token(first);
  EXPECT_TRUE(engine->submit(endless_request()).ok());
  EXPECT_TRUE(engine->submit(endless_request()).ok());
  const auto refused = engine->submit(endless_request());
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.status().message().find("queue is full"), std::string::npos);
  recorder.let_go();
  recorder.wait(first);
  EXPECT_TRUE(engine->submit(endless_request()).ok()) << "there is room again";
}

TEST(EngineTest, StopIdsMinTokensAndLength) {
  Recorder recorder;
  const auto engine = open_engine(tiny_options(), recorder);
  Request request = endless_request();
  request.sampling.seed = 11;
  request.sampling.max_tokens = 40;
  const std::vector<int32_t> all = token_ids(recorder.wait(engine->submit(request).value()));
  ASSERT_EQ(all.size(), 40u);

  request.sampling.stop_token_ids = {all[20]};
  const auto first_at = std::find(all.begin(), all.end(), all[20]) - all.begin();
  std::vector<TokenEvent> events = recorder.wait(engine->submit(request).value());
  EXPECT_EQ(std::ssize(token_ids(events)), first_at + 1);
  EXPECT_EQ(events.back().finish, FinishReason::kStop);

  ASSERT_GT(first_at, 0);
  request.sampling.min_tokens = 1;
  EXPECT_EQ(std::ssize(token_ids(recorder.wait(engine->submit(request).value()))), first_at + 1)
      << "what was generated counts";

  request.sampling.min_tokens = first_at + 2;
  events = recorder.wait(engine->submit(request).value());
  const std::vector<int32_t> ids = token_ids(events);
  EXPECT_GE(std::ssize(ids), first_at + 2);
  EXPECT_TRUE(std::equal(ids.begin(), ids.begin() + first_at, all.begin()));
}

TEST(EngineTest, SeedIsReportedAndRepeatsTheAnswer) {
  Recorder recorder;
  const auto engine = open_engine(tiny_options(), recorder);
  Request request = endless_request();
  const std::vector<TokenEvent> drawn = recorder.wait(engine->submit(request).value());
  const std::vector<TokenEvent> other = recorder.wait(engine->submit(request).value());
  EXPECT_NE(drawn[0].seed, other[0].seed);
  EXPECT_NE(token_ids(drawn), token_ids(other));
  request.sampling.seed = drawn[0].seed;
  EXPECT_EQ(token_ids(recorder.wait(engine->submit(request).value())), token_ids(drawn));
}

TEST(EngineTest, PromptLogprobsAloneNeedNoToken) {
  Recorder recorder;
  EngineOptions options = tiny_options();
  options.max_num_batched_tokens = 7;
  const auto chunked = open_engine(options, recorder);
  Request request;
  for (int32_t i = 0; i < 100; ++i) request.prompt_token_ids.push_back(i * 7 % kVocab);
  request.sampling.max_tokens = 0;
  request.sampling.prompt_logprobs = 3;
  const std::vector<TokenEvent> events = recorder.wait(chunked->submit(request).value());
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].finish, FinishReason::kLength);
  EXPECT_LT(events[0].token_id, 0);
  ASSERT_EQ(events[0].prompt_logprobs.size(), 99u);
  for (size_t i = 0; i < 99; ++i) {
    const TokenLogprobs& logprobs = events[0].prompt_logprobs[i];
    EXPECT_EQ(logprobs.id, request.prompt_token_ids[i + 1]);
    EXPECT_LT(logprobs.logprob, 0.0f);
    ASSERT_EQ(logprobs.top.size(), 3u);
    EXPECT_GE(logprobs.top[0].second, logprobs.top[1].second);
  }
  Recorder other_recorder;
  const auto whole = open_engine(tiny_options(), other_recorder);
  const std::vector<TokenEvent> same = other_recorder.wait(whole->submit(request).value());
  for (size_t i = 0; i < 99; ++i) {
    expect_same_logprobs(events[0].prompt_logprobs[i], same[0].prompt_logprobs[i]);
  }
}

TEST(EngineTest, PromptLogprobsAgreeWithGenerationLogprobs) {
  Recorder recorder;
  const auto engine = open_engine(tiny_options(), recorder);
  Request request = endless_request();
  request.sampling.max_tokens = 20;
  request.sampling.logprobs = 0;
  const std::vector<TokenEvent> generated = recorder.wait(engine->submit(request).value());
  Request scored;
  scored.prompt_token_ids = request.prompt_token_ids;
  for (const int32_t id : token_ids(generated)) scored.prompt_token_ids.push_back(id);
  scored.sampling.max_tokens = 0;
  scored.sampling.prompt_logprobs = 0;
  const std::vector<TokenEvent> events = recorder.wait(engine->submit(scored).value());
  for (size_t i = 0; i < generated.size(); ++i) {
    EXPECT_EQ(events[0].prompt_logprobs[i + 2].logprob, generated[i].logprobs.logprob)
        << "decode and prefill give the same bits";
  }
}

TEST(EngineTest, TextIsStreamedAndStopStringsEndIt) {
  const std::string model = shared_file("models/stories260K/stories260K.gguf");
  if (!std::filesystem::exists(model)) GTEST_SKIP() << model << " is not there";
  EngineOptions options;
  options.model = model;
  options.num_threads = 1;
  Recorder recorder;
  const auto engine = open_engine(options, recorder);
  ASSERT_NE(engine, nullptr);
  ASSERT_NE(engine->tokenizer(), nullptr);
  Request request;
  request.prompt_token_ids = {1};
  request.sampling.temperature = 0.0f;
  request.sampling.max_tokens = 120;
  const auto expected = read_text_file(shared_file("models/stories260K/greedy_200.txt"), 1 << 16);
  ASSERT_TRUE(expected.ok());
  const std::string text = text_of(recorder.wait(engine->submit(request).value()));
  ASSERT_GT(text.size(), 100u);
  EXPECT_EQ(expected->substr(0, 100), text.substr(0, 100));

  const std::string stop = text.substr(37, 9);
  request.sampling.stop = {"never in it", stop};
  std::vector<TokenEvent> events = recorder.wait(engine->submit(request).value());
  EXPECT_EQ(events.back().finish, FinishReason::kStop);
  EXPECT_EQ(text_of(events), text.substr(0, text.find(stop)));
  request.sampling.include_stop_in_output = true;
  events = recorder.wait(engine->submit(request).value());
  EXPECT_EQ(text_of(events), text.substr(0, text.find(stop)) + stop);
}

TEST(EngineTest, DeadlineEndsARequestThatRunsAndOneThatWaits) {
  Recorder recorder;
  EngineOptions options = tiny_options();
  options.max_num_seqs = 1;
  const auto engine = open_engine(options, recorder);
  recorder.hold();
  Request request = endless_request();
  request.deadline_ns = steady_now_ns() + 50'000'000;
  const RequestId running = engine->submit(request).value();
  recorder.wait_for_token(running);
  const RequestId waiting = engine->submit(request).value();
  const RequestId patient = engine->submit(endless_request()).value();
  while (steady_now_ns() < request.deadline_ns) std::this_thread::yield();
  recorder.let_go();
  std::vector<TokenEvent> events = recorder.wait(running);
  EXPECT_EQ(events.size(), 2u) << "the engine was held at its first token";
  EXPECT_EQ(events.back().finish, FinishReason::kDeadline);
  events = recorder.wait(waiting);
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].finish, FinishReason::kDeadline);
  EXPECT_TRUE(events[0].first);
  EXPECT_EQ(events[0].scheduled_ns, 0) << "it never ran";
  EXPECT_EQ(recorder.wait(patient).back().finish, FinishReason::kLength);
}

TEST(EngineTest, RequestThatArrivesDuringAStepIsInTheNextOne) {
  Recorder recorder;
  const auto engine = open_engine(tiny_options(), recorder);
  recorder.hold();
  const RequestId first = engine->submit(endless_request()).value();
  recorder.wait_for_token(first);  // the next step is planned without the second
  const RequestId second = engine->submit(endless_request()).value();
  recorder.let_go();
  recorder.wait(first);
  EXPECT_EQ(recorder.wait(second)[0].time_ns, recorder.events(first)[1].time_ns);
}

TEST(EngineTest, FirstEventAndStatisticsSayWhatHappened) {
  Recorder recorder;
  const auto engine = open_engine(tiny_options(), recorder);
  const int64_t before_ns = steady_now_ns();
  Request request = endless_request();
  request.prompt_token_ids.assign(40, 3);
  request.sampling.max_tokens = 9;
  const std::vector<TokenEvent> events = recorder.wait(engine->submit(request).value());
  EXPECT_GE(events[0].scheduled_ns, before_ns);
  EXPECT_LE(events[0].scheduled_ns, events[0].time_ns);
  EXPECT_EQ(events[1].scheduled_ns, 0);
  request.prompt_token_ids.resize(34);
  EXPECT_EQ(recorder.wait(engine->submit(request).value())[0].num_cached_tokens, 32);
  while (engine->stats().kv_blocks_used > 0) std::this_thread::yield();
  const EngineStats stats = engine->stats();
  EXPECT_EQ(stats.prefix_cache_queries, 74);
  EXPECT_EQ(stats.prefix_cache_hits, 32);
  EXPECT_EQ(stats.kv_blocks_cached, 3);
  EXPECT_EQ(stats.step_started_ns, 0);
  EXPECT_EQ(stats.step_tokens_histogram[0], 16) << "steps of one token";
  EXPECT_EQ(stats.step_tokens_histogram[1], 1) << "two of the second prompt were not cached";
  EXPECT_EQ(stats.step_tokens_histogram[6], 1) << "40 tokens";
  EXPECT_EQ(stats.num_steps, 18);
}

TEST(EngineTest, ReadBandwidthIsMeasuredBetweenSteps) {
  Recorder recorder;
  const auto engine = open_engine(tiny_options(), recorder);
  const RequestId id = engine->submit(endless_request()).value();
  EXPECT_GT(engine->measure_read_gb_s(), 0.0);
  EXPECT_EQ(recorder.wait(id).back().finish, FinishReason::kLength);
}

}  // namespace
}  // namespace slipstream
