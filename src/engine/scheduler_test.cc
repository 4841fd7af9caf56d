#include "engine/scheduler.h"

#include <gtest/gtest.h>

#include <iostream>
#include <memory>

#include "engine/sim.h"

namespace slipstream {
namespace {

// Drives schedule() by hand: what each step planned is done before the next.
class SchedulerTest : public testing::Test {
 protected:
  void start(const SchedulerLimits& limits, int64_t num_blocks) {
    state_ = std::make_unique<SchedulerState>(limits, num_blocks, 4);
  }

  void submit(RequestId request, int64_t num_prompt_tokens, int64_t max_new_tokens,
              int32_t priority = 0, bool wants_prompt_logits = false) {
    prompts_.push_back(std::make_unique<std::vector<int32_t>>(
        static_cast<size_t>(num_prompt_tokens), static_cast<int32_t>(request)));
    SchedulerEvent event;
    event.kind = SchedulerEvent::kSubmit;
    event.request = request;
    event.prompt_token_ids = *prompts_.back();
    event.max_tokens = num_prompt_tokens + max_new_tokens;
    event.priority = priority;
    event.wants_prompt_logits = wants_prompt_logits;
    events_.push_back(event);
  }

  void cancel(RequestId request) {
    SchedulerEvent event;
    event.kind = SchedulerEvent::kCancel;
    event.request = request;
    events_.push_back(event);
  }

  SchedulerOutput step() {
    const SchedulerOutput output = schedule(*state_, events_, ++now_ns_);
    events_.clear();
    const Status status = state_->check_invariants();
    EXPECT_TRUE(status.ok()) << status.message();
    for (const ScheduledSequence& scheduled : output.scheduled) {
      SchedulerEvent event;
      event.kind = SchedulerEvent::kStepDone;
      event.handle = scheduled.sequence->handle();
      if (scheduled.samples()) {
        event.token_id = 1;
        event.finished = scheduled.sequence->num_tokens() + 1 == scheduled.sequence->max_tokens;
      }
      events_.push_back(event);
    }
    return output;
  }

