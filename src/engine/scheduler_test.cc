#include "engine/scheduler.h"

#include <gtest/gtest.h>

#include <iostream>
#include <memory>

#include "engine/sim.h"
#include "engine/sim_stream.h"

namespace slipstream {
namespace {

// Drives schedule() by hand: what each step planned is done before the next.
class SchedulerTest : public testing::Test {
 protected:
  void start(const SchedulerLimits& limits, int64_t num_blocks, bool caching = false) {
    state_ = std::make_unique<SchedulerState>(limits, num_blocks, 4,
                                              PrefixCacheOptions{.enabled = caching, .seed = 1});
  }

  void submit(RequestId request, int64_t num_prompt_tokens, int64_t max_new_tokens,
              int32_t priority = 0, bool wants_prompt_logits = false) {
    std::vector<int32_t> prompt(static_cast<size_t>(num_prompt_tokens),
                                static_cast<int32_t>(request));
    SchedulerEvent& event = submit_prompt(request, std::move(prompt), max_new_tokens);
    event.priority = priority;
    event.wants_prompt_logits = wants_prompt_logits;
  }

  SchedulerEvent& submit_prompt(RequestId request, std::vector<int32_t> prompt,
                                int64_t max_new_tokens) {
    prompts_.push_back(std::make_unique<std::vector<int32_t>>(std::move(prompt)));
    SchedulerEvent event;
    event.kind = SchedulerEvent::kSubmit;
    event.request = request;
    event.prompt_token_ids = *prompts_.back();
    event.max_tokens = std::ssize(*prompts_.back()) + max_new_tokens;
    events_.push_back(event);
    return events_.back();
  }

  void cancel(RequestId request) {
    SchedulerEvent event;
    event.kind = SchedulerEvent::kCancel;
    event.request = request;
    events_.push_back(event);
  }

  SchedulerOutput plan() {
    const SchedulerOutput output = schedule(*state_, events_, ++now_ns_);
    events_.clear();
    const Status status = state_->check_invariants();
    EXPECT_TRUE(status.ok()) << status.message();
    return output;
  }

  // The results of a step, for the next plan.
  void run(const SchedulerOutput& output) {
    for (const ScheduledSequence& scheduled : output.scheduled) {
      const Sequence* const sequence = state_->find(scheduled.request());
      SchedulerEvent event;
      event.kind = SchedulerEvent::kStepDone;
      event.handle = scheduled.handle;
      event.num_tokens = scheduled.num_tokens;
      if (scheduled.samples) {
        event.token_id = 1;
        event.finished = sequence == nullptr || sequence->num_committed + 1 == sequence->max_tokens;
      }
      events_.push_back(event);
    }
  }

  SchedulerOutput step() {
    const SchedulerOutput output = plan();
    run(output);
    return output;
  }

  int64_t tokens_of(const SchedulerOutput& output, RequestId request) const {
    int64_t count = 0;
    for (const ScheduledSequence& scheduled : output.scheduled) {
      if (scheduled.request() == request) count += scheduled.num_tokens;
    }
    return count;
  }

