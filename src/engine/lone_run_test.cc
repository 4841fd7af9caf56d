// The latency gear, on a resident decoder that computes no model: what a request gets does not
// depend on who else comes when.
#include <gtest/gtest.h>

#include <chrono>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "engine/engine_test_util.h"

namespace slipstream {
namespace {

EngineOptions gear_options() {
  EngineOptions options = tiny_options();
  options.executor = "fake";
  options.fake_runs = true;
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
  EngineOptions options = gear_options();
  options.fake_runs = false;
  const auto engine = open_engine(options, recorder);
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
  EngineOptions options = gear_options();
  options.fake_step_us = 200;
  for (int at = 0; at < 40; ++at) {
    Recorder recorder;
    const auto engine = open_engine(options, recorder);
    const RequestId first_id = engine->submit(first).value();
    recorder.wait_for_token(first_id);
    while (std::ssize(recorder.events(first_id)) < at) {
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
    const RequestId second_id = engine->submit(second).value();
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
  for (size_t at : {6u, 7u, 20u, 70u}) {
    Request request = request_of(3, 100);
    request.sampling.stop_token_ids = {answer[at], 95};
    const std::vector<int32_t> ids = token_ids(recorder.wait(engine->submit(request).value()));
    EXPECT_EQ(request.sampling.stop_token_ids.front(), answer[at]);
    EXPECT_LE(ids.size(), at + 1);
    EXPECT_TRUE(std::equal(ids.begin(), ids.end(), answer.begin()));
  }
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
