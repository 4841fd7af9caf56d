#include "bench/soak_check.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

namespace slipstream {
namespace {

TokenEvent token(int32_t id) {
  TokenEvent event;
  event.token_id = id;
  event.text = std::to_string(id);
  event.has_logprobs = true;
  event.logprobs = {id, -0.5f, {{id, -0.5f}, {9, -2.0f}}};
  return event;
}

// Three tokens, the last one final.
std::vector<TokenEvent> events() {
  std::vector<TokenEvent> list = {token(4), token(5), token(6)};
  list.front().first = true;
  list.back().finish = FinishReason::kLength;
  return list;
}

SoakAnswer answer_of(const std::vector<TokenEvent>& list) {
  SoakAnswer answer;
  for (const TokenEvent& event : list) append_event(event, answer);
  return answer;
}

SoakRequest asked() {
  SoakRequest request;
  request.request.prompt_token_ids = {1, 2};
  request.request.sampling.max_tokens = 3;
  request.request.sampling.logprobs = 1;
  return request;
}

std::string fault_of(const std::vector<TokenEvent>& list, bool cancelled = false) {
  return stream_fault(asked(), answer_of(list), 128, cancelled);
}

TEST(SoakCheckTest, AStreamInOrderHasNoFault) { EXPECT_EQ(fault_of(events()), ""); }

TEST(SoakCheckTest, EveryStreamHasOneEnd) {
  std::vector<TokenEvent> list = events();
  list.back().finish = FinishReason::kNone;
  EXPECT_EQ(fault_of(list), "no final event");
  list = events();
  list.push_back(list.back());
  EXPECT_EQ(fault_of(list), "2 final events");
  list = events();
  list.push_back(token(7));
  EXPECT_EQ(fault_of(list), "1 events after the final one");
}

TEST(SoakCheckTest, TheFirstEventIsMarkedAndNoOther) {
  std::vector<TokenEvent> list = events();
  list[0].first = false;
  EXPECT_NE(fault_of(list), "");
  list[1].first = true;
  EXPECT_NE(fault_of(list), "");
  list[0].first = true;
  EXPECT_NE(fault_of(list), "");
}

TEST(SoakCheckTest, ADroppedTokenDoesNotFitTheLength) {
  std::vector<TokenEvent> list = events();
  list.erase(list.begin() + 1);
  EXPECT_EQ(fault_of(list), "ended at its length after 2 of 3");
}

TEST(SoakCheckTest, AMissingLogprobIsFound) {
  std::vector<TokenEvent> list = events();
  list[1].has_logprobs = false;
  EXPECT_NE(fault_of(list).find("log-probabilities"), std::string::npos);
}

TEST(SoakCheckTest, NobodyEndsWithoutAReason) {
  std::vector<TokenEvent> list = events();
  list.back().finish = FinishReason::kAbort;
  EXPECT_NE(fault_of(list), "");
  EXPECT_EQ(fault_of(list, true), "");
  list.back().finish = FinishReason::kDeadline;
  EXPECT_NE(fault_of(list), "");
  list.back().finish = FinishReason::kError;
  list.back().error = "no numbers";
  EXPECT_EQ(fault_of(list), "failed: no numbers");
}

TEST(SoakCheckTest, EqualAnswersAreEqual) {
  const SoakComparison result = compare_answers(answer_of(events()), answer_of(events()));
  EXPECT_EQ(result.difference, "");
  EXPECT_EQ(result.num_tokens, 3);
  EXPECT_EQ(result.num_same_tokens, 3);
}

TEST(SoakCheckTest, AChangedTokenIsFoundWhereItIs) {
  std::vector<TokenEvent> list = events();
  list[1].token_id = 50;
  const SoakComparison result = compare_answers(answer_of(list), answer_of(events()));
  EXPECT_EQ(result.difference, "token 1 is 50, alone 5");
  EXPECT_EQ(result.num_same_tokens, 1);
}

TEST(SoakCheckTest, ADroppedTokenIsADifference) {
  std::vector<TokenEvent> list = events();
  list.erase(list.begin() + 1);
  EXPECT_EQ(compare_answers(answer_of(list), answer_of(events())).difference,
            "token 1 is 6, alone 5");
  list = events();
  list.back().token_id = -1;
  list.back().has_logprobs = false;
  EXPECT_EQ(compare_answers(answer_of(list), answer_of(events())).difference, "2 tokens, alone 3");
}

TEST(SoakCheckTest, LogprobsAreComparedBitForBit) {
  std::vector<TokenEvent> list = events();
  list[2].logprobs.top[1].second = std::nextafterf(-2.0f, 0.0f);
  EXPECT_NE(compare_answers(answer_of(list), answer_of(events())).difference, "");
  list = events();
  list[0].logprobs.logprob = std::nextafterf(-0.5f, 0.0f);
  EXPECT_NE(compare_answers(answer_of(list), answer_of(events())).difference, "");
}

TEST(SoakCheckTest, TextAndEndAreComparedToo) {
  std::vector<TokenEvent> list = events();
  list[1].text = "five";
  EXPECT_NE(compare_answers(answer_of(list), answer_of(events())).difference, "");
  list = events();
  list.back().finish = FinishReason::kStop;
  EXPECT_NE(compare_answers(answer_of(list), answer_of(events())).difference, "");
}

TEST(SoakCheckTest, ACancelledAnswerIsTheBeginningOfTheWholeOne) {
  std::vector<TokenEvent> list = events();
  list.pop_back();
  list.push_back(TokenEvent());
  list.back().finish = FinishReason::kAbort;
  const SoakComparison result = compare_answers(answer_of(list), answer_of(events()));
  EXPECT_EQ(result.difference, "");
  EXPECT_EQ(result.num_tokens, 2);
  list[1].token_id = 50;
  EXPECT_NE(compare_answers(answer_of(list), answer_of(events())).difference, "");
  list[1].token_id = 5;
  list.back().finish = FinishReason::kStop;  // no cancel cut this one
  EXPECT_NE(compare_answers(answer_of(list), answer_of(events())).difference, "");
}

TEST(SoakCheckTest, AnIdleEngineHoldsNothingAndHasCountedTheSame) {
  EngineStats before;
  before.num_finished = 5;
  before.num_generated_tokens = 50;
  EngineStats idle = before;
  idle.num_finished = 7;
  idle.num_generated_tokens = 80;
  const SoakCounts counts{.num_ended = 2, .num_tokens = 30};
  EXPECT_EQ(idle_fault(before, idle, counts), "");
  EngineStats leaked = idle;
  leaked.kv_blocks_used = 1;
  EXPECT_EQ(idle_fault(before, leaked, counts), "kv_blocks_used is 1, expected 0");
  EngineStats queued = idle;
  queued.num_waiting = 1;
  EXPECT_EQ(idle_fault(before, queued, counts), "num_waiting is 1, expected 0");
  EXPECT_EQ(idle_fault(before, idle, {.num_ended = 2, .num_tokens = 29}),
            "num_generated_tokens is 30, expected 29");
  EXPECT_EQ(idle_fault(before, idle, {.num_ended = 1, .num_tokens = 30}),
            "num_finished is 2, expected 1");
}

}  // namespace
}  // namespace slipstream