  std::unique_ptr<SchedulerState> state_;
  std::vector<SchedulerEvent> events_;
  std::vector<std::unique_ptr<std::vector<int32_t>>> prompts_;
  int64_t now_ns_ = 0;
};

SchedulerLimits limits(int64_t num_seqs, int64_t num_tokens, int64_t num_rows = 64) {
  return {
      .max_num_seqs = num_seqs, .max_num_batched_tokens = num_tokens, .max_logit_rows = num_rows};
}

TEST_F(SchedulerTest, LongPromptNeverStallsARunningAnswer) {
  start(limits(4, 8), 64);
  submit(1, 2, 20);
  step();
  submit(2, 30, 4);
  for (int i = 0; i < 4; ++i) {
    const SchedulerOutput output = step();
    ASSERT_EQ(output.scheduled.size(), 2u);
    EXPECT_EQ(output.scheduled[0].sequence->request, 1u);
    EXPECT_EQ(output.scheduled[0].num_tokens, 1);
    EXPECT_EQ(output.scheduled[1].num_tokens, 7) << "the prompt gets what is left of the step";
  }
}

TEST_F(SchedulerTest, EarlierArrivalIsServedFirst) {
  start(limits(1, 8), 64);
  submit(1, 2, 2);
  submit(2, 2, 2);
  EXPECT_EQ(step().scheduled[0].sequence->request, 1u);
  EXPECT_EQ(step().scheduled[0].sequence->request, 1u);
  EXPECT_EQ(step().scheduled[0].sequence->request, 2u);
}

TEST_F(SchedulerTest, LowerPriorityNumberOvertakesInTheQueue) {
  start(limits(1, 8), 64);
  submit(1, 2, 2);
  step();
  submit(2, 2, 2, 5);
  submit(3, 2, 2, -5);
  step();
  EXPECT_EQ(step().scheduled[0].sequence->request, 3u);
}

TEST_F(SchedulerTest, OldEnoughRequestIsNotOvertakenByPriority) {
  start(limits(1, 8), 64);
  submit(1, 2, 3);
  submit(2, 2, 1, 1);
  step();
  now_ns_ += kPriorityDelayNs + 1;
  submit(3, 2, 1, 0);
  step();
  step();
  EXPECT_EQ(step().scheduled[0].sequence->request, 2u);
}

TEST_F(SchedulerTest, LastInOrderIsPreemptedAndComputedAgain) {
  start(limits(4, 64), 5);  // 20 positions
  submit(1, 4, 12);
  submit(2, 4, 12);
  int64_t num_preempted = 0;
  bool second_recomputes = false;
  for (int i = 0; i < 60; ++i) {
    const SchedulerOutput output = step();
    num_preempted += output.num_preempted;
    for (const ScheduledSequence& scheduled : output.scheduled) {
      if (scheduled.sequence->request == 1) {
        EXPECT_EQ(scheduled.sequence->num_preemptions, 0u);
      }
      if (scheduled.begin == 0 && scheduled.sequence->num_tokens() > 4) second_recomputes = true;
    }
  }
  EXPECT_TRUE(state_->idle());
  EXPECT_GE(num_preempted, 1);
  EXPECT_TRUE(second_recomputes);
  EXPECT_EQ(state_->blocks().num_used(), 0);
}

TEST_F(SchedulerTest, CancelTakesEffectInTheSameCallInEveryState) {
  start(limits(1, 4), 64);
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

TEST_F(SchedulerTest, FinishBeatsACancelOfTheSameStep) {
  start(limits(1, 4), 64);
  submit(1, 2, 1);
  step();
  cancel(1);
  EXPECT_TRUE(step().cancelled.empty());
  EXPECT_TRUE(state_->idle());
}

TEST_F(SchedulerTest, PromptLogitsAreChunkedToTheWorkspace) {
  start(limits(2, 64, 5), 64);
  submit(1, 12, 2, 0, true);
  EXPECT_EQ(step().num_logit_rows, 5);
  EXPECT_EQ(step().num_logit_rows, 5);
  const SchedulerOutput last = step();
  EXPECT_EQ(last.num_tokens, 2);
  EXPECT_TRUE(last.scheduled[0].samples());
}

TEST_F(SchedulerTest, ExactlyPoolSizedRequestRunsAlone) {
  start(limits(4, 64), 4);
  EXPECT_TRUE(state_->fits(16));
  EXPECT_FALSE(state_->fits(17));
  submit(1, 1, 15);
  submit(2, 1, 15);
  for (int i = 0; i < 100 && !(i > 1 && state_->idle()); ++i) step();
  EXPECT_TRUE(state_->idle());
}

void simulate(int64_t num_steps, uint64_t seed) {
  const SimReport report = run_simulation({.num_steps = num_steps, .seed = seed});
  EXPECT_TRUE(report.ok()) << report.violation;
  EXPECT_GT(report.num_finished, num_steps / 50);
  EXPECT_GT(report.num_preemptions, 0);
  EXPECT_GT(report.num_cancelled, 0);
  std::cout << "seed " << seed << ": " << report.num_steps << " steps, " << report.num_worlds
            << " worlds, " << report.num_finished << " finished, " << report.num_cancelled
            << " cancelled, " << report.num_preemptions << " preemptions, at most "
            << report.max_preemptions << " of one request\n";
}

TEST(SchedulerSimTest, RandomLoadKeepsEveryRule) { simulate(100'000, 1); }

TEST(SchedulerSimTest, SameSeedGivesTheSameRun) {
  const SimReport first = run_simulation({.num_steps = 2000, .seed = 9});
  const SimReport second = run_simulation({.num_steps = 2000, .seed = 9});
  EXPECT_EQ(first.num_tokens, second.num_tokens);
  EXPECT_EQ(first.num_preemptions, second.num_preemptions);
}

TEST(SchedulerSimSlow, ManySeedsKeepEveryRule) {
  for (uint64_t seed = 100; seed < 200; ++seed) simulate(100'000, seed);
}

}  // namespace
}  // namespace slipstream
