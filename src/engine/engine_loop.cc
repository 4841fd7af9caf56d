#include "engine/engine_loop.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <new>
#include <random>
#include <span>
#include <utility>

#include "base/check.h"
#include "base/clock.h"
#include "base/strings.h"

namespace slipstream {
namespace {

constexpr size_t kMaxSaltBytes = 1024;

uint64_t drawn_seed() {
  std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

SchedulerEvent submit_event(const ActiveRequest& request) {
  SchedulerEvent event;
  event.kind = SchedulerEvent::kSubmit;
  event.request = request.id();
  event.prompt_token_ids = request.prompt_token_ids();
  event.max_tokens = request.num_prompt_tokens() + request.max_new_tokens();
  event.cache_salt = request.cache_salt();
  event.deadline_ns = request.deadline_ns();
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
      seeds_(options.seed != 0 ? options.seed : drawn_seed()),
      state_({.max_num_seqs = options.max_num_seqs,
              .max_num_batched_tokens = runner.limits().max_num_batched_tokens,
              .max_logit_rows = runner.limits().max_logit_rows},
             runner.limits().num_blocks, runner.limits().block_size,
             {.enabled = options.enable_prefix_caching, .seed = drawn_seed()}),
      sample_states_(runner.num_sample_states()),
      samplers_(static_cast<size_t>(runner.pool().num_threads())),
      row_copies_(static_cast<size_t>(runner.pool().num_threads())),
      one_ahead_(options.one_ahead),
      resident_(runner.resident_decoder()) {
  stats_.kv_blocks_total = runner.limits().num_blocks;
  if (one_ahead_ && !runner.draws_on_device()) side_thread_.emplace();
  if (options.trace != nullptr) {
    lane_ = options.trace->add_lane("engine");
    if (side_thread_) side_lane_ = options.trace->add_lane("engine, planning ahead");
  }
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
  if (request.cache_salt.size() > kMaxSaltBytes) {
    return bad_usage(str("cache_salt has ", request.cache_salt.size(), " bytes; at most ",
                         kMaxSaltBytes, " are allowed"));
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
    args.seed = request.sampling.seed ? *request.sampling.seed
                                      : seeds_.next() >> 11;  // 53 bits: exact in every JSON
  }
  try {
    // Built outside the lock: stop strings and long prompts take time.
    auto active = std::make_unique<ActiveRequest>(std::move(request), args);
    const std::lock_guard lock(mutex_);
    mail_.submitted.push_back(std::move(active));
  } catch (const std::bad_alloc&) {
    const std::lock_guard lock(mutex_);
    --num_unfinished_;
    return failed(kOutOfMemory);
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
    mail_.measurements.push_back({.read_gb_s = &result});
  }
  wake_.notify_one();
  return future.get();
}

std::vector<PhaseTime> EngineLoop::latency_phases() {
  std::promise<std::vector<PhaseTime>> result;
  std::future<std::vector<PhaseTime>> future = result.get_future();
  {
    const std::lock_guard lock(mutex_);
    mail_.measurements.push_back({.phases = &result});
  }
  wake_.notify_one();
  return future.get();
}

// A run that is under way has the device, and tells of itself when it has ended: its end, which any
// mail brings about, is waited for.
void EngineLoop::answer_measurements(bool ends) {
  if (run_.under_way) return;
  for (const Measurement& measurement : measurements_) {
    if (measurement.read_gb_s != nullptr) {
      measurement.read_gb_s->set_value(ends ? 0.0 : runner_.measure_read_gb_s());
    } else {
      const bool measured = !ends && resident_ != nullptr;
      measurement.phases->set_value(measured ? resident_->phase_times() : std::vector<PhaseTime>());
    }
  }
  measurements_.clear();
}

void EngineLoop::run() noexcept {
  Mail mail;
  while (take_mail(mail)) {
    const int64_t began_ns = steady_now_ns();
    waited_ns_ = 0;
    add_events(mail);
    runner_.draws_on_device() ? device_step() : step();
    count_host_time(steady_now_ns() - began_ns - waited_ns_);
    answer_measurements(false);
  }
  add_events(mail);
  abort_everything();
  answer_measurements(true);
}

// Waits for mail when there is nothing to run. Nothing ever waits for its deadline alone: while a
// request is unfinished there are steps. False: the engine ends.
bool EngineLoop::take_mail(Mail& mail) {
  mail = Mail();
  std::unique_lock lock(mutex_);
  if (state_.idle() && scheduler_events_.empty() && !running_.under_way && !run_.under_way) {
    wake_.wait(lock, [this] { return stop_ || !mail_.empty(); });
  }
  std::swap(mail, mail_);
  return !stop_;
}

void EngineLoop::add_events(Mail& mail) {
  arrivals_ = !mail.submitted.empty();
  mail_came_ = !mail.empty();
  for (std::unique_ptr<ActiveRequest>& request : mail.submitted) {
    scheduler_events_.push_back(submit_event(*request));
    const RequestId id = request->id();
    requests_.emplace(id, std::move(request));
  }
  // After the submits: a cancel never overtakes the request it names.
  for (const RequestId id : mail.cancelled) {
    if (!alive(id)) continue;
    end_request(id, FinishReason::kAbort);
    SchedulerEvent event;
    event.kind = SchedulerEvent::kCancel;
    event.request = id;
    scheduler_events_.push_back(event);
  }
  measurements_.insert(measurements_.end(), mail.measurements.begin(), mail.measurements.end());
}

void EngineLoop::end_request(RequestId id, FinishReason reason, std::string error) {
  const auto found = requests_.find(id);
  events_.push_back(found->second->end(reason, std::move(error)));
  ended_.push_back(std::move(found->second));
  requests_.erase(found);
}

// The scheduler has dropped these by itself.
void EngineLoop::end_unscheduled(const SchedulerOutput& output) {
  for (const RequestId id : output.expired) {
    if (alive(id)) end_request(id, FinishReason::kDeadline);
  }
  for (const RequestId id : output.failed) {
    if (alive(id)) end_request(id, FinishReason::kError, kOutOfMemory);
  }
}

void EngineLoop::plan(StepPlan& plan, TraceLane* lane) {
  {
    HostPhase phase(host_ns_.schedule, lane, "schedule");
    plan.output = schedule(state_, scheduler_events_, steady_now_ns(), std::move(plan.output));
    scheduler_events_.clear();
    num_preempted_ += plan.output.num_preempted;
  }
  HostPhase phase(host_ns_.batch, lane, "batch");
  build_batch(plan.output, state_.blocks().block_size(), plan.batch);
}

// False when some of the planned requests have ended.
bool EngineLoop::find_active(const SchedulerOutput& output) {
  active_.clear();
  bool all_alive = true;
  for (const ScheduledSequence& scheduled : output.scheduled) {
    const auto found = requests_.find(scheduled.request());
    active_.push_back(found == requests_.end() ? nullptr : found->second.get());
    all_alive = all_alive && active_.back() != nullptr;
  }
  return all_alive;
}

// Makes current_ a step that can run: what was planned ahead, less what has ended since, or else a
// new plan that knows every result.
void EngineLoop::make_ready() {
  for (const RequestId id : state_.overdue(steady_now_ns())) {
    if (alive(id)) end_request(id, FinishReason::kDeadline);
  }
  if (arrivals_ && !current_.output.scheduled.empty()) {
    // Nobody who comes while a step runs waits for the whole of the one planned after it.
    withdraw(state_, current_.output);
    current_.output.clear();
  }
  if (!find_active(current_.output)) {
    keep_requests(current_, [this](RequestId id) { return alive(id); });
    find_active(current_.output);
  }
  fill_pending(current_, [this](size_t seq_idx) { return active_[seq_idx]->last_token_id(); });
  if (!current_.output.scheduled.empty()) return;
  plan(current_, lane_);
  end_unscheduled(current_.output);
  ended_.clear();
  find_active(current_.output);
}

void EngineLoop::step() {
  make_ready();
  if (!current_.output.scheduled.empty()) run_planned();
  SLIPSTREAM_CHECK(!state_.idle() || state_.blocks().num_used() == 0,
                   "no block is in use without a request");
  publish(current_.output);
  std::swap(current_, next_);
  next_.output.clear();
}

void EngineLoop::run_planned() {
  TraceRange step_range(lane_, "step");
  step_range.arg("sequences", std::ssize(active_));
  const int64_t now_ns = steady_now_ns();
  for (size_t seq_idx = 0; seq_idx < active_.size(); ++seq_idx) {
    active_[seq_idx]->step_begins(now_ns, current_.output.scheduled[seq_idx].num_cached_tokens);
  }
  {
    const std::lock_guard lock(mutex_);
    stats_.step_started_ns = now_ns;
    stats_.step_num_tokens = current_.batch.num_tokens();
  }
  if (side_thread_) side_thread_->start([this] { plan(next_, side_lane_); });
  forward(current_);
  if (side_thread_) side_thread_->wait();
  {
    HostPhase phase(host_ns_.collect, lane_, "collect");
    drop_stale(current_.output);
    plan_jobs(current_.output, {});
    run_jobs();
    finish_step(current_.output, nullptr);
  }
  end_unscheduled(next_.output);
  if (side_thread_) ended_.clear();
}

void EngineLoop::forward(const StepPlan& plan) {
  HostPhase phase(host_ns_.forward, lane_, "forward");
  phase.arg("tokens", plan.batch.num_tokens());
  const int64_t asked_ns = steady_now_ns();
  (void)runner_.forward(plan.batch);
  {
    const std::lock_guard lock(mutex_);
    stats_.executor_in_use = runner_.executor_in_use();
  }
  if (runner_.draws_on_device()) return;
  const int64_t computed_ns = steady_now_ns() - asked_ns;
  waited_ns_ += computed_ns;
  phase.leave_out(computed_ns);
}

// Nothing is to be done for sequences that ended or were preempted while the step ran.
void EngineLoop::drop_stale(const SchedulerOutput& output) {
  for (size_t seq_idx = 0; seq_idx < active_.size(); ++seq_idx) {
    if (!state_.current(output.scheduled[seq_idx].handle)) active_[seq_idx] = nullptr;
  }
}

// `drawn`: the step whose device has drawn tokens; null: there are jobs alone.
void EngineLoop::finish_step(const SchedulerOutput& output, const DeviceStep* drawn) {
  TraceRange range(lane_, "finish");
  size_t job_idx = 0;
  Sample drawn_sample;
  for (size_t seq_idx = 0; seq_idx < active_.size(); ++seq_idx) {
    if (active_[seq_idx] == nullptr) continue;
    ActiveRequest& request = *active_[seq_idx];
    Sample* sample = nullptr;
    Status status = take_job_results(seq_idx, job_idx, sample);
    const int32_t drawn_idx = drawn == nullptr ? -1 : drawn->drawn_idx[seq_idx];
    if (drawn_idx >= 0) {
      sample = &drawn_sample;
      if (status.ok()) status = take_drawn(*drawn, drawn_idx, request, drawn_sample);
    }
    finish_sequence(output.scheduled[seq_idx], request, sample, std::move(status));
  }
  SLIPSTREAM_CHECK(job_idx == jobs_.size(), "every job belongs to a sequence");
  jobs_.clear();
}

Status EngineLoop::accept(ActiveRequest& request, Sample& sample, SchedulerEvent& done) {
  const size_t num_events = events_.size();
  try {
    TokenEvent& event = events_.emplace_back();
    request.accept(std::move(sample), event);
    done.token_id = event.token_id;
    done.finished = event.finish != FinishReason::kNone;
    return {};
  } catch (const std::bad_alloc&) {
    events_.resize(num_events);
    return failed(kOutOfMemory);
  }
}

void EngineLoop::finish_sequence(const ScheduledSequence& scheduled, ActiveRequest& request,
                                 Sample* sample, Status status) {
  SchedulerEvent& done = scheduler_events_.emplace_back();
  done.kind = SchedulerEvent::kStepDone;
  done.handle = scheduled.handle;
  done.num_tokens = scheduled.num_tokens;
  if (status.ok() && sample != nullptr) status = accept(request, *sample, done);
  if (!status.ok()) {
    done.finished = true;
    done.in_doubt = true;
    end_request(request.id(), FinishReason::kError, status.message());
  } else if (done.finished) {
    requests_.erase(request.id());
  } else if (sample == nullptr && scheduled.samples) {
    SLIPSTREAM_CHECK(request.max_new_tokens() == 0, "who samples has a token");
    done.finished = true;  // the prompt was all there is to compute
    end_request(request.id(), FinishReason::kLength);
  }
}

// Gives the step's events to the sink, and its counts to whoever asks.
void EngineLoop::publish(const SchedulerOutput& output) {
  count(output);
  if (events_.empty()) return;
  HostPhase phase(host_ns_.sink, lane_, "sink");
  phase.arg("events", std::ssize(events_));
  if (sink_) sink_(events_);
  events_.clear();
}

void EngineLoop::count(const SchedulerOutput& output) {
  HostPhase phase(host_ns_.emit, lane_, "emit");
  phase.arg("events", std::ssize(events_));
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
    const int64_t end = scheduled.begin + scheduled.num_tokens;
    num_prompt_tokens +=
        std::max<int64_t>(std::min(end, scheduled.num_prompt_tokens) - scheduled.begin, 0);
  }
  {
    const std::lock_guard lock(mutex_);
    num_unfinished_ -= num_ended;
    // A request that has just ended may still be in the scheduler's queue.
    stats_.num_waiting = std::min<int64_t>(state_.num_waiting(), std::ssize(requests_));
    stats_.num_running = std::ssize(requests_) - stats_.num_waiting;
    stats_.num_finished += num_ended;
    stats_.num_preemptions += std::exchange(num_preempted_, 0);
    if (output.num_tokens > 0) {
      ++stats_.num_steps;
      const auto bucket = std::bit_width(static_cast<uint64_t>(output.num_tokens - 1));
      const auto last = std::ssize(stats_.step_tokens_histogram) - 1;
      ++stats_.step_tokens_histogram[static_cast<size_t>(std::min<int64_t>(bucket, last))];
    }
    stats_.step_started_ns = 0;
    stats_.step_num_tokens = 0;
    stats_.num_prompt_tokens += num_prompt_tokens;
    stats_.num_generated_tokens += num_generated;
    stats_.kv_blocks_used = state_.blocks().num_used();
    stats_.kv_blocks_cached = state_.blocks().num_cached();
    stats_.prefix_cache_queries = state_.num_cache_queries();
    stats_.prefix_cache_hits = state_.num_cache_hits();
    stats_.step_host_ns = host_ns_;
  }
}

// What the engine's thread has done for a step; none of it counts when there was no step.
void EngineLoop::count_host_time(int64_t host_ns) {
  if (waited_ns_ == 0) return;
  const double octaves = std::log2(std::max(1.0, static_cast<double>(host_ns) * 1e-3));
  const std::lock_guard lock(mutex_);
  const auto last = static_cast<double>(std::ssize(stats_.step_host_us_histogram) - 1);
  const double bucket = std::min(std::ceil(4.0 * octaves), last);
  ++stats_.step_host_us_histogram[static_cast<size_t>(bucket)];
  stats_.device_busy_ns = runner_.device_busy_ns() + run_busy_ns_;
}

void EngineLoop::abort_everything() {
  if (running_.under_way)
    (void)runner_.drawn(running_.slot);  // what the device reads is freed soon
  if (run_.under_way) end_run_now();
  std::vector<RequestId> ids;
  for (const auto& [id, request] : requests_) ids.push_back(id);
  std::sort(ids.begin(), ids.end());
  for (const RequestId id : ids) end_request(id, FinishReason::kAbort);
  publish(SchedulerOutput());
}

}  // namespace slipstream
