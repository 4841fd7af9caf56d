// FakeExecutor: steps without a model, for load tests of everything around it. Scheduler, KV
// bookkeeping, text and events are real, as is the sampler of requests with penalties, biases,
// masks or log-probabilities; only the forward pass is missing, so a step of thousands of sequences
// costs microseconds and no KV page exists.
//
// It behaves like a device: forward() stages the batch as for a GPU and returns at once, tokens are
// drawn where the logits would be, and whoever asks for them waits until the step is over.
//
// One token of every row stands out by a wide margin. Which one depends on the row's own token and
// position alone, so an answer is the same alone and in any batch, and it is never an id that would
// end the answer. Engine thread.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/device_sampler.h"
#include "engine/executor.h"
#include "engine/resident_decoder.h"
#include "text/tokenizer.h"

namespace slipstream {

// Ends of steps that are at least `step_ns` apart: whoever is early waits. A late step moves the
// later ones, it is not caught up with.
class StepPacer {
 public:
  explicit StepPacer(int64_t step_ns) : step_ns_(step_ns) {}
  // When a step that is ready at `now_ns` is over; >= now_ns.
  int64_t next_end(int64_t now_ns);

 private:
  int64_t step_ns_;
  int64_t earliest_ns_ = 0;
};

// How the resident decoder behaves. Its tokens are those of the steps; so that what it is told of a
// draw shows, both give other tokens for another seed or temperature above 0.
struct FakeRuns {
  int64_t hang_ns = ResidentDecoder::kHangNs;
  int64_t num_ahead = 0;  // tokens that it computes beyond those that are looked at
  bool start_fails = false;
  // Positions of tokens; -1: none.
  int64_t hangs_at = -1;
  int64_t bad_logits_at = -1;
};

struct FakeExecutorOptions {
  int64_t vocab_size = 0;
  std::vector<int32_t> answer_ids;  // what answers are made of; not empty
  int64_t step_ns = 0;
  int32_t num_states = 0;  // of the sampler
  // Sizes of batches, as a device would fill them up.
  GraphExecutorOptions graph;
  int64_t max_num_batched_tokens = 1;
  int64_t max_model_len = 1;
  const FakeRuns* runs = nullptr;  // null: no resident decoder
};
// They share what a step has found, and live and end together.
struct FakeModel {
  std::unique_ptr<Executor> executor;
  std::unique_ptr<DeviceSampler> sampler;
  std::unique_ptr<ResidentDecoder> resident;  // with FakeRuns
};
FakeModel make_fake_model(FakeExecutorOptions options);

// Ids of [0, vocab_size) that continue an answer: none of `end_ids` (sorted), and with a tokenizer
// (else null) those of readable text. Every other id when nothing is readable; never empty.
std::vector<int32_t> fake_answer_ids(int64_t vocab_size, const std::vector<int32_t>& end_ids,
                                     const Tokenizer* tokenizer);

}  // namespace slipstream
