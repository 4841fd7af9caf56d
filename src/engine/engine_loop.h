// EngineLoop: the thread that runs steps. It alone touches the active requests and the device;
// other threads leave messages in a mailbox.
//
// A step where the host computes: take the mail, drop from the planned step what has ended since,
// forward, sample, give every event of the step to the sink. With one_ahead the next step is
// planned on a side thread while this one's forward runs; the scheduler's state belongs to that
// thread from start to wait, and to the engine thread otherwise.
//
// A step where a device computes and draws the tokens itself (device_steps.cc): with one_ahead the
// next step is planned and handed over while this one runs, its tokens taken from where the device
// has drawn them, and this one's results are looked at afterwards; the device never waits for the
// host. What the next step computes for a request that turns out to have ended is ignored.
//
// A request that is alone on a device with a resident decoder is left to it (lone_run.cc).
//
// Either way the result of a step reaches the scheduler when the step after the next is planned
// (without one_ahead: the next), as an event like any other.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "base/flat_map.h"
#include "base/random.h"
#include "base/status.h"
#include "base/trace.h"
#include "engine/active_request.h"
#include "engine/host_phase.h"
#include "engine/model_runner.h"
#include "engine/resident_decoder.h"
#include "engine/scheduler.h"
#include "engine/side_thread.h"
#include "engine/step_batch.h"
#include "sampling/sampler.h"
#include "sampling/sampling_params.h"
#include "slipstream/engine.h"

namespace slipstream {

class EngineLoop {
 public:
  // `runner` must outlive the loop. Starts the thread.
  EngineLoop(const EngineOptions& options, ModelRunner& runner, EventSink sink);
  // Ends after the step in flight; whatever is unfinished gets an abort event.
  ~EngineLoop();
  EngineLoop(const EngineLoop&) = delete;
  EngineLoop& operator=(const EngineLoop&) = delete;

  // From any thread.
  Result<RequestId> submit(Request request);
  void cancel(RequestId id);
  EngineStats stats() const;
  double measure_read_gb_s();
  std::vector<PhaseTime> latency_phases();

 private:
  static constexpr char kOutOfMemory[] = "memory ran out while the request was worked on";

  // Something that a caller waits for: one of the two.
  struct Measurement {
    std::promise<double>* read_gb_s = nullptr;
    std::promise<std::vector<PhaseTime>>* phases = nullptr;
  };
  struct Mail {
    std::vector<std::unique_ptr<ActiveRequest>> submitted;
    std::vector<RequestId> cancelled;
    std::vector<Measurement> measurements;
    bool empty() const { return submitted.empty() && cancelled.empty() && measurements.empty(); }
  };
  // A row of logits and what the host is to do with it.
  struct RowJob {
    int64_t row = 0;
    int64_t position = 0;
    ActiveRequest* request = nullptr;
    size_t seq_idx = 0;                        // its place in the step
    TokenLogprobs* prompt_logprobs = nullptr;  // null: sample the next token
    int32_t target_id = 0;                     // the prompt token at position + 1
    Sample sample;
    Status status;
  };
  // A step that a device has, or is about to get.
  struct DeviceStep {
    StepPlan plan;
    // Of each sequence: its place among the ids the device draws; -1: none is drawn for it.
    std::vector<int32_t> drawn_idx;
    std::span<const int32_t> drawn_ids;  // once they are known
    bool needs_host = false;             // some token or log-probability is made there
    int slot = 0;
    bool under_way = false;
  };
  // Tokens that the resident decoder computes for one request. running_ is the step that the next
  // of them is the result of.
  struct LoneRun {
    RequestId request = 0;
    int64_t position = 0;   // of the token that it began with
    int64_t num_taken = 0;  // of its tokens
    int64_t last_token_ns = 0;
    bool stopping = false;   // no longer than it must
    bool leaving = false;    // nothing more is taken; the planned step waits for the device
    bool continues = false;  // with leaving: another run could follow
    bool under_way = false;
  };

  // Checks what the parameters alone do not show; gives the length of the answer.
  Result<int64_t> check_request(const Request& request) const;

  void run() noexcept;
  bool take_mail(Mail& mail);
  void add_events(Mail& mail);
  void answer_measurements(bool ends);
  void step();
  void plan(StepPlan& plan, TraceLane* lane);
  bool find_active(const SchedulerOutput& output);
  void make_ready();
  void run_planned();
  void forward(const StepPlan& plan);

