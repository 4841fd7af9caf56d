#include "engine/fake_executor.h"

#include <gtest/gtest.h>

#include <cctype>
#include <filesystem>
#include <set>

#include "engine/engine_test_util.h"

namespace slipstream {
namespace {

EngineOptions fake_options() {
  EngineOptions options = tiny_options();
  options.executor = "fake";
  return options;
}

Request fake_request(int32_t last_id, int64_t max_tokens) {
  Request request;
  request.prompt_token_ids = {1, 2, last_id};
  request.sampling.temperature = 0.0f;
  request.sampling.max_tokens = max_tokens;
  return request;
}

TEST(FakeExecutorTest, StepsEndNoCloserThanTheStepTime) {
  StepPacer pacer(100);
  EXPECT_EQ(pacer.next_end(1000), 1000);
  EXPECT_EQ(pacer.next_end(1001), 1100) << "too early";
  EXPECT_EQ(pacer.next_end(1100), 1200);
  EXPECT_EQ(pacer.next_end(1750), 1750) << "late";
  EXPECT_EQ(pacer.next_end(1751), 1850) << "what was late is not caught up with";
}

TEST(FakeExecutorTest, AnswersRunToTheirLengthAndDoNotDependOnTheBatch) {
  std::vector<std::vector<int32_t>> alone;
  for (int pass = 0; pass < 2; ++pass) {
    EngineOptions options = fake_options();
    options.max_num_seqs = pass == 0 ? 1 : 32;
    Recorder recorder;
    const auto engine = open_engine(options, recorder);
    std::vector<RequestId> ids;
    for (int32_t i = 0; i < 32; ++i) ids.push_back(engine->submit(fake_request(i, 40)).value());
    for (size_t i = 0; i < ids.size(); ++i) {
      const std::vector<TokenEvent> events = recorder.wait(ids[i]);
      EXPECT_EQ(events.back().finish, FinishReason::kLength) << "no id ends an answer";
      if (pass == 0) {
        alone.push_back(token_ids(events));
        EXPECT_EQ(alone.back().size(), 40u);
      } else {
        EXPECT_EQ(token_ids(events), alone[i]);
      }
    }
  }
  EXPECT_GT((std::set<std::vector<int32_t>>(alone.begin(), alone.end()).size()), 20u);
}

TEST(FakeExecutorTest, SamplingDrawsTheTokenThatStandsOut) {
  Recorder recorder;
  const auto engine = open_engine(fake_options(), recorder);
  Request request = fake_request(7, 60);
  const std::vector<int32_t> greedy = token_ids(recorder.wait(engine->submit(request).value()));
  for (const float temperature : {0.7f, 1.0f, 2.0f}) {
    request.sampling.temperature = temperature;
    EXPECT_EQ(token_ids(recorder.wait(engine->submit(request).value())), greedy) << temperature;
  }
}

TEST(FakeExecutorTest, ARowThatWasWrittenToLeavesNoTrace) {
  Recorder recorder;
  const auto engine = open_engine(fake_options(), recorder);
  const Request plain = fake_request(7, 30);
  const std::vector<int32_t> expected = token_ids(recorder.wait(engine->submit(plain).value()));
  Request biased = plain;
  biased.sampling.logit_bias = {{50, 100.0f}};
  EXPECT_EQ(token_ids(recorder.wait(engine->submit(biased).value())), std::vector<int32_t>(30, 50));
  EXPECT_EQ(token_ids(recorder.wait(engine->submit(plain).value())), expected);
}

TEST(FakeExecutorTest, ThousandsRunAtOnceWithoutKVMemory) {
  EngineOptions options = fake_options();
  options.max_num_seqs = 2048;
  options.max_num_batched_tokens = 8192;
  Recorder recorder;
  const auto engine = open_engine(options, recorder);
  EXPECT_EQ(engine->stats().kv_blocks_total, 2048 * kContext / 16);
  EXPECT_EQ(engine->model().executor, "fake");
  EXPECT_EQ(engine->model().weights_format, "fake");
  EXPECT_EQ(engine->measure_read_gb_s(), 0.0);
  std::vector<RequestId> ids;
  for (int32_t i = 0; i < 2048; ++i) {
    ids.push_back(engine->submit(fake_request(i % kVocab, 20)).value());
  }
  for (const RequestId id : ids) EXPECT_EQ(token_ids(recorder.wait(id)).size(), 20u);
  EXPECT_EQ(engine->stats().num_preemptions, 0);
}

TEST(FakeExecutorTest, AnswersAreReadableText) {
  EngineOptions options = fake_options();
  options.model = shared_file("models/stories260K/stories260K.gguf");
  options.skip_tokenizer_init = false;
  if (!std::filesystem::exists(options.model)) GTEST_SKIP() << options.model << " is not there";
  Recorder recorder;
  const auto engine = open_engine(options, recorder);
  const std::string text = text_of(recorder.wait(engine->submit(fake_request(300, 120)).value()));
  EXPECT_GT(text.size(), 120u);
  for (const char c : text) {
    EXPECT_TRUE(std::isalpha(static_cast<unsigned char>(c)) || c == ' ' || c == ',' || c == '.')
        << text;
  }
}

}  // namespace
}  // namespace slipstream
