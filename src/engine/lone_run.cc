// Steps of EngineLoop that a resident decoder has computed: see resident_decoder.h.
//
// While one request is alone, the decoder runs ahead and its tokens are taken one by one. To all
// else a token is a step of one sequence: it is planned as ever, which is how deadlines, limits and
// the prefix cache stay right, but nothing is launched for it. Whatever comes by mail ends the run;
// what it had computed beyond the token that was taken last is computed again.
#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "base/log.h"
#include "base/strings.h"
#include "engine/engine_loop.h"

namespace slipstream {
namespace {

// A request that has been alone for so many steps gets a run: two that take turns would only pay
// for the changes.
constexpr int kStepsBeforeRun = 4;
// How long to look away from the mail.
constexpr int64_t kWaitNs = 1'000'000;
// Without a token for so long a run is given up.
constexpr int64_t kHangNs = 5'000'000'000;

// Logits that nothing changes, drawn from without filters.
bool is_plain(const SamplingParams& params) {
  return params.top_p >= 1.0f && params.top_k <= 0 && params.min_p <= 0.0f &&
         params.repetition_penalty == 1.0f && params.presence_penalty == 0.0f &&
         params.frequency_penalty == 0.0f && params.logit_bias.empty() &&
         params.allowed_token_ids.empty() && params.bad_token_ids.empty() && !params.logprobs;
}

}  // namespace

// Whether the next step could begin a run.
bool EngineLoop::may_run_alone() {
  if (resident_ == nullptr) return false;
  if (requests_.size() != 1 || state_.num_waiting() != 0 || mail_came_) {
    num_alone_steps_ = 0;
    return false;
  }
  if (++num_alone_steps_ <= kStepsBeforeRun) return false;
  const ActiveRequest& request = *requests_.begin()->second;
  const int64_t num_generated = request.num_generated();
  return num_generated > 0 && num_generated >= request.sampling().min_tokens &&
         request.max_new_tokens() - num_generated > 2 && is_plain(request.sampling());
}

// Takes the results that are due, then begins a run in place of the next step.
void EngineLoop::begin_run() {
  if (running_.under_way) {
    collect(running_);
    publish(running_.plan.output);
  }
  plan_next();
  if (!running_.plan.output.scheduled.empty() && !start_run()) launch_running();
  publish(SchedulerOutput());
}

// running_ becomes the step after the one whose results are known.
void EngineLoop::plan_next() {
  plan(running_.plan, lane_);
  end_unscheduled(running_.plan.output);
  ended_.clear();
}

void EngineLoop::launch_running() {
  std::swap(running_, launched_);
  launch(launched_);
  std::swap(running_, launched_);
}

// A run from the planned step on. False: the step is to be launched.
bool EngineLoop::start_run() {
  const SchedulerOutput& output = running_.plan.output;
  if (output.scheduled.size() != 1 || output.num_tokens != 1) return false;
  const ScheduledSequence& scheduled = output.scheduled.front();
  find_active(output);
  ActiveRequest& request = *active_.front();
  const int32_t token_id = scheduled.sequence->token_ids[static_cast<size_t>(scheduled.begin)];
  if (!scheduled.samples || token_id == kPendingToken) return false;
  const int64_t wanted =
      std::min(resident_->most_tokens(), request.max_new_tokens() - request.num_generated());
  const int64_t num_positions = state_.reserve_ahead(scheduled.request(), scheduled.begin + wanted);
  const SampleRequest sample = request.sample_request(scheduled.begin + 1);
  const int64_t now_ns = steady_now_ns();
  const Status started = resident_->start({.token_id = token_id,
                                           .position = scheduled.begin,
                                           .block_table = scheduled.sequence->blocks.blocks,
                                           .max_tokens = num_positions - scheduled.begin,
                                           .end_ids = request.stop_token_ids(),
                                           .temperature = sample.params.temperature,
                                           .seed = sample.seed,
                                           .choice_idx = sample.choice_idx});
  if (!started.ok()) {
    drop_resident(started.message());
    state_.give_back_ahead(scheduled.request());
    return false;
  }
  request.step_begins(now_ns, scheduled.num_cached_tokens);
  request.sample_state().give_back();
  run_ = {.request = scheduled.request(),
          .position = scheduled.begin,
          .last_token_ns = now_ns,
          .under_way = true};
  const std::lock_guard lock(mutex_);
  ++stats_.num_runs;
  stats_.executor_in_use = resident_->name();
  return true;
}

void EngineLoop::drop_resident(const std::string& why) {
  log_error("engine", "latency gear is off: ", why);
  resident_ = nullptr;
}

// Takes the run's next token, if it is there, and plans the step after it.
void EngineLoop::run_step() {
  if (mail_came_) resident_->stop();
  const int64_t asked_ns = steady_now_ns();
  {
    const std::lock_guard lock(mutex_);
    stats_.step_started_ns = run_.last_token_ns;
    stats_.step_num_tokens = 1;
  }
  const std::span<const int32_t> tokens = resident_->wait(run_.num_taken, kWaitNs);
  const int64_t now_ns = steady_now_ns();
  waited_ns_ += now_ns - asked_ns;
  run_.stopping = run_.stopping || mail_came_;
  if (std::ssize(tokens) <= run_.num_taken) {
    if (resident_->ended() || now_ns - run_.last_token_ns > kHangNs) give_up_run();
    return;
  }
  run_busy_ns_ += now_ns - run_.last_token_ns;
  run_.last_token_ns = now_ns;
  take_run_token(tokens[static_cast<size_t>(run_.num_taken++)]);
  if (run_.stopping) state_.give_back_ahead(run_.request);
  plan_next();

  const SchedulerOutput& output = running_.plan.output;
  const bool goes_on = output.scheduled.size() == 1 && output.num_tokens == 1 && !run_.stopping &&
                       output.scheduled.front().request() == run_.request &&
                       output.scheduled.front().begin == run_.position + run_.num_taken;
  if (goes_on && (run_.num_taken < std::ssize(tokens) || !resident_->ended())) return;
  end_run();
  if (!output.scheduled.empty() && !(goes_on && resident_ != nullptr && start_run())) {
    launch_running();
  }
  publish(SchedulerOutput());
}

void EngineLoop::take_run_token(int32_t token_id) {
  const SchedulerOutput& output = running_.plan.output;
  find_active(output);
  drop_stale(output);
  if (active_.front() != nullptr) {
    Sample sample;
    sample.token_id = token_id;
    Status status =
        token_id == kBadLogits ? failed("the model computed logits that are no numbers") : Status();
    finish_sequence(output.scheduled.front(), *active_.front(), &sample, std::move(status));
  }
  for (TokenEvent& event : events_) event.of_run = event.token_id >= 0;
  {
    const std::lock_guard lock(mutex_);
    ++stats_.num_run_tokens;
  }
  publish(output);
}

// Waits until the device is free again: two tokens at most.
void EngineLoop::end_run() {
  resident_->stop();
  const int64_t began_ns = steady_now_ns();
  while (!resident_->ended() && steady_now_ns() - began_ns < kHangNs) {
    (void)resident_->wait(resident_->most_tokens(), kWaitNs);
  }
  waited_ns_ += steady_now_ns() - began_ns;
  run_.under_way = false;
  num_alone_steps_ = 0;
  {
    const std::lock_guard lock(mutex_);
    stats_.executor_in_use = "";
  }
  if (!resident_->ended()) abort_resident();
  state_.give_back_ahead(run_.request);
}

void EngineLoop::abort_resident() {
  resident_->abort();
  const int64_t began_ns = steady_now_ns();
  while (!resident_->ended() && steady_now_ns() - began_ns < kHangNs) {
    (void)resident_->wait(resident_->most_tokens(), kWaitNs);
  }
  drop_resident(str("a run gave no token for ", kHangNs / 1'000'000'000, " s"));
}

// The planned step has no token: it is launched like any other.
void EngineLoop::give_up_run() {
  end_run();
  if (resident_ != nullptr) drop_resident("a run ended without a token");
  find_active(running_.plan.output);
  if (active_.front() == nullptr) plan_next();
  if (!running_.plan.output.scheduled.empty()) launch_running();
  publish(SchedulerOutput());
}

}  // namespace slipstream