  void device_step();
  bool may_run_alone();
  void begin_run();
  void plan_next();
  void launch_running();
  bool start_run();
  void run_step();
  void take_run_token(int32_t token_id);
  void leave_run(bool continues, bool is_used_up);
  void stop_run();
  void finish_run();
  void give_up_run();
  void end_run_now();
  bool wait_for_end(int64_t until_ns);
  void abort_run();
  void drop_resident(const std::string& why);
  void launch(DeviceStep& step);
  void take_pending(ForwardBatch& batch) const;
  void draw(DeviceStep& step);
  std::optional<SampleRow> device_row(const ScheduledSequence& sequence, ActiveRequest& request);
  bool have_state(const ScheduledSequence& sequence, ActiveRequest& request, SampleRow& row);
  void collect(DeviceStep& step);
  bool alive(RequestId id) const { return requests_.contains(id); }
  void end_request(RequestId id, FinishReason reason, std::string error = {});
  bool end_overdue();
  void end_unscheduled(const SchedulerOutput& output);
  void drop_stale(const SchedulerOutput& output);
  void plan_jobs(const SchedulerOutput& output, std::span<const int32_t> drawn_idx);
  void run_jobs();
  void run_job(RowJob& job, Sampler& sampler, std::span<float> row);
  void finish_step(const SchedulerOutput& output, const DeviceStep* drawn);
  Status take_job_results(size_t seq_idx, size_t& job_idx, Sample*& sample);
  Status take_drawn(const DeviceStep& step, int32_t drawn_idx, const ActiveRequest& request,
                    Sample& sample);
  void finish_sequence(const ScheduledSequence& scheduled, ActiveRequest& request, Sample* sample,
                       Status status);
  Status accept(ActiveRequest& request, Sample& sample, SchedulerEvent& done);
  void publish(const SchedulerOutput& output);
  void count(const SchedulerOutput& output);
  void count_host_time(int64_t host_ns);
  void abort_everything();

  // Set in the constructor.
  const SamplingLimits sampling_limits_;
  const int64_t max_unfinished_;
  ModelRunner& runner_;
  const EventSink sink_;
  TraceLane* lane_ = nullptr;       // the engine thread's; null: nobody traces
  TraceLane* side_lane_ = nullptr;  // the side thread's

  mutable std::mutex mutex_;  // guards the next six
  std::condition_variable wake_;
  Mail mail_;
  bool stop_ = false;
  RequestId next_id_ = 1;
  int64_t num_unfinished_ = 0;
  SplitMix64 seeds_;
  EngineStats stats_;

  // Of the engine thread; between start and wait, the first four of the side thread.
  SchedulerState state_;
  std::vector<SchedulerEvent> scheduler_events_;  // for the next schedule()
  StepPlan next_;                                 // planned while current_ runs
  int64_t num_preempted_ = 0;                     // not yet in stats_
  StepPlan current_;
  // Of current_.output.scheduled, looked up once a step; null: ended, or its result is ignored.
  std::vector<ActiveRequest*> active_;
  bool arrivals_ = false;          // since current_ was planned
  bool mail_came_ = false;         // of any kind, in this turn of the loop
  SampleStatePool sample_states_;  // before the requests, which hold them
  FlatMap<RequestId, std::unique_ptr<ActiveRequest>> requests_;
  // Until the events that borrow their prompts have been read.
  std::vector<std::unique_ptr<ActiveRequest>> ended_;
  std::vector<Sampler> samplers_;               // one per thread of the pool
  std::vector<std::vector<float>> row_copies_;  // the same: rows of a device's logits
  std::vector<RowJob> jobs_;
  std::vector<TokenEvent> events_;         // of this step
  int64_t waited_ns_ = 0;                  // for the computation, in this turn of the loop
  StepHostNs host_ns_;                     // where a side thread plans, plan() is its
  std::optional<SideThread> side_thread_;  // with one_ahead, where the host computes

  // Of a device that draws.
  const bool one_ahead_;
  DeviceStep running_;   // the results of which are to come
  DeviceStep launched_;  // after it
  std::vector<SampleRow> sample_rows_;
  ResidentDecoder* resident_;  // null: none, or none that works
  LoneRun run_;
  int num_alone_steps_ = 0;                // in a row, of one request
  int64_t run_busy_ns_ = 0;                // that runs have taken
  std::vector<Measurement> measurements_;  // asked for, and made when no run is under way

  std::thread thread_;  // last: it uses all of the above
};

}  // namespace slipstream
