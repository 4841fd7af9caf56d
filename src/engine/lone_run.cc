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
// How long to wait for the end of a run that was aborted.
constexpr int64_t kAbortNs = 1'000'000'000;

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

// Those whose deadline has come, among them requests that the scheduler has not heard of, for it
// hears of nothing until a token is there.
bool EngineLoop::end_overdue() {
  const int64_t now_ns = steady_now_ns();
  std::vector<RequestId> overdue;
  for (const auto& [id, request] : requests_) {
    const int64_t deadline_ns = request->deadline_ns();
    if (deadline_ns != 0 && deadline_ns <= now_ns) overdue.push_back(id);
  }
  for (const RequestId id : overdue) end_request(id, FinishReason::kDeadline);
  return !overdue.empty();
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
  if (end_overdue() || mail_came_) stop_run();
  // Nobody's end waits for a token.
  if (!events_.empty()) publish(SchedulerOutput());
  {
    const std::lock_guard lock(mutex_);
    stats_.step_started_ns = run_.last_token_ns;
    stats_.step_num_tokens = 1;
  }
  const int64_t asked_ns = steady_now_ns();
  const int64_t num_known = run_.leaving ? resident_->most_tokens() : run_.num_taken;
  const std::span<const int32_t> tokens = resident_->wait(num_known, kWaitNs);
  const int64_t now_ns = steady_now_ns();
  if (!run_.leaving && std::ssize(tokens) > run_.num_taken) {
    waited_ns_ += now_ns - asked_ns;
    run_busy_ns_ += now_ns - run_.last_token_ns;
    run_.last_token_ns = now_ns;
    take_run_token(tokens[static_cast<size_t>(run_.num_taken++)]);
    if (run_.stopping) state_.give_back_ahead(run_.request);
    plan_next();
    const SchedulerOutput& output = running_.plan.output;
    const bool continues = output.scheduled.size() == 1 && output.num_tokens == 1 &&
                           !run_.stopping && output.scheduled.front().request() == run_.request &&
                           output.scheduled.front().begin == run_.position + run_.num_taken;
    const bool is_used_up = resident_->ended() && run_.num_taken == std::ssize(tokens);
    if (continues && !is_used_up) return;
    leave_run(continues, is_used_up);
  }
  if (resident_->ended()) {
    finish_run();
  } else if (now_ns - run_.last_token_ns > resident_->hang_ns()) {
    give_up_run();
  }
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

// Nothing more is taken of the run: the planned step waits until the device is free, which takes
// two tokens at most.
void EngineLoop::leave_run(bool continues, bool is_used_up) {
  if (!is_used_up) stop_run();
  run_.leaving = true;
  run_.continues = continues;
}

void EngineLoop::stop_run() {
  if (std::exchange(run_.stopping, true)) return;
  resident_->stop();
}

// The run has ended. The planned step has no token: it is launched like any other, or begins a run.
void EngineLoop::finish_run() {
  if (!run_.leaving && !run_.stopping) drop_resident("a run ended without a token");
  run_.under_way = false;
  num_alone_steps_ = 0;
  {
    const std::lock_guard lock(mutex_);
    stats_.executor_in_use = "";
    if (run_.stopping) ++stats_.num_runs_stopped;
  }
  state_.give_back_ahead(run_.request);
  const SchedulerOutput& output = running_.plan.output;
  if (!find_active(output) || !scheduler_events_.empty()) {
    // Somebody came or went while it was waited for.
    withdraw(state_, output);
    plan_next();
  }
  const bool runs_on = run_.continues && !run_.stopping && resident_ != nullptr;
  if (!output.scheduled.empty() && !(runs_on && start_run())) launch_running();
  publish(SchedulerOutput());
}

// The run hangs.
void EngineLoop::give_up_run() {
  run_.stopping = true;
  abort_run();
  finish_run();
}

// Where no step follows.
void EngineLoop::end_run_now() {
  stop_run();
  if (!wait_for_end(run_.last_token_ns + resident_->hang_ns())) abort_run();
  run_.under_way = false;
}

bool EngineLoop::wait_for_end(int64_t until_ns) {
  while (!resident_->ended() && steady_now_ns() < until_ns) {
    (void)resident_->wait(resident_->most_tokens(), kWaitNs);
  }
  return resident_->ended();
}

void EngineLoop::abort_run() {
  const int64_t hang_ns = resident_->hang_ns();
  resident_->abort();
  const bool ended = wait_for_end(steady_now_ns() + kAbortNs);
  drop_resident(str("a run gave no token for ", hang_ns / 1'000'000, " ms",
                    ended ? "" : " and did not end when it was aborted"));
}

}  // namespace slipstream