  std::unique_ptr<SchedulerState> state_;
  std::vector<SchedulerEvent> events_;
  std::vector<std::unique_ptr<std::vector<int32_t>>> prompts_;
  int64_t now_ns_ = 0;
};

SchedulerLimits limits_of(int64_t num_seqs, int64_t num_tokens, int64_t num_rows = 64) {
  SchedulerLimits limits;
  limits.max_num_seqs = num_seqs;
  limits.max_num_batched_tokens = num_tokens;
  limits.max_logit_rows = num_rows;
  limits.admission_horizon = 0;
  return limits;
}

TEST_F(SchedulerTest, LongPromptNeverStallsARunningAnswer) {
  start(limits_of(4, 8), 64);
  submit(1, 2, 20);
  step();
  submit(2, 30, 4);
  for (int i = 0; i < 4; ++i) {
    const SchedulerOutput output = step();
    ASSERT_EQ(output.scheduled.size(), 2u);
    EXPECT_EQ(output.scheduled[0].request(), 1u);
    EXPECT_EQ(output.scheduled[0].num_tokens, 1);
    EXPECT_EQ(output.scheduled[1].num_tokens, 7) << "the prompt gets what is left of the step";
  }
}

TEST_F(SchedulerTest, EarlierArrivalIsServedFirst) {
  start(limits_of(1, 8), 64);
  submit(1, 2, 2);
  submit(2, 2, 2);
  EXPECT_EQ(step().scheduled[0].request(), 1u);
  EXPECT_EQ(step().scheduled[0].request(), 1u);
  EXPECT_EQ(step().scheduled[0].request(), 2u);
}

TEST_F(SchedulerTest, LowerPriorityNumberOvertakesInTheQueue) {
  start(limits_of(1, 8), 64);
  submit(1, 2, 2);
  step();
  submit(2, 2, 2, 5);
  submit(3, 2, 2, -5);
  step();
  EXPECT_EQ(step().scheduled[0].request(), 3u);
}

TEST_F(SchedulerTest, S11OldEnoughRequestIsNotOvertakenByPriority) {
  start(limits_of(1, 8), 64);
  submit(1, 2, 3);
  submit(2, 2, 1, 1);
  step();
  now_ns_ += kPriorityDelayNs + 1;
  submit(3, 2, 1, 0);
  step();
  step();
  EXPECT_EQ(step().scheduled[0].request(), 2u);
}

TEST_F(SchedulerTest, LastInOrderIsPreemptedAndComputedAgain) {
  start(limits_of(4, 64), 5);  // 20 positions
  submit(1, 4, 12);
  submit(2, 4, 12);
  int64_t num_preempted = 0;
  bool second_recomputes = false;
  for (int i = 0; i < 60; ++i) {
    const SchedulerOutput output = step();
    num_preempted += output.num_preempted;
    for (const ScheduledSequence& scheduled : output.scheduled) {
      if (scheduled.request() == 1) {
        EXPECT_EQ(scheduled.handle.num_preemptions, 0u);
      }
      if (scheduled.begin == 0 && scheduled.num_tokens > 4) second_recomputes = true;
    }
  }
  EXPECT_TRUE(state_->idle());
  EXPECT_GE(num_preempted, 1);
  EXPECT_TRUE(second_recomputes);
  EXPECT_EQ(state_->blocks().num_used(), 0);
}

TEST_F(SchedulerTest, S3CancelTakesEffectInTheSameCallInEveryState) {
  start(limits_of(1, 4), 64);
  submit(1, 2, 10);
  submit(2, 2, 10);  // waits
  step();
  cancel(2);
  cancel(2);
  cancel(77);
  EXPECT_EQ(step().cancelled, std::vector<RequestId>{2});
  cancel(1);
  const SchedulerOutput output = step();
  EXPECT_EQ(output.cancelled, std::vector<RequestId>{1});
  EXPECT_TRUE(output.scheduled.empty());
  EXPECT_TRUE(state_->idle());
  EXPECT_EQ(state_->blocks().num_used(), 0);
}

TEST_F(SchedulerTest, S5FinishBeatsACancelOfTheSameStep) {
  start(limits_of(1, 4), 64);
  submit(1, 2, 1);
  step();
  cancel(1);
  EXPECT_TRUE(step().cancelled.empty());
  EXPECT_TRUE(state_->idle());
}

TEST_F(SchedulerTest, PromptLogitsAreChunkedToTheWorkspace) {
  start(limits_of(2, 64, 5), 64);
  submit(1, 12, 2, 0, true);
  EXPECT_EQ(step().num_logit_rows, 5);
  EXPECT_EQ(step().num_logit_rows, 5);
  const SchedulerOutput last = step();
  EXPECT_EQ(last.num_tokens, 2);
  EXPECT_TRUE(last.scheduled[0].samples);
}

TEST_F(SchedulerTest, S1ExactlyPoolSizedRequestRunsAlone) {
  start(limits_of(4, 64), 4);
  EXPECT_TRUE(state_->fits(16));
  EXPECT_FALSE(state_->fits(17));
  submit(1, 1, 15);
  submit(2, 1, 15);
  for (int i = 0; i < 100 && !(i > 1 && state_->idle()); ++i) step();
  EXPECT_TRUE(state_->idle());
}

TEST_F(SchedulerTest, S2TinyPoolsFinishEveryRequestAndAdvanceInEveryStep) {
  for (int64_t num_blocks = 1; num_blocks <= 8; ++num_blocks) {
    start(limits_of(16, 32), num_blocks, num_blocks % 2 == 0);
    for (RequestId request = 1; request <= 64; ++request) {
      const auto num_prompt_tokens = static_cast<int64_t>(request) % (num_blocks * 3) + 1;
      submit(request, num_prompt_tokens, num_blocks * 4 - num_prompt_tokens);
    }
    int64_t num_steps = 0;
    while (step().num_tokens > 0) ASSERT_LT(++num_steps, 64 * 32) << num_blocks << " blocks";
    EXPECT_TRUE(state_->idle()) << num_blocks << " blocks";
    EXPECT_EQ(state_->blocks().num_used(), 0);
  }
}

TEST_F(SchedulerTest, S10ShortPromptsStartWhileHugeOnesAreComputed) {
  constexpr int64_t kHuge = 900'000;
  start(limits_of(128, 512, 128), 1 << 19);
  submit(1, kHuge, 8);
  step();
  step();
  submit(2, kHuge, 8);
  for (RequestId request = 10; request < 110; ++request) submit(request, 20, 4);
  int64_t num_started = 0;
  int64_t num_steps = 0;
  for (; num_started < 100; ++num_steps) {
    ASSERT_LT(num_steps, 12) << "100 prompts of 20 tokens fill four steps";
    const SchedulerOutput output = step();
    EXPECT_GE(tokens_of(output, 1), (512 - 100) / 2) << "the huge prompt keeps half";
    for (const ScheduledSequence& scheduled : output.scheduled) {
      if (scheduled.request() >= 10 && scheduled.begin < 20 && scheduled.samples) ++num_started;
    }
    if (num_steps == 0) {
      EXPECT_GE(num_started, 10) << "in the very next step";
    }
  }
}

TEST_F(SchedulerTest, LonePromptGetsTheWholeStep) {
  start(limits_of(4, 8), 64);
  submit(1, 30, 4);
  EXPECT_EQ(step().num_tokens, 8);
  EXPECT_EQ(step().num_tokens, 8);
}

TEST_F(SchedulerTest, FirstInOrderGetsATokenHoweverManyDecode) {
  start(limits_of(4, 2), 64);
  submit(1, 30, 4);
  step();
  submit(2, 1, 20);
  submit(3, 1, 20);
  for (int i = 0; i < 12; ++i) EXPECT_GE(tokens_of(step(), 1), 1);
}

TEST_F(SchedulerTest, AdmissionWaitsWhenRunningAnswersNeedTheBlocksSoon) {
  SchedulerLimits limits = limits_of(4, 64);
  limits.admission_horizon = 16;
  start(limits, 6);
  submit(1, 4, 12);
  submit(2, 4, 12);  // both together would need 8 blocks within 12 steps
  int64_t num_preempted = 0;
  bool ran_together = false;
  for (int i = 0; i < 60; ++i) {
    const SchedulerOutput output = step();
    num_preempted += output.num_preempted;
    ran_together = ran_together || output.scheduled.size() == 2;
  }
  EXPECT_TRUE(state_->idle());
  EXPECT_EQ(num_preempted, 0);
  EXPECT_TRUE(ran_together) << "the second enters when the first is about to give its blocks back";
}

TEST_F(SchedulerTest, DeadlineEndsASequenceInEveryState) {
  start(limits_of(2, 8), 64);
  submit_prompt(1, std::vector<int32_t>(4, 1), 100).deadline_ns = 4;   // decodes by then
  submit_prompt(2, std::vector<int32_t>(90, 2), 100).deadline_ns = 5;  // still prefills
  submit_prompt(3, std::vector<int32_t>(4, 3), 100).deadline_ns = 6;   // waits
  submit_prompt(4, std::vector<int32_t>(4, 4), 100).deadline_ns = 1;   // came too late
  EXPECT_EQ(step().expired, std::vector<RequestId>{4});
  step();
  EXPECT_TRUE(step().expired.empty());
  EXPECT_EQ(state_->overdue(4), std::vector<RequestId>{1});
  EXPECT_EQ(step().expired, std::vector<RequestId>{1});
  EXPECT_EQ(step().expired, std::vector<RequestId>{2});
  EXPECT_EQ(step().expired, std::vector<RequestId>{3});
  EXPECT_TRUE(state_->idle());
  EXPECT_EQ(state_->blocks().num_used(), 0);
}

TEST_F(SchedulerTest, StepIsPlannedBeforeTheTokenItFollowsIsKnown) {
  start(limits_of(4, 8), 64);
  submit(1, 4, 3);
  const SchedulerOutput first = plan();
  const SchedulerOutput second = plan();
  ASSERT_EQ(second.scheduled.size(), 1u);
  EXPECT_EQ(second.scheduled[0].begin, 4);
  EXPECT_EQ(state_->find(1)->token_ids[4], kPendingToken);
  run(first);
  const SchedulerOutput third = plan();
  EXPECT_EQ(state_->find(1)->token_ids[4], 1);
  EXPECT_EQ(third.scheduled[0].begin, 5);
  run(second);
  EXPECT_TRUE(plan().scheduled.empty()) << "the length limit is known ahead";
  run(third);
  plan();
  EXPECT_TRUE(state_->idle());
}

TEST_F(SchedulerTest, PreemptedSequenceStaysOutForTheStep) {
  start(limits_of(4, 8), 3);
  submit(1, 4, 8);
  submit(2, 4, 8);
  plan();
  const SchedulerOutput second = plan();  // the first takes the last block
  EXPECT_EQ(second.num_preempted, 1);
  EXPECT_EQ(tokens_of(second, 2), 0) << "without its pending token it would fit again";
}

TEST_F(SchedulerTest, PlanTakenBackLeavesNothing) {
  start(limits_of(4, 8), 64);
  submit(1, 4, 9);
  submit(2, 30, 4);
  const SchedulerOutput first = plan();
  const SchedulerOutput second = plan();
  withdraw(*state_, second);
  run(first);
  submit(3, 2, 4);
  const SchedulerOutput again = plan();
  EXPECT_EQ(again.scheduled[0].begin, second.scheduled[0].begin);
  EXPECT_EQ(tokens_of(again, 1), 1);
  EXPECT_EQ(tokens_of(again, 3), 2) << "what came since is in the new plan";
  run(again);
  EXPECT_EQ(step().scheduled[0].begin, 5);
}

TEST_F(SchedulerTest, BlocksTakenAheadAreGivenBack) {
  start(limits_of(4, 8), 6);
  submit(1, 5, 12);
  step();
  EXPECT_EQ(state_->reserve_ahead(1, 9), 9);
  EXPECT_EQ(state_->blocks().num_used(), 3);
  EXPECT_EQ(state_->reserve_ahead(1, 100), 17) << "no longer than its limit";
  EXPECT_EQ(state_->blocks().num_used(), 5);
  step();
  EXPECT_EQ(state_->blocks().num_used(), 5) << "a step takes none of its own";
  state_->give_back_ahead(1);
  EXPECT_EQ(state_->blocks().num_used(), 2);
  submit(2, 9, 1);
  while (state_->blocks().num_used() < 5) step();
  EXPECT_EQ(state_->reserve_ahead(1, 100), 12) << "as many as are free";
  cancel(1);
  cancel(2);
  plan();
  EXPECT_EQ(state_->blocks().num_used(), 0);
  state_->give_back_ahead(1);  // who has ended has nothing to give
}

TEST_F(SchedulerTest, S4ResultsOfAnEndedSequenceAreIgnored) {
  start(limits_of(4, 8), 64);
  submit(1, 4, 9);
  const SchedulerOutput first = plan();
  const SchedulerOutput second = plan();
  run(first);
  events_.back().finished = true;
  plan();
  EXPECT_TRUE(state_->idle());
  EXPECT_FALSE(state_->current(second.scheduled[0].handle));
  run(second);
  plan();
  EXPECT_TRUE(state_->idle());
}

TEST_F(SchedulerTest, PromptOfAFinishedRequestIsNotComputedAgain) {
  start(limits_of(4, 64), 64, true);
  submit_prompt(1, std::vector<int32_t>(17, 7), 2);
  step();
  step();
  submit_prompt(2, std::vector<int32_t>(17, 7), 2);
  const SchedulerOutput output = step();
  EXPECT_EQ(output.scheduled[0].begin, 16);
  EXPECT_EQ(output.scheduled[0].num_cached_tokens, 16);
  EXPECT_EQ(state_->num_cache_queries(), 34);
  EXPECT_EQ(state_->num_cache_hits(), 16);
  submit_prompt(3, std::vector<int32_t>(16, 7), 2);
  EXPECT_EQ(step().scheduled[1].begin, 12) << "the last token's logits are always computed";
}

TEST_F(SchedulerTest, AnswersAreCachedForTheNextTurn) {
  start(limits_of(4, 64), 64, true);
  submit_prompt(1, std::vector<int32_t>(6, 7), 8);
  while (step().num_tokens > 0) {
  }
  std::vector<int32_t> next(6, 7);
  next.insert(next.end(), 9, 1);  // run() answers with ones
  submit_prompt(2, next, 2);
  EXPECT_EQ(step().scheduled[0].begin, 12);
}

TEST_F(SchedulerTest, AbortedRequestLeavesItsPrefix) {
  start(limits_of(4, 8), 64, true);
  submit_prompt(1, std::vector<int32_t>(30, 7), 2);
  step();
  step();
  plan();  // two chunks are known to be computed
  cancel(1);
  plan();
  submit_prompt(2, std::vector<int32_t>(30, 7), 2);
  EXPECT_EQ(step().scheduled[0].begin, 16);
}

TEST_F(SchedulerTest, RequestInDoubtLeavesNothing) {
  start(limits_of(4, 8), 64, true);
  submit_prompt(1, std::vector<int32_t>(30, 7), 2);
  step();
  step();
  events_.back().finished = events_.back().in_doubt = true;
  submit_prompt(2, std::vector<int32_t>(30, 7), 2);
  EXPECT_EQ(step().scheduled[0].begin, 0);
}

TEST_F(SchedulerTest, SaltsShareNoPrefix) {
  start(limits_of(4, 64), 64, true);
  submit_prompt(1, std::vector<int32_t>(17, 7), 2).cache_salt = "one";
  step();
  step();
  submit_prompt(2, std::vector<int32_t>(17, 7), 2).cache_salt = "two";
  EXPECT_EQ(step().scheduled[0].begin, 0);
}

TEST_F(SchedulerTest, PromptLogitsTakeNoHits) {
  start(limits_of(4, 64), 64, true);
  submit_prompt(1, std::vector<int32_t>(17, 7), 2);
  step();
  step();
  submit(7, 17, 2, 0, true);
  EXPECT_EQ(step().scheduled[0].begin, 0);
  EXPECT_EQ(state_->num_cache_queries(), 17);
}

TEST_F(SchedulerTest, S6PreemptedSequenceResumesFromTheCache) {
  start(limits_of(4, 64), 8, true);
  submit(1, 4, 20);
  submit(2, 4, 20);
  bool resumed_from_cache = false;
  for (int i = 0; i < 80; ++i) {
    for (const ScheduledSequence& scheduled : step().scheduled) {
      if (scheduled.handle.num_preemptions > 0 && scheduled.num_tokens > 1) {
        resumed_from_cache = resumed_from_cache || scheduled.begin > 0;
        EXPECT_EQ(scheduled.num_cached_tokens, 0) << "only the first admission counts";
      }
    }
  }
  EXPECT_TRUE(state_->idle());
  EXPECT_TRUE(resumed_from_cache);
}

void simulate(int64_t num_steps, uint64_t seed) {
  const SimReport report = run_simulation({.num_steps = num_steps, .seed = seed});
  EXPECT_TRUE(report.ok()) << report.violation;
  EXPECT_GT(report.num_finished, num_steps / 50);
  EXPECT_GT(report.num_preemptions, 0);
  EXPECT_GT(report.num_cancelled, 0);
  EXPECT_GT(report.num_expired, 0);
  EXPECT_GT(report.num_faults, 0);
  EXPECT_GT(report.num_cached_tokens, num_steps / 50);
  std::cout << "seed " << seed << ": " << report.num_steps << " steps, " << report.num_worlds
            << " worlds, " << report.num_finished << " finished, " << report.num_cancelled
            << " cancelled, " << report.num_preemptions << " preemptions, at most "
            << report.max_preemptions << " of one request; longest wait " << report.max_wait_share
            << " of its bound\n";
}

TEST(SchedulerSimTest, RandomLoadKeepsEveryRule) { simulate(100'000, 1); }

TEST(SchedulerSimTest, SameSeedGivesTheSameRun) {
  const SimReport first = run_simulation({.num_steps = 2000, .seed = 9});
  const SimReport second = run_simulation({.num_steps = 2000, .seed = 9});
  EXPECT_EQ(first.num_tokens, second.num_tokens);
  EXPECT_EQ(first.num_preemptions, second.num_preemptions);
}

TEST(StreamSimTest, StreamedTextIsTheWholeText) {
  const SimStreamReport report = run_stream_simulation({.num_answers = 20'000, .seed = 1});
  EXPECT_TRUE(report.ok()) << report.violation;
  EXPECT_GT(report.num_stopped_by_string, 1000);
  EXPECT_GT(report.num_stopped_by_id, 1000);
  EXPECT_GT(report.num_at_length, 1000);
  EXPECT_GT(report.num_aborted, 1000);
}

// 10^7 steps in all.
TEST(SchedulerSimSlow, ManySeedsKeepEveryRule) {
  for (uint64_t seed = 100; seed < 200; ++seed) simulate(100'000, seed);
}

}  // namespace
}  // namespace slipstream
