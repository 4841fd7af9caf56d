// Rows of logits that the host looks at, in EngineLoop's steps: see engine_loop.h.
#include <algorithm>
#include <new>
#include <utility>

#include "engine/engine_loop.h"

namespace slipstream {

// One job per row of logits that the host has to look at, in the order of the batch. `drawn_idx` of
// a sequence >= 0: its token is drawn.
void EngineLoop::plan_jobs(const SchedulerOutput& output, std::span<const int32_t> drawn_idx) {
  int64_t row = 0;
  for (size_t seq_idx = 0; seq_idx < active_.size(); ++seq_idx) {
    const ScheduledSequence& scheduled = output.scheduled[seq_idx];
    const int64_t first_row = row;
    row += scheduled.num_logit_rows;
    if (active_[seq_idx] == nullptr) continue;
    ActiveRequest& request = *active_[seq_idx];
    for (int64_t i = 0; i < scheduled.num_logit_rows; ++i) {
      RowJob job;
      job.row = first_row + i;
      // Rows are those of the prompt from `begin` on, or the last token's alone.
      job.position = scheduled.begin + i;
      const bool in_prompt =
          scheduled.wants_prompt_logits && job.position + 1 < scheduled.num_prompt_tokens;
      job.request = &request;
      job.seq_idx = seq_idx;
      if (in_prompt) {
        job.prompt_logprobs = request.missing_prompt_logprobs(job.position + 1);
        job.target_id = request.prompt_token_ids()[static_cast<size_t>(job.position + 1)];
        if (job.prompt_logprobs == nullptr) continue;
      } else if (scheduled.samples && i + 1 == scheduled.num_logit_rows) {
        job.position = scheduled.begin + scheduled.num_tokens - 1;
        const bool is_drawn = !drawn_idx.empty() && drawn_idx[seq_idx] >= 0;
        if (is_drawn || request.max_new_tokens() == 0) continue;
      } else {
        continue;  // the prompt's last row, when a preempted answer is computed again
      }
      jobs_.push_back(std::move(job));
    }
  }
}

void EngineLoop::run_job(RowJob& job, Sampler& sampler, std::span<float> row) {
  try {
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
  } catch (const std::bad_alloc&) {
    job.status = failed(kOutOfMemory);
  }
}

void EngineLoop::run_jobs() {
  TraceRange range(lane_, "sample");
  range.arg("rows", std::ssize(jobs_));
  // Rows of a small vocabulary take less time than handing them out one by one.
  constexpr int64_t kLogitsPerTask = 64 * 1024;
  const int64_t num_jobs = std::ssize(jobs_);
  const int64_t jobs_per_task =
      std::max<int64_t>(1, kLogitsPerTask / std::max<int64_t>(1, sampling_limits_.vocab_size));
  runner_.pool().run((num_jobs + jobs_per_task - 1) / jobs_per_task, [&](int64_t task, int thread) {
    const auto thread_idx = static_cast<size_t>(thread);
    const int64_t end = std::min(num_jobs, (task + 1) * jobs_per_task);
    for (int64_t job_idx = task * jobs_per_task; job_idx < end; ++job_idx) {
      RowJob& job = jobs_[static_cast<size_t>(job_idx)];
      run_job(job, samplers_[thread_idx], runner_.host_logits(job.row, row_copies_[thread_idx]));
    }
  });
}

// The first error of the sequence's jobs, and its token if one of them made it.
Status EngineLoop::take_job_results(size_t seq_idx, size_t& job_idx, Sample*& sample) {
  Status status;
  for (; job_idx < jobs_.size() && jobs_[job_idx].seq_idx == seq_idx; ++job_idx) {
    RowJob& job = jobs_[job_idx];
    if (status.ok()) status = std::move(job.status);
    if (job.prompt_logprobs == nullptr) sample = &job.sample;
  }
  return status;
}

}  // namespace slipstream
