// The latency gear, on a resident decoder that computes no model: what a request gets does not
// depend on who else comes when.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "engine/engine_test_util.h"
#include "engine/fake_executor.h"

namespace slipstream {
namespace {

constexpr FakeRuns kRuns;
constexpr FakeRuns kRunsAhead{.num_ahead = 2};
constexpr FakeRuns kNoStart{.start_fails = true};

EngineOptions gear_options(const FakeRuns& runs = kRuns) {
  EngineOptions options = tiny_options();
  options.executor = "fake";
  options.fake_runs = &runs;
  options.max_num_seqs = 4;
  return options;
}

Request request_of(int32_t first_id, int64_t max_tokens) {
  Request request;
  request.prompt_token_ids = {first_id, 5, 9};
  request.sampling.temperature = 0.0f;
  request.sampling.max_tokens = max_tokens;
  request.sampling.ignore_eos = true;
  return request;
}

// Blocks are counted after the last event.
void expect_free(const Engine& engine) {
  for (int i = 0; i < 1000 && engine.stats().kv_blocks_used != 0; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_EQ(engine.stats().kv_blocks_used, 0);
}

// Answers without the gear.
std::vector<int32_t> plain_answer(const Request& request) {
  Recorder recorder;
  const auto engine = open_engine(gear_options(kNoStart), recorder);
  return token_ids(recorder.wait(engine->submit(request).value()));
}

TEST(LoneRun, AnAnswerIsTheSameWithAndWithoutRuns) {
  Recorder recorder;
  const auto engine = open_engine(gear_options(), recorder);
  for (int32_t first_id = 1; first_id < 12; ++first_id) {
    const Request request = request_of(first_id, 3 + first_id * 9);
    const auto events = recorder.wait(engine->submit(request).value());
    expect_well_formed(events);
    EXPECT_EQ(token_ids(events), plain_answer(request)) << first_id;
  }
  const EngineStats stats = engine->stats();
  EXPECT_GT(stats.num_runs, 11);
  EXPECT_GT(stats.num_run_tokens, 300);
  expect_free(*engine);
}

TEST(LoneRun, ASecondRequestAtAnyTokenChangesNoAnswer) {
  const Request first = request_of(3, 100);
  const Request second = request_of(7, 5);
  const std::vector<int32_t> want_first = plain_answer(first);
  const std::vector<int32_t> want_second = plain_answer(second);
  const EngineOptions options = gear_options(kRunsAhead);
  for (size_t at = 1; at < 100; ++at) {
    Recorder recorder;
    const auto engine = open_engine(options, recorder);
    recorder.hold_at(at);
    const RequestId first_id = engine->submit(first).value();
    recorder.wait_for_tokens(first_id, at);
    const RequestId second_id = engine->submit(second).value();
    recorder.let_go();
    EXPECT_EQ(token_ids(recorder.wait(second_id)), want_second) << at;
    EXPECT_EQ(token_ids(recorder.wait(first_id)), want_first) << at;
    expect_free(*engine);
  }
}

TEST(LoneRun, ACancelEndsItAndFreesItsBlocks) {
  EngineOptions options = gear_options();
  options.fake_step_us = 100;
  Recorder recorder;
  const auto engine = open_engine(options, recorder);
  for (int i = 0; i < 20; ++i) {
    const RequestId id = engine->submit(request_of(i + 1, 120)).value();
    while (std::ssize(recorder.events(id)) < i) {
      std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
    engine->cancel(id);
    EXPECT_EQ(recorder.wait(id).back().finish, FinishReason::kAbort);
  }
  const Request last = request_of(40, 20);
  EXPECT_EQ(token_ids(recorder.wait(engine->submit(last).value())), plain_answer(last));
  expect_free(*engine);
}

TEST(LoneRun, ADeadlineEndsIt) {
  EngineOptions options = gear_options();
  options.fake_step_us = 1000;
  Recorder recorder;
  const auto engine = open_engine(options, recorder);
  Request request = request_of(3, 120);
  request.deadline_ns = steady_now_ns() + 30'000'000;
  const auto events = recorder.wait(engine->submit(request).value());
  EXPECT_EQ(events.back().finish, FinishReason::kDeadline);
  EXPECT_LT(std::ssize(events), 80);
}

TEST(LoneRun, AStopTokenEndsItWhereverItComes) {
  const std::vector<int32_t> answer = plain_answer(request_of(3, 100));
  Recorder recorder;
  const auto engine = open_engine(gear_options(), recorder);
  int32_t unused_id = 0;
  while (std::count(answer.begin(), answer.end(), unused_id) != 0) ++unused_id;
  size_t longest = 0;
  for (const int32_t stop_id : answer) {
    const auto end = std::find(answer.begin(), answer.end(), stop_id) + 1;
    const std::vector<int32_t> expected(answer.begin(), end);
    longest = std::max(longest, expected.size());
    // The decoder looks for one id; of two it is the lower.
    for (const bool by_decoder : {true, false}) {
      Request request = request_of(3, 100);
      request.sampling.stop_token_ids = {stop_id};
      if (!by_decoder) request.sampling.stop_token_ids.push_back(unused_id);
      const auto events = recorder.wait(engine->submit(request).value());
      EXPECT_EQ(token_ids(events), expected);
      EXPECT_EQ(events.back().finish, FinishReason::kStop);
    }
  }
  EXPECT_GT(longest, 50u);
  EXPECT_GT(engine->stats().num_run_tokens, 500);
  expect_free(*engine);
}

TEST(LoneRun, AStopStringEndsIt) {
  EngineOptions options = gear_options();
  options.model = shared_file("models/stories260K/stories260K.gguf");
  options.skip_tokenizer_init = false;
  if (!std::filesystem::exists(options.model)) GTEST_SKIP() << options.model << " is not there";
  Recorder recorder;
  const auto engine = open_engine(options, recorder);
  Request request = request_of(1, 120);
  const std::string text = text_of(recorder.wait(engine->submit(request).value()));
  ASSERT_GT(text.size(), 120u);
  const int64_t num_stopped = engine->stats().num_runs_stopped;
  EXPECT_EQ(num_stopped, 0) << "it ran to its end";
  request.sampling.stop = {text.substr(90, 9)};
  const auto events = recorder.wait(engine->submit(request).value());
  EXPECT_EQ(text_of(events), text.substr(0, text.find(request.sampling.stop.front())));
  EXPECT_EQ(events.back().finish, FinishReason::kStop);
  EXPECT_TRUE(events.back().of_run);
  expect_free(*engine);
  EXPECT_EQ(engine->stats().num_runs_stopped, 1);
}

TEST(LoneRun, ADrawIsTheSameWithAndWithoutRuns) {
  Recorder recorder;
  const auto engine = open_engine(gear_options(kRunsAhead), recorder);
  Request request = request_of(3, 100);
  const std::vector<int32_t> greedy = plain_answer(request);
  for (const uint64_t seed : {1u, 2u, 3u}) {
    request.sampling.temperature = 0.5f * static_cast<float>(seed);
    request.sampling.seed = seed;
    request.sampling.choice_idx = static_cast<uint32_t>(seed);
    const std::vector<int32_t> drawn = plain_answer(request);
    EXPECT_NE(drawn, greedy);
    EXPECT_EQ(token_ids(recorder.wait(engine->submit(request).value())), drawn);
  }
  EXPECT_GT(engine->stats().num_run_tokens, 250);
}

TEST(LoneRun, ItBeginsWhenARequestHasBeenAloneForSomeSteps) {
  Recorder recorder;
  const auto engine = open_engine(gear_options(), recorder);
  EXPECT_EQ(engine->model().latency_executor, "fake run");
  for (int turn = 0; turn < 2; ++turn) {
    const auto events = recorder.wait(engine->submit(request_of(3, 40)).value());
    const auto begin = std::find_if(events.begin(), events.end(),
                                    [](const TokenEvent& event) { return event.of_run; });
    EXPECT_GE(begin - events.begin(), 4);
    EXPECT_LE(begin - events.begin(), 6);
  }
  recorder.hold_at(20);
  const RequestId first_id = engine->submit(request_of(3, 60)).value();
  recorder.wait_for_tokens(first_id, 20);
  const RequestId second_id = engine->submit(request_of(5, 10)).value();
  recorder.let_go();
  for (const TokenEvent& event : recorder.wait(second_id)) EXPECT_FALSE(event.of_run);
  const auto events = recorder.wait(first_id);
  EXPECT_TRUE(events[19].of_run);
  for (size_t i = 22; i < 35; ++i) EXPECT_FALSE(events[i].of_run) << i;
  EXPECT_TRUE(events[45].of_run) << "alone again";
  EXPECT_EQ(engine->stats().num_runs_stopped, 1);
}

TEST(LoneRun, AStartThatFailsLeavesAllToSteps) {
  const Request request = request_of(3, 60);
  EngineOptions plain = gear_options();
  plain.fake_runs = nullptr;
  Recorder plain_recorder;
  const auto plain_engine = open_engine(plain, plain_recorder);
  const auto want = token_ids(plain_recorder.wait(plain_engine->submit(request).value()));
  Recorder recorder;
  const auto engine = open_engine(gear_options(kNoStart), recorder);
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(token_ids(recorder.wait(engine->submit(request).value())), want);
  }
  EXPECT_EQ(engine->stats().num_runs, 0);
  expect_free(*engine);
}

TEST(LoneRun, ARunThatHangsIsGivenUpOnce) {
  constexpr FakeRuns kHangs{.hang_ns = 1'000'000'000, .hangs_at = 20};
  const Request request = request_of(3, 60);
  const std::vector<int32_t> want = plain_answer(request);
  Recorder recorder;
  const auto engine = open_engine(gear_options(kHangs), recorder);
  const int64_t began_ns = steady_now_ns();
  EXPECT_EQ(token_ids(recorder.wait(engine->submit(request).value())), want);
  EXPECT_GT(steady_now_ns() - began_ns, kHangs.hang_ns);
  EXPECT_LT(steady_now_ns() - began_ns, 18 * kHangs.hang_ns / 10) << "the hang counts once";
  EXPECT_EQ(token_ids(recorder.wait(engine->submit(request).value())), want);
  EXPECT_EQ(engine->stats().num_runs, 1) << "the gear is off";
  EXPECT_EQ(engine->stats().num_runs_stopped, 1);
  expect_free(*engine);
}

TEST(LoneRun, CancelsAndDeadlinesDoNotWaitForATokenThatNeverComes) {
  constexpr FakeRuns kHangs{.hang_ns = 3'000'000'000, .hangs_at = 20};
  constexpr int64_t kSoonNs = 1'000'000'000;
  for (const bool by_deadline : {false, true}) {
    Recorder recorder;
    const auto engine = open_engine(gear_options(kHangs), recorder);
    Request request = request_of(3, 60);
    const int64_t began_ns = steady_now_ns();
    if (by_deadline) request.deadline_ns = began_ns + 200'000'000;
    const RequestId id = engine->submit(request).value();
    recorder.wait_for_tokens(id, 17);  // those of the positions 3 to 19
    const RequestId waiting = engine->submit(request).value();
    if (!by_deadline) {
      engine->cancel(id);
      engine->cancel(waiting);
    }
    const FinishReason reason = by_deadline ? FinishReason::kDeadline : FinishReason::kAbort;
    EXPECT_EQ(recorder.wait(id).back().finish, reason);
    EXPECT_EQ(recorder.wait(waiting).back().finish, reason);
    EXPECT_LT(steady_now_ns() - began_ns, kSoonNs);
    const Request next = request_of(7, 60);
    EXPECT_EQ(token_ids(recorder.wait(engine->submit(next).value())), plain_answer(next));
    expect_free(*engine);
  }
}

TEST(LoneRun, BadLogitsEndThatRequestAlone) {
  constexpr FakeRuns kBad{.bad_logits_at = 40};
  Recorder recorder;
  const auto engine = open_engine(gear_options(kBad), recorder);
  const Request request = request_of(3, 60);
  const auto events = recorder.wait(engine->submit(request).value());
  EXPECT_EQ(events.back().finish, FinishReason::kError);
  EXPECT_NE(events.back().error.find("no numbers"), std::string::npos) << events.back().error;
  const std::vector<int32_t> want = plain_answer(request);
  EXPECT_EQ(token_ids(events), std::vector<int32_t>(want.begin(), want.begin() + 37));
  const Request next = request_of(3, 30);
  EXPECT_EQ(token_ids(recorder.wait(engine->submit(next).value())), plain_answer(next));
  EXPECT_EQ(engine->stats().num_runs, 2) << "the gear stays on";
  expect_free(*engine);
}

TEST(LoneRun, AMeasurementWaitsForItsEnd) {
  EngineOptions options = gear_options();
  options.fake_step_us = 1000;
  Recorder recorder;
  const auto engine = open_engine(options, recorder);
  const Request request = request_of(3, 100);
  const RequestId id = engine->submit(request).value();
  recorder.wait_for_tokens(id, 20);
  EXPECT_EQ(engine->latency_phases().size(), 1u);
  EXPECT_LT(recorder.events(id).size(), 80u) << "which it brings about";
  EXPECT_EQ(token_ids(recorder.wait(id)), plain_answer(request));
}

TEST(LoneRun, WaitingForATokenIsNoStep) {
  EngineOptions options = gear_options();
  options.fake_step_us = 5000;
  Recorder recorder;
  const auto engine = open_engine(options, recorder);
  (void)recorder.wait(engine->submit(request_of(3, 40)).value());
  expect_free(*engine);
  const EngineStats stats = engine->stats();
  int64_t num_counted = 0;
  for (const int64_t count : stats.step_host_us_histogram) num_counted += count;
  EXPECT_GT(stats.num_run_tokens, 30);
  EXPECT_LE(num_counted, stats.num_steps + 2);
}

TEST(LoneRun, WhatItCannotDrawIsLeftToSteps) {
  Recorder recorder;
  const auto engine = open_engine(gear_options(), recorder);
  Request request = request_of(3, 60);
  request.sampling.logprobs = 2;
  EXPECT_EQ(std::ssize(recorder.wait(engine->submit(request).value())), 60);
  EXPECT_EQ(engine->stats().num_runs, 0);
}

TEST(LoneRun, AThousandSequencesWithCancelsAndCompany) {
  EngineOptions options = gear_options();
  Recorder recorder;
  const auto engine = open_engine(options, recorder);
  SplitMix64 random(4);
  std::vector<RequestId> ids;
  for (int i = 0; i < 1000; ++i) {
    const Request request = request_of(static_cast<int32_t>(1 + random.below(80)),
                                       static_cast<int64_t>(1 + random.below(110)));
    const auto id = engine->submit(request);
    ASSERT_TRUE(id.ok());
    ids.push_back(id.value());
    if (random.below(4) == 0) continue;  // the next one comes while it runs
    if (random.below(5) == 0) engine->cancel(id.value());
    (void)recorder.wait(id.value());
  }
  for (const RequestId id : ids) expect_well_formed(recorder.wait(id));
  expect_free(*engine);
  EXPECT_GT(engine->stats().num_runs, 100);
}

}  // namespace
}  // namespace slipstream
