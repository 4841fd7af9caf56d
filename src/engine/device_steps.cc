// Steps of EngineLoop where a device computes and draws tokens: see engine_loop.h.
#include <utility>

#include "base/check.h"
#include "base/clock.h"
#include "engine/engine_loop.h"

namespace slipstream {
namespace {

// Whether the token is made of logits as they are, and nothing else is asked of them.
bool is_plain(const SampleRequest& request) {
  return !request.pipeline.active() && !request.params.logprobs;
}

}  // namespace

void EngineLoop::device_step() {
  const bool has_results = running_.under_way;
  // Tokens that the host has to make are wanted before the next step can be launched.
  if (running_.under_way && (running_.needs_host || !one_ahead_)) collect(running_);
  plan(launched_.plan, lane_);
  end_unscheduled(launched_.plan.output);
  ended_.clear();
  if (!launched_.plan.output.scheduled.empty()) launch(launched_);
  if (running_.under_way) collect(running_);
  SLIPSTREAM_CHECK(!state_.idle() || state_.blocks().num_used() == 0,
                   "no block is in use without a request");
  publish(has_results ? running_.plan.output : SchedulerOutput());
  std::swap(running_, launched_);
}

// Hands a step to the device, behind the one that runs.
void EngineLoop::launch(DeviceStep& step) {
  const SchedulerOutput& output = step.plan.output;
  TraceRange range(lane_, "launch");
  range.arg("sequences", std::ssize(output.scheduled));
  const bool all_alive = find_active(output);
  SLIPSTREAM_CHECK(all_alive, "a plan is made of requests that have not ended");
  const int64_t now_ns = steady_now_ns();
  for (size_t seq_idx = 0; seq_idx < active_.size(); ++seq_idx) {
    active_[seq_idx]->step_begins(now_ns, output.scheduled[seq_idx].num_cached_tokens);
  }
  take_pending(step.plan.batch);
  forward(step.plan);
  step.slot = 1 - running_.slot;
  step.under_way = true;
  draw(step);
}

// Tokens that the running step draws are taken from there: each is the first of its sequence.
void EngineLoop::take_pending(ForwardBatch& batch) const {
  batch.drawn_from.clear();
  batch.drawn_slot = running_.slot;
  for (size_t seq_idx = 0; seq_idx < active_.size(); ++seq_idx) {
    const auto token_idx = static_cast<size_t>(batch.cu_seqlens_q[seq_idx]);
    if (batch.token_ids[token_idx] != kPendingToken) continue;
    if (batch.drawn_from.empty()) batch.drawn_from.assign(batch.token_ids.size(), -1);
    batch.drawn_from[token_idx] = active_[seq_idx]->drawn_idx();
    batch.token_ids[token_idx] = 0;
  }
}

// Has the device draw every token that logits as they are make.
void EngineLoop::draw(DeviceStep& step) {
  const std::vector<ScheduledSequence>& scheduled = step.plan.output.scheduled;
  sample_rows_.clear();
  step.drawn_idx.assign(scheduled.size(), -1);
  step.needs_host = false;
  int64_t num_rows = 0;
  for (size_t seq_idx = 0; seq_idx < scheduled.size(); ++seq_idx) {
    const ScheduledSequence& sequence = scheduled[seq_idx];
    ActiveRequest& request = *active_[seq_idx];
    num_rows += sequence.num_logit_rows;
    if (sequence.wants_prompt_logits && sequence.begin + 1 < sequence.num_prompt_tokens) {
      step.needs_host = true;
    }
    if (!sequence.samples || request.max_new_tokens() == 0) continue;
    const SampleRequest wanted = request.sample_request(sequence.begin + sequence.num_tokens);
    if (!is_plain(wanted)) {
      step.needs_host = true;
      continue;
    }
    const auto drawn_idx = static_cast<int32_t>(sample_rows_.size());
    step.drawn_idx[seq_idx] = drawn_idx;
    request.set_drawn_idx(drawn_idx);
    sample_rows_.push_back({.row = static_cast<int32_t>(num_rows - 1),
                            .temperature = wanted.params.temperature,
                            .seed = wanted.seed,
                            .position = static_cast<uint32_t>(wanted.position),
                            .choice_idx = wanted.choice_idx,
                            .top_k = wanted.params.top_k,
                            .top_p = wanted.params.top_p,
                            .min_p = wanted.params.min_p});
  }
  runner_.draw(sample_rows_, step.slot);
}

// Waits for a step's tokens and does with them what is to be done.
void EngineLoop::collect(DeviceStep& step) {
  const SchedulerOutput& output = step.plan.output;
  TraceRange range(lane_, "collect");
  range.arg("sequences", std::ssize(output.scheduled));
  {
    const std::lock_guard lock(mutex_);
    stats_.step_started_ns = steady_now_ns();
    stats_.step_num_tokens = output.num_tokens;
  }
  const int64_t asked_ns = steady_now_ns();
  const std::span<const int32_t> ids = runner_.drawn(step.slot);
  waited_ns_ += steady_now_ns() - asked_ns;
  step.under_way = false;
  find_active(output);
  plan_jobs(output);
  for (RowJob& job : jobs_) {
    const int32_t drawn_idx = step.drawn_idx[job.seq_idx];
    job.is_drawn = job.prompt_logprobs == nullptr && drawn_idx >= 0;
    SLIPSTREAM_CHECK(job.is_drawn || step.needs_host, "the step's logits are still there");
    if (!job.is_drawn) continue;
    job.sample.token_id = ids[static_cast<size_t>(drawn_idx)];
    if (job.sample.token_id < 0)
      job.status = failed("the model computed logits that are no numbers");
  }
  if (step.needs_host) run_jobs();
  finish_step(output);
}

}  // namespace slipstream
