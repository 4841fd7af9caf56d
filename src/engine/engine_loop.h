// EngineLoop: the thread that runs steps. It alone touches the scheduler's state, the active
// requests and the device; other threads leave messages in a mailbox.
//
// A step: take the mail, schedule, forward, sample, give every event of the step to the sink. The
// result of a step reaches the scheduler at the start of the next, as an event like any other.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/random.h"
#include "base/status.h"
#include "engine/active_request.h"
#include "engine/model_runner.h"
#include "engine/scheduler.h"
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

 private:
  struct Measurement {
    std::promise<double>* result = nullptr;  // of a caller that waits
  };
  struct Mail {
    std::vector<std::unique_ptr<ActiveRequest>> submitted;
    std::vector<RequestId> cancelled;
    std::vector<Measurement> measurements;
    bool empty() const { return submitted.empty() && cancelled.empty() && measurements.empty(); }
  };
  // A row of logits and what is wanted of it.
  struct RowJob {
    int64_t row = 0;
    int64_t position = 0;
    ActiveRequest* request = nullptr;
    TokenLogprobs* prompt_logprobs = nullptr;  // null: sample the next token
    int32_t target_id = 0;                     // the prompt token at position + 1
    Sample sample;
    Status status;
  };

  // Checks what the parameters alone do not show; gives the length of the answer.
  Result<int64_t> check_request(const Request& request) const;

  void run() noexcept;
  bool take_mail(Mail& mail);
  void add_events(Mail& mail);
  void step();
  void plan_jobs(const SchedulerOutput& output);
  void run_jobs(const TensorView& logits);
  void finish_step(const SchedulerOutput& output);
  void finish_sequence(const ScheduledSequence& scheduled, size_t& job_idx);
  void emit(TokenEvent event);
  void publish(const SchedulerOutput& output);
  void abort_everything();

  // Set in the constructor.
  const SamplingLimits sampling_limits_;
  const int64_t max_unfinished_;
  ModelRunner& runner_;
  const EventSink sink_;

  mutable std::mutex mutex_;  // guards the next six
  std::condition_variable wake_;
  Mail mail_;
  bool stop_ = false;
  RequestId next_id_ = 1;
  int64_t num_unfinished_ = 0;
  SplitMix64 seeds_;
  EngineStats stats_;

  // Of the engine thread.
  SchedulerState state_;
  std::map<RequestId, std::unique_ptr<ActiveRequest>> requests_;
  std::vector<SchedulerEvent> scheduler_events_;  // for the next schedule()
  ForwardBatch batch_;
  std::vector<Sampler> samplers_;  // one per thread of the pool
  std::vector<RowJob> jobs_;
  std::vector<TokenEvent> events_;  // of this step

  std::thread thread_;  // last: it uses all of the above
};

}  // namespace slipstream
