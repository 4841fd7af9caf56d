// Steps of EngineLoop where a device computes and draws tokens: see engine_loop.h.
#include <utility>

#include "base/check.h"
#include "base/clock.h"
#include "engine/engine_loop.h"

namespace slipstream {
namespace {

TokenLogprobs token_logprobs(int32_t id, const SampledLogprobs& sampled) {
  TokenLogprobs result;
  result.id = id;
  result.logprob = sampled.drawn;
  for (int32_t i = 0; i < sampled.num_best; ++i) {
    result.top.emplace_back(sampled.ids[i], sampled.logprobs[i]);
  }
  return result;
}

}  // namespace

void EngineLoop::device_step() {
  if (run_.under_way) return run_step();
  if (may_run_alone()) return begin_run();
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
  const SchedulerOutput nothing;
  publish(has_results ? std::as_const(running_.plan.output) : nothing);
  std::swap(running_, launched_);
}

// Hands a step to the device, behind the one that runs.
void EngineLoop::launch(DeviceStep& step) {
  const SchedulerOutput& output = step.plan.output;
  TraceRange range(lane_, "launch");
  range.arg("sequences", std::ssize(output.scheduled));
  {
    HostPhase phase(host_ns_.batch, lane_, "pending");
    const bool all_alive = find_active(output);
    SLIPSTREAM_CHECK(all_alive, "a plan is made of requests that have not ended");
    const int64_t now_ns = steady_now_ns();
    for (size_t seq_idx = 0; seq_idx < active_.size(); ++seq_idx) {
      active_[seq_idx]->step_begins(now_ns, output.scheduled[seq_idx].num_cached_tokens);
    }
    take_pending(step.plan.batch);
  }
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

// Has the device draw every token that it can.
void EngineLoop::draw(DeviceStep& step) {
  HostPhase phase(host_ns_.draw, lane_, "draw");
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
    std::optional<SampleRow> row = device_row(sequence, request);
    if (!row) {
      step.needs_host = true;
      continue;
    }
    row->row = static_cast<int32_t>(num_rows - 1);
    const auto drawn_idx = static_cast<int32_t>(sample_rows_.size());
    step.drawn_idx[seq_idx] = drawn_idx;
    request.set_drawn_idx(drawn_idx);
    sample_rows_.push_back(*row);
  }
  runner_.draw(sample_rows_, step.slot);
}

// How the device draws the sequence's next token; none: the host has to.
std::optional<SampleRow> EngineLoop::device_row(const ScheduledSequence& sequence,
                                                ActiveRequest& request) {
  const int64_t position = sequence.begin + sequence.num_tokens;
  const SampleRequest wanted = request.sample_request(position);
  const SamplingParams& params = wanted.params;
  SampleRow row{.temperature = params.temperature,
                .seed = wanted.seed,
                .position = static_cast<uint32_t>(position),
                .choice_idx = wanted.choice_idx,
                .top_k = params.top_k,
                .top_p = params.top_p,
                .min_p = params.min_p,
                .repetition_penalty = params.repetition_penalty,
                .frequency_penalty = params.frequency_penalty,
                .presence_penalty = params.presence_penalty,
                .num_logprobs = params.logprobs.value_or(-1)};
  // The pipeline knows of tokens that have been looked at; some may be on their way.
  const int64_t num_answered = position - sequence.num_prompt_tokens;
  row.masks_early_ids = num_answered < params.min_tokens && !wanted.pipeline.early_ids().empty();
  const bool takes_state =
      wanted.pipeline.counts_tokens() || !params.logit_bias.empty() || row.masks_early_ids;
  if (!params.allowed_token_ids.empty() || !params.bad_token_ids.empty()) return {};
  if (!takes_state) {
    request.sample_state().give_back();
    const bool taken = row.num_logprobs < 0 || sample_states_.num_states() > 0;
    return taken && row.num_logprobs <= kMostLogprobs ? std::optional(row) : std::nullopt;
  }
  if (row.num_logprobs > kMostLogprobs || !have_state(sequence, request, row)) return {};
  return row;
}

// Gives the row a state that has counted what comes before its token; false: there is none for it.
bool EngineLoop::have_state(const ScheduledSequence& sequence, ActiveRequest& request,
                            SampleRow& row) {
  const SampleRequest wanted = request.sample_request(0);
  const std::vector<std::pair<int32_t, float>>& biases = wanted.params.logit_bias;
  const std::span<const int32_t> early_ids =
      row.masks_early_ids ? wanted.pipeline.early_ids() : std::span<const int32_t>();
  if (biases.size() > kMostStateBiases || early_ids.size() > kMostStateEarlyIds) return false;
  SampleStatePool::Lease& state = request.sample_state();
  if (!state.held()) state = sample_states_.take();
  if (!state.held()) return false;
  const std::span<const int32_t> ids = sequence.sequence->token_ids;
  const auto num_prompt_ids = static_cast<size_t>(sequence.num_prompt_tokens);
  // Without the token to draw, which the scheduler has added.
  const auto num_ids = static_cast<size_t>(sequence.begin + sequence.num_tokens);
  const std::span<const int32_t> answer_ids = ids.subspan(num_prompt_ids, num_ids - num_prompt_ids);
  // A token that was drawn and then dropped, because its sequence was preempted, is drawn again:
  // the state has counted one too many.
  if (state.num_counted() != std::ssize(answer_ids)) {
    SLIPSTREAM_CHECK(std::ssize(answer_ids) == request.num_generated(),
                     "a state is filled when no token of its request is on its way");
    SampleState filled{.biases = biases, .early_ids = early_ids};
    if (wanted.pipeline.counts_tokens()) filled.answer_ids = answer_ids;
    if (row.repetition_penalty != 1.0f) filled.prompt_ids = ids.first(num_prompt_ids);
    runner_.set_sample_state(state.idx(), filled);
  }
  state.set_num_counted(std::ssize(answer_ids) + 1);
  row.state = state.idx();
  return true;
}

// Waits for a step's tokens and does with them what is to be done.
void EngineLoop::collect(DeviceStep& step) {
  const SchedulerOutput& output = step.plan.output;
  HostPhase phase(host_ns_.collect, lane_, "collect");
  phase.arg("sequences", std::ssize(output.scheduled));
  {
    const std::lock_guard lock(mutex_);
    stats_.step_started_ns = steady_now_ns();
    stats_.step_num_tokens = output.num_tokens;
  }
  const int64_t asked_ns = steady_now_ns();
  step.drawn_ids = runner_.drawn(step.slot);
  const int64_t waited_ns = steady_now_ns() - asked_ns;
  waited_ns_ += waited_ns;
  phase.leave_out(waited_ns);
  step.under_way = false;
  find_active(output);
  drop_stale(output);
  if (step.needs_host) {
    plan_jobs(output, step.drawn_idx);
    run_jobs();
  }
  finish_step(output, &step);
}

// The token that the device has drawn for a sequence, with its log-probabilities if wanted.
Status EngineLoop::take_drawn(const DeviceStep& step, int32_t drawn_idx,
                              const ActiveRequest& request, Sample& sample) {
  const auto idx = static_cast<size_t>(drawn_idx);
  const int32_t id = step.drawn_ids[idx];
  if (id == kBadLogits) return failed("the model computed logits that are no numbers");
  if (id == kNoTokenLeft) return failed("no token is left to choose from");
  sample.token_id = id;
  sample.logprobs.reset();
  if (request.sampling().logprobs) {
    sample.logprobs = token_logprobs(id, runner_.drawn_logprobs(step.slot)[idx]);
  }
  return {};
}

}  // namespace slipstream
