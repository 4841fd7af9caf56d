#include "engine/engine_loop.h"

#include <algorithm>
#include <random>
#include <span>
#include <utility>

#include "base/check.h"
#include "base/clock.h"
#include "base/strings.h"
#include "engine/step_batch.h"

namespace slipstream {
namespace {

uint64_t first_seed(uint64_t seed) {
  if (seed != 0) return seed;
  std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

std::span<float> row_of(const TensorView& logits, int64_t row) {
  return {logits.f32_row(row), static_cast<size_t>(logits.dim(1))};
}

SchedulerEvent submit_event(const ActiveRequest& request) {
  SchedulerEvent event;
  event.kind = SchedulerEvent::kSubmit;
  event.request = request.id();
  event.prompt_token_ids = request.prompt_token_ids();
  event.max_tokens = request.num_prompt_tokens() + request.max_new_tokens();
  event.priority = request.priority();
  event.wants_prompt_logits = request.wants_prompt_logprobs();
  return event;
}

}  // namespace

EngineLoop::EngineLoop(const EngineOptions& options, ModelRunner& runner, EventSink sink)
    : sampling_limits_{.vocab_size = runner.info().vocab_size,
                       .max_logprobs = options.max_logprobs,
                       .has_tokenizer = runner.tokenizer() != nullptr},
      max_unfinished_(options.max_queued_requests + options.max_num_seqs),
      runner_(runner),
      sink_(std::move(sink)),
      seeds_(first_seed(options.seed)),
      state_({.max_num_seqs = options.max_num_seqs,
              .max_num_batched_tokens = runner.limits().max_num_batched_tokens,
              .max_logit_rows = runner.limits().max_logit_rows},
             runner.limits().num_blocks, runner.limits().block_size),
      samplers_(static_cast<size_t>(runner.pool().num_threads())) {
  stats_.kv_blocks_total = runner.limits().num_blocks;
  thread_ = std::thread([this] { run(); });
}

EngineLoop::~EngineLoop() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

Result<int64_t> EngineLoop::check_request(const Request& request) const {
  const auto num_prompt_tokens = std::ssize(request.prompt_token_ids);
  const int64_t max_len = runner_.limits().max_model_len;
  if (num_prompt_tokens == 0) return bad_usage("the prompt has no tokens");
  if (request.priority < -kMaxPriority || request.priority > kMaxPriority) {
    return bad_usage(str("priority is ", request.priority, "; it must be between ", -kMaxPriority,
                         " and ", kMaxPriority));
  }
  SLIPSTREAM_RETURN_IF_ERROR(validate_sampling_params(request.sampling, sampling_limits_));
  for (const int32_t id : request.prompt_token_ids) {
    if (id < 0 || id >= sampling_limits_.vocab_size) {
      return bad_usage(str("the prompt has token id ", id, "; the model has ids 0 to ",
                           sampling_limits_.vocab_size - 1));
    }
  }
  const int64_t room = max_len - num_prompt_tokens;
  const int64_t max_new_tokens = request.sampling.max_tokens.value_or(room);
  if (room < 0 || max_new_tokens > room || (max_new_tokens == 0 && !request.sampling.max_tokens)) {
    const std::string asked = request.sampling.max_tokens
                                  ? str(" and max_tokens asks for ", max_new_tokens)
                                  : std::string();
    return bad_usage(str("the context holds ", max_len, " tokens; the prompt has ",
                         num_prompt_tokens, asked, ": shorten the prompt",
                         asked.empty() ? "" : ", lower max_tokens", " or raise max_model_len"));
  }
  if (request.sampling.min_tokens > max_new_tokens) {
    return bad_usage(str("min_tokens is ", request.sampling.min_tokens,
                         "; the context has room for ", max_new_tokens));
  }
  return max_new_tokens;
}

Result<RequestId> EngineLoop::submit(Request request) {
  SLIPSTREAM_ASSIGN_OR_RETURN(const int64_t max_new_tokens, check_request(request));
  ActiveRequestArgs args;
  args.max_new_tokens = max_new_tokens;
  args.tokenizer = runner_.tokenizer().get();
  args.eos_token_ids = &runner_.eos_token_ids();
  {
    const std::lock_guard lock(mutex_);
    if (num_unfinished_ >= max_unfinished_) {
      return failed(str("the queue is full: ", num_unfinished_, " requests are unfinished"));
    }
    ++num_unfinished_;
    args.id = next_id_++;
    args.seed = request.sampling.seed ? *request.sampling.seed : seeds_.next();
  }
  // Built outside the lock: stop strings and long prompts take time.
  auto active = std::make_unique<ActiveRequest>(std::move(request), args);
  {
    const std::lock_guard lock(mutex_);
    mail_.submitted.push_back(std::move(active));
  }
  wake_.notify_one();
  return args.id;
}

void EngineLoop::cancel(RequestId id) {
  {
    const std::lock_guard lock(mutex_);
    mail_.cancelled.push_back(id);
  }
  wake_.notify_one();
}

EngineStats EngineLoop::stats() const {
  const std::lock_guard lock(mutex_);
  EngineStats stats = stats_;
  stats.num_waiting += std::ssize(mail_.submitted);
  return stats;
}

double EngineLoop::measure_read_gb_s() {
  std::promise<double> result;
  std::future<double> future = result.get_future();
  {
    const std::lock_guard lock(mutex_);
    mail_.measurements.push_back({&result});
  }
  wake_.notify_one();
  return future.get();
}

void EngineLoop::run() noexcept {
  Mail mail;
  while (take_mail(mail)) {
    add_events(mail);
    step();
    for (const Measurement& measurement : mail.measurements) {
      measurement.result->set_value(runner_.measure_read_gb_s());
    }
  }
  for (std::unique_ptr<ActiveRequest>& request : mail.submitted) {
    requests_.emplace(request->id(), std::move(request));
  }
  for (const Measurement& measurement : mail.measurements) measurement.result->set_value(0.0);
  abort_everything();
}

// Waits for mail when there is nothing to run. False: the engine ends.
bool EngineLoop::take_mail(Mail& mail) {
  mail = Mail();
  std::unique_lock lock(mutex_);
  if (state_.idle() && scheduler_events_.empty()) {
    wake_.wait(lock, [this] { return stop_ || !mail_.empty(); });
  }
  std::swap(mail, mail_);
  return !stop_;
}

void EngineLoop::add_events(Mail& mail) {
  for (std::unique_ptr<ActiveRequest>& request : mail.submitted) {
    scheduler_events_.push_back(submit_event(*request));
    const RequestId id = request->id();
    requests_.emplace(id, std::move(request));
  }
  // After the submits: a cancel never overtakes the request it names.
  for (const RequestId id : mail.cancelled) {
    SchedulerEvent event;
    event.kind = SchedulerEvent::kCancel;
    event.request = id;
    scheduler_events_.push_back(event);
  }
}

void EngineLoop::step() {
  const SchedulerOutput output = schedule(state_, scheduler_events_, steady_now_ns());
  scheduler_events_.clear();
  for (const RequestId id : output.cancelled) {
    emit(requests_.at(id)->end(FinishReason::kAbort, {}));
    requests_.erase(id);
  }
  if (!output.scheduled.empty()) {
    build_batch(output, state_.blocks().block_size(), batch_);
    const TensorView logits = runner_.forward(batch_);
    plan_jobs(output);
    run_jobs(logits);
    finish_step(output);
  }
  SLIPSTREAM_CHECK(!state_.idle() || state_.blocks().num_used() == 0,
                   "no block is in use without a request");
  publish(output);
}

// One job per row of logits, in the order of the batch.
void EngineLoop::plan_jobs(const SchedulerOutput& output) {
  jobs_.clear();
  int64_t row = 0;
  for (const ScheduledSequence& scheduled : output.scheduled) {
    const Sequence& sequence = *scheduled.sequence;
    ActiveRequest& request = *requests_.at(sequence.request);
    for (int64_t i = 0; i < scheduled.num_logit_rows; ++i) {
      RowJob job;
      job.row = row++;
      // Rows are those of the prompt from `begin` on, or the last token's alone.
      job.position = scheduled.begin + i;
      const bool in_prompt =
          sequence.wants_prompt_logits && job.position + 1 < sequence.num_prompt_tokens;
      job.request = &request;
      if (in_prompt) {
        job.prompt_logprobs = request.missing_prompt_logprobs(job.position + 1);
        job.target_id = sequence.token_ids[static_cast<size_t>(job.position + 1)];
        if (job.prompt_logprobs == nullptr) continue;
      } else if (scheduled.samples() && i + 1 == scheduled.num_logit_rows) {
        job.position = sequence.num_tokens() - 1;
        if (request.max_new_tokens() == 0) continue;
      } else {
        continue;  // the prompt's last row, when a preempted answer is computed again
      }
      jobs_.push_back(std::move(job));
    }
  }
}

void EngineLoop::run_jobs(const TensorView& logits) {
  runner_.pool().run(std::ssize(jobs_), [&](int64_t job_idx, int thread_idx) {
    RowJob& job = jobs_[static_cast<size_t>(job_idx)];
    Sampler& sampler = samplers_[static_cast<size_t>(thread_idx)];
    const std::span<float> row = row_of(logits, job.row);
    if (job.prompt_logprobs != nullptr) {
      const int32_t num_top = *job.request->sampling().prompt_logprobs;
      auto logprobs = sampler.logprobs(row, job.target_id, num_top);
      job.status = logprobs.status();
      if (logprobs.ok()) *job.prompt_logprobs = std::move(logprobs).value();
    } else {
      auto sample = sampler.sample(row, job.request->sample_request(job.position + 1));
      job.status = sample.status();
      if (sample.ok()) job.sample = std::move(sample).value();
    }
  });
}

void EngineLoop::finish_step(const SchedulerOutput& output) {
  size_t job_idx = 0;
  for (const ScheduledSequence& scheduled : output.scheduled) finish_sequence(scheduled, job_idx);
  SLIPSTREAM_CHECK(job_idx == jobs_.size(), "every job belongs to a sequence");
}

void EngineLoop::finish_sequence(const ScheduledSequence& scheduled, size_t& job_idx) {
  ActiveRequest& request = *requests_.at(scheduled.sequence->request);
  SchedulerEvent done;
  done.kind = SchedulerEvent::kStepDone;
  done.handle = scheduled.sequence->handle();
  Status status;
  Sample* sample = nullptr;
  for (; job_idx < jobs_.size() && jobs_[job_idx].request == &request; ++job_idx) {
    RowJob& job = jobs_[job_idx];
    if (status.ok()) status = job.status;
    if (job.prompt_logprobs == nullptr) sample = &job.sample;
  }
  if (!status.ok()) {
    emit(request.end(FinishReason::kError, status.message()));
    done.finished = true;
  } else if (sample != nullptr) {
    TokenEvent event = request.accept(std::move(*sample));
    done.token_id = event.token_id;
    done.finished = event.finish != FinishReason::kNone;
    emit(std::move(event));
  } else if (scheduled.samples()) {
    emit(request.end(FinishReason::kLength, {}));  // the prompt was all there is to compute
    done.finished = true;
  }
  scheduler_events_.push_back(done);
  if (done.finished) requests_.erase(scheduled.sequence->request);
}

void EngineLoop::emit(TokenEvent event) { events_.push_back(std::move(event)); }

// Gives the step's events to the sink, and its counts to whoever asks.
void EngineLoop::publish(const SchedulerOutput& output) {
  const int64_t ended_ns = steady_now_ns();
  int64_t num_ended = 0;
  int64_t num_generated = 0;
  int64_t num_prompt_tokens = 0;
  for (TokenEvent& event : events_) {
    event.time_ns = ended_ns;
    if (event.finish != FinishReason::kNone) ++num_ended;
    if (event.token_id >= 0) ++num_generated;
  }
  for (const ScheduledSequence& scheduled : output.scheduled) {
    if (scheduled.begin < scheduled.sequence->num_prompt_tokens) {
      num_prompt_tokens +=
          std::min(scheduled.begin + scheduled.num_tokens, scheduled.sequence->num_prompt_tokens) -
          scheduled.begin;
    }
  }
  {
    const std::lock_guard lock(mutex_);
    num_unfinished_ -= num_ended;
    stats_.num_waiting = state_.num_waiting();
    stats_.num_running = std::ssize(requests_) - state_.num_waiting();
    stats_.num_finished += num_ended;
    stats_.num_preemptions += output.num_preempted;
    stats_.num_steps += output.scheduled.empty() ? 0 : 1;
    stats_.num_prompt_tokens += num_prompt_tokens;
    stats_.num_generated_tokens += num_generated;
    stats_.kv_blocks_used = state_.blocks().num_used();
  }
  if (!events_.empty() && sink_) sink_(events_);
  events_.clear();
}

void EngineLoop::abort_everything() {
  for (const auto& [id, request] : requests_) emit(request->end(FinishReason::kAbort, {}));
  requests_.clear();
  publish(SchedulerOutput());
}

}  // namespace slipstream
