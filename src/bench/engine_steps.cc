#include "bench/engine_steps.h"

#include <time.h>

#include <algorithm>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/strings.h"
#include "bench/decode.h"
#include "bench/distribution.h"
#include "bench/host_time.h"
#include "slipstream/engine.h"

namespace slipstream {
namespace {

// Prompts differ in length by less than this, so that sequences do not all need their next KV
// block in the same step.
constexpr int64_t kLengthSpread = 16;

int64_t thread_cpu_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

struct StepMark {
  int64_t wall_ns = 0;
  int64_t cpu_ns = 0;  // of the engine's thread so far
  int64_t num_tokens = 0;
};

// The sink's side of a run: one mark a step, and the news of the last end.
class StepRecorder {
 public:
  explicit StepRecorder(int64_t num_seqs) : num_seqs_(num_seqs) {}

  // Before the first request.
  void watch(const Engine& engine) { engine_ = &engine; }

  // The first sink call of a run waits here until all requests are submitted: an early one must
  // not end before the last one runs.
  void record(std::span<const TokenEvent> events) {
    if (marks_.empty()) {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return !held_; });
    }
    StepMark mark;
    mark.cpu_ns = thread_cpu_ns();
    for (const TokenEvent& event : events) {
      mark.wall_ns = event.time_ns;
      if (event.token_id >= 0) ++mark.num_tokens;
    }
    marks_.push_back(mark);
    if (mark.num_tokens == num_seqs_ && !first_full_step_) first_full_step_ = engine_->stats();
    for (const TokenEvent& event : events) {
      if (event.finish == FinishReason::kNone) continue;
      const std::lock_guard lock(mutex_);
      if (event.finish != FinishReason::kLength) error_ = "a request failed: " + event.error;
      ++num_ended_;
      changed_.notify_all();
    }
  }

  void hold(bool held) {
    const std::lock_guard lock(mutex_);
    held_ = held;
    changed_.notify_all();
  }

  struct Run {
    std::vector<StepMark> marks;
    // As they were in the first step of all sequences, read by the engine's thread: another one
    // may come after the last step.
    std::optional<EngineStats> first_full_step;
  };
  // Waits for all ends; then the engine is idle and the run is the caller's.
  Result<Run> take() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return num_ended_ >= num_seqs_; });
    num_ended_ = 0;
    if (!error_.empty()) return failed(error_);
    return Run{std::exchange(marks_, {}), std::exchange(first_full_step_, {})};
  }

 private:
  const int64_t num_seqs_;
  const Engine* engine_ = nullptr;
  std::vector<StepMark> marks_;                 // the engine's thread, until the last end
  std::optional<EngineStats> first_full_step_;  // the same
  std::mutex mutex_;                            // guards the rest
  std::condition_variable changed_;
  bool held_ = false;
  int64_t num_ended_ = 0;
  std::string error_;
};

struct StepSamples {
  std::vector<double> step_us, cpu_us;

  void append(const StepSamples& other) {
    step_us.insert(step_us.end(), other.step_us.begin(), other.step_us.end());
    cpu_us.insert(cpu_us.end(), other.cpu_us.begin(), other.cpu_us.end());
  }
};

Request make_request(const EngineBenchOptions& options, int64_t vocab_size, int64_t seq_idx,
                     int repeat_idx) {
  Request request;
  const auto stream =
      static_cast<uint64_t>(repeat_idx) * 1'000'003u + static_cast<uint64_t>(seq_idx);
  request.prompt_token_ids = random_token_ids(options.input_len + seq_idx % kLengthSpread,
                                              vocab_size, options.seed + stream);
  request.sampling.temperature = 0.0f;
  request.sampling.max_tokens = options.output_len;
  request.sampling.ignore_eos = true;
  return request;
}

Result<StepSamples> run_repeat(Engine& engine, StepRecorder& recorder,
                               const EngineBenchOptions& options, int repeat_idx,
                               HostTime& host_time) {
  Status submitted;
  recorder.hold(true);
  for (int64_t seq_idx = 0; seq_idx < options.num_seqs && submitted.ok(); ++seq_idx) {
    submitted = engine.submit(make_request(options, engine.model().vocab_size, seq_idx, repeat_idx))
                    .status();
  }
  recorder.hold(false);
  SLIPSTREAM_RETURN_IF_ERROR(submitted);
  SLIPSTREAM_ASSIGN_OR_RETURN(const StepRecorder::Run run, recorder.take());
  if (run.first_full_step) host_time.add(*run.first_full_step, engine.stats());
  const std::vector<StepMark>& marks = run.marks;
  StepSamples samples;
  for (size_t i = 1; i < marks.size(); ++i) {
    // Steps of prompts and of the last answers are not what is measured.
    if (marks[i - 1].num_tokens != options.num_seqs || marks[i].num_tokens != options.num_seqs) {
      continue;
    }
    samples.step_us.push_back(static_cast<double>(marks[i].wall_ns - marks[i - 1].wall_ns) / 1e3);
    samples.cpu_us.push_back(static_cast<double>(marks[i].cpu_ns - marks[i - 1].cpu_ns) / 1e3);
  }
  if (samples.step_us.empty()) {
    return failed(str("no step had all ", options.num_seqs,
                      " sequences: raise --output-len or --max-num-batched-tokens"));
  }
  return samples;
}

void add_measured(const StepSamples& samples, const EngineBenchOptions& options, Json& record) {
  record["num_seqs"] = options.num_seqs;
  record["steps"] = samples.step_us.size();
  record["step_us"] = distribution_json(samples.step_us);
  record["cpu_us_per_step"] = distribution_json(samples.cpu_us);
  record["us_per_token"] = median(samples.step_us) / static_cast<double>(options.num_seqs);
}

}  // namespace

Result<Json> bench_engine(const EngineOptions& engine_options, const EngineBenchOptions& options,
                          RecordWriter& records) {
  EngineOptions chosen = engine_options;
  chosen.executor = "fake";
  chosen.fake_step_us = 0;
  chosen.max_num_seqs = static_cast<int32_t>(options.num_seqs);
  // Everyone decodes in one step, and prompts get in beside them.
  chosen.max_num_batched_tokens = std::max(chosen.max_num_batched_tokens, 2 * options.num_seqs);
  if (chosen.max_model_len == 0) {
    chosen.max_model_len = options.input_len + kLengthSpread + options.output_len;
  }
  StepRecorder recorder(options.num_seqs);
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine,
                              Engine::open(chosen, [&recorder](std::span<const TokenEvent> events) {
                                recorder.record(events);
                              }));
  recorder.watch(*engine);
  const ModelInfo& model = engine->model();
  RecordHead head;
  head.kind = "engine";
  head.config = Json{{"num_seqs", options.num_seqs},
                     {"input_len", options.input_len},
                     {"output_len", options.output_len},
                     {"seed", options.seed},
                     {"temperature", 0.0},
                     {"vocab_size", model.vocab_size},
                     {"text", engine->tokenizer() != nullptr},
                     {"enable_prefix_caching", chosen.enable_prefix_caching},
                     {"one_ahead", chosen.one_ahead},
                     {"num_threads", model.num_threads}};
  head.repeats = options.repeats;
  head.cores_used = model.num_threads;
  head.model = &model;

  HostTime host_time;
  SLIPSTREAM_RETURN_IF_ERROR(
      run_repeat(*engine, recorder, options, options.repeats, host_time).status());  // warms up
  host_time = HostTime();
  Json summary = begin_record(head);
  StepSamples all;
  for (int repeat_idx = 0; repeat_idx < options.repeats; ++repeat_idx) {
    Json record = begin_record(head);
    SLIPSTREAM_ASSIGN_OR_RETURN(const StepSamples samples,
                                run_repeat(*engine, recorder, options, repeat_idx, host_time));
    record["repeat"] = repeat_idx;
    add_measured(samples, options, record);
    SLIPSTREAM_RETURN_IF_ERROR(records.write(record));
    all.append(samples);
  }
  summary["summary"] = true;
  add_measured(all, options, summary);
  summary["host_us_per_step"] = host_time.us_per_step();
  SLIPSTREAM_RETURN_IF_ERROR(records.write(summary));
  return summary;
}

}  // namespace slipstream
