#include "engine/fake_executor.h"

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <limits>
#include <thread>
#include <utility>

#include "base/check.h"
#include "base/clock.h"
#include "base/random.h"
#include "ops/step_stager.h"
#include "sampling/sampler.h"

namespace slipstream {
namespace {

// Above the other logits, which are 0: more than Gumbel noise makes up for at temperatures to 2.
constexpr float kWinnerLogit = 40.0f;

bool is_readable(std::string_view bytes) {
  const auto letter_or_blank = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == ' ' || c == ',' || c == '.';
  };
  return !bytes.empty() && std::all_of(bytes.begin(), bytes.end(), letter_or_blank);
}

// As for a model of 8 billion weights on a Hopper GPU; the batch alone says how much there is to
// do.
StagingLimits staging_limits(const FakeExecutorOptions& options) {
  return {.ops = {.max_tokens = options.max_num_batched_tokens,
                  .max_seqs = options.graph.max_num_seqs,
                  .max_heads = 32,
                  .heads_per_kv_head = 4,
                  .max_head_dim = 128,
                  .max_context = options.max_model_len},
          .max_blocks_per_seq = options.graph.max_blocks_per_seq,
          .num_sms = 132};
}

// What a step has found: the token that stands out in each row of logits.
struct FakeSteps {
  explicit FakeSteps(FakeExecutorOptions chosen)
      : options(std::move(chosen)), pacer(options.step_ns) {
    SLIPSTREAM_CHECK(!options.answer_ids.empty(), "answers are made of something");
  }

  // The token that stands out after `token_id` at `position`.
  int32_t next_id(int32_t token_id, int64_t position) const {
    const uint64_t place =
        (static_cast<uint64_t>(position) << 32) | static_cast<uint32_t>(token_id);
    return options.answer_ids[SplitMix64(place).below(options.answer_ids.size())];
  }

  // What is drawn where `winner` stands out, by a row without penalties, masks or logprobs.
  struct Draw {
    float temperature = 0.0f;
    uint64_t seed = 0;
    int64_t position = 0;  // of the token drawn
    uint32_t choice_idx = 0;
  };
  int32_t drawn_id(int32_t winner, const Draw& draw) const {
    if (options.runs == nullptr || draw.temperature == 0.0f) return winner;
    SplitMix64 of_place((static_cast<uint64_t>(draw.position) << 32) |
                        static_cast<uint32_t>(winner));
    const uint64_t of_words =
        std::bit_cast<uint32_t>(draw.temperature) + (static_cast<uint64_t>(draw.choice_idx) << 32);
    SplitMix64 random(of_place.next() ^ SplitMix64(draw.seed ^ of_words).next());
    return options.answer_ids[random.below(options.answer_ids.size())];
  }

  FakeExecutorOptions options;
  StepPacer pacer;
  std::vector<int32_t> winners;  // [num_logit_rows] of the last step
  int64_t end_ns = 0;            // of the last step
  struct Slot {
    std::vector<int32_t> ids;
    std::vector<SampledLogprobs> logprobs;
    int64_t ready_ns = 0;
  };
  std::array<Slot, DeviceSampler::kNumSlots> slots;
};

class FakeExecutor final : public Executor {
 public:
  explicit FakeExecutor(std::shared_ptr<FakeSteps> steps)
      : steps_(std::move(steps)),
        stager_(staging_limits(steps_->options)),
        staging_(std::make_unique_for_overwrite<std::byte[]>(stager_.num_bytes())) {}

  const char* name() const override { return "fake"; }
  bool can_run(const ForwardBatch&) const override { return true; }

  TensorView forward(const ForwardBatch& batch) override {
    const BatchFill fill =
        is_decode_step(batch) ? graph_fill(batch, steps_->options.graph) : BatchFill();
    (void)stager_.stage(batch, fill, {.host = staging_.get(), .device = staging_.get()});
    steps_->winners.clear();
    for (const int32_t row : batch.logit_rows) {
      const auto token_idx = static_cast<size_t>(row);
      steps_->winners.push_back(
          steps_->next_id(token_id(batch, token_idx), batch.positions[token_idx]));
    }
    steps_->end_ns = steps_->pacer.next_end(steady_now_ns());
    // Nobody reads logits where they are: FakeSampler makes the rows that are wanted.
    return TensorView::contiguous(nullptr, DType::kF32,
                                  {batch.num_logit_rows(), steps_->options.vocab_size});
  }

 private:
  int32_t token_id(const ForwardBatch& batch, size_t token_idx) const {
    const int32_t from = batch.drawn_from.empty() ? -1 : batch.drawn_from[token_idx];
    if (from < 0) return batch.token_ids[token_idx];
    return steps_->slots[static_cast<size_t>(batch.drawn_slot)].ids[static_cast<size_t>(from)];
  }

  std::shared_ptr<FakeSteps> steps_;
  StepStager stager_;
  std::unique_ptr<std::byte[]> staging_;
};

class FakeSampler final : public DeviceSampler {
 public:
  explicit FakeSampler(std::shared_ptr<FakeSteps> steps) : steps_(std::move(steps)) {}

  int32_t num_states() const override { return steps_->options.num_states; }
  void set_state(int32_t idx, const SampleState& state) override {
    states_.resize(static_cast<size_t>(num_states()));
    State& own = states_[static_cast<size_t>(idx)];
    own.prompt_ids.assign(state.prompt_ids.begin(), state.prompt_ids.end());
    own.answer_ids.assign(state.answer_ids.begin(), state.answer_ids.end());
    own.early_ids.assign(state.early_ids.begin(), state.early_ids.end());
    own.biases.assign(state.biases.begin(), state.biases.end());
  }
  void draw(TensorView, std::span<const SampleRow> rows, int slot) override {
    FakeSteps::Slot& drawn = steps_->slots[static_cast<size_t>(slot)];
    drawn.ids.clear();
    drawn.logprobs.resize(rows.size());
    for (size_t i = 0; i < rows.size(); ++i) {
      const SampleRow& row = rows[i];
      const bool is_plain = row.state < 0 && row.num_logprobs < 0;
      const int32_t winner = steps_->winners[static_cast<size_t>(row.row)];
      drawn.ids.push_back(is_plain ? steps_->drawn_id(winner, {.temperature = row.temperature,
                                                               .seed = row.seed,
                                                               .position = row.position,
                                                               .choice_idx = row.choice_idx})
                                   : sample(row, drawn.logprobs[i] = {}));
    }
    drawn.ready_ns = steps_->end_ns;
  }
  std::span<const int32_t> drawn(int slot) override {
    const FakeSteps::Slot& drawn = steps_->slots[static_cast<size_t>(slot)];
    if (steps_->options.step_ns > 0) {
      const std::chrono::nanoseconds ready(drawn.ready_ns);
      std::this_thread::sleep_until(std::chrono::steady_clock::time_point(ready));
    }
    return drawn.ids;
  }
  std::span<const SampledLogprobs> logprobs(int slot) override {
    return steps_->slots[static_cast<size_t>(slot)].logprobs;
  }
  int64_t busy_ns() const override { return 0; }  // nothing computes
  std::span<float> copy_row(TensorView, int64_t row, std::vector<float>& copy) const override {
    copy.assign(static_cast<size_t>(steps_->options.vocab_size), 0.0f);
    copy[static_cast<size_t>(steps_->winners[static_cast<size_t>(row)])] = kWinnerLogit;
    return copy;
  }

 private:
  struct State {
    std::vector<int32_t> prompt_ids;
    std::vector<int32_t> answer_ids;
    std::vector<int32_t> early_ids;
    std::vector<std::pair<int32_t, float>> biases;
  };

  int32_t sample(const SampleRow& row, SampledLogprobs& logprobs) {
    SamplingParams params;
    params.temperature = row.temperature;
    params.top_k = row.top_k;
    params.top_p = row.top_p;
    params.min_p = row.min_p;
    if (row.num_logprobs >= 0) params.logprobs = row.num_logprobs;
    static const State kNone;
    const State& state = row.state < 0 ? kNone : states_[static_cast<size_t>(row.state)];
    params.repetition_penalty = row.repetition_penalty;
    params.frequency_penalty = row.frequency_penalty;
    params.presence_penalty = row.presence_penalty;
    params.logit_bias = state.biases;
    if (row.masks_early_ids) params.min_tokens = std::numeric_limits<int64_t>::max();
    LogitsPipeline pipeline(params, state.prompt_ids);
    pipeline.forbid_early(state.early_ids);
    for (const int32_t id : state.answer_ids) pipeline.append(id);
    const auto sampled =
        sampler_.sample(copy_row({}, row.row, row_), {.params = params,
                                                      .pipeline = pipeline,
                                                      .seed = row.seed,
                                                      .position = row.position,
                                                      .choice_idx = row.choice_idx});
    if (!sampled.ok()) return kNoTokenLeft;
    const Sample& found = sampled.value();
    if (row.state >= 0) {
      states_[static_cast<size_t>(row.state)].answer_ids.push_back(found.token_id);
    }
    if (found.logprobs) {
      logprobs.drawn = found.logprobs->logprob;
      for (const auto& [id, logprob] : found.logprobs->top) {
        logprobs.ids[logprobs.num_best] = id;
        logprobs.logprobs[logprobs.num_best++] = logprob;
      }
    }
    return found.token_id;
  }

  std::shared_ptr<FakeSteps> steps_;
  std::vector<State> states_;
  Sampler sampler_;
  std::vector<float> row_;
};

// One token a step's time; a stop takes effect after one more.
class FakeResident final : public ResidentDecoder {
 public:
  explicit FakeResident(std::shared_ptr<FakeSteps> steps)
      : steps_(std::move(steps)), runs_(*steps_->options.runs) {}

  const char* name() const override { return "fake run"; }
  int64_t most_tokens() const override { return 64; }
  int64_t most_end_ids() const override { return 1; }
  int64_t hang_ns() const override { return runs_.hang_ns; }
  Status start(const DecodeRun& run) override {
    SLIPSTREAM_CHECK(ended_, "one run at a time");
    if (runs_.start_fails) return failed("the fake decoder does not start");
    const int64_t num_blocks = (run.position + run.max_tokens - 1) / 16 + 1;
    SLIPSTREAM_CHECK(std::ssize(run.block_table) >= num_blocks, "a block for every position");
    run_ = run;
    end_id_ = run.end_ids.empty() ? -1 : run.end_ids.front();
    tokens_.clear();
    ended_ = stopping_ = false;
    return {};
  }
  std::span<const int32_t> wait(int64_t num_known, int64_t timeout_ns) override {
    const int64_t until_ns = steady_now_ns() + timeout_ns;
    while (!ended_ && std::ssize(tokens_) <= num_known + runs_.num_ahead) {
      const int64_t last_ns = steps_->options.step_ns == 0 ? 0 : steps_->end_ns;
      const int64_t next_ns = hangs() ? until_ns + 1 : last_ns + steps_->options.step_ns;
      std::this_thread::sleep_until(std::chrono::steady_clock::time_point(
          std::chrono::nanoseconds(std::min(next_ns, until_ns))));
      if (next_ns > until_ns) break;
      steps_->end_ns = std::max(next_ns, steady_now_ns());
      tokens_.push_back(next_token());
      ended_ = stopping_ || tokens_.back() == end_id_ || tokens_.back() == kBadLogits ||
               std::ssize(tokens_) == run_.max_tokens;
    }
    return tokens_;
  }
  bool ended() const override { return ended_; }
  void stop() override { stopping_ = true; }
  void abort() override { ended_ = true; }
  std::vector<PhaseTime> phase_times() override {
    SLIPSTREAM_CHECK(ended_, "phases are known between runs");
    if (tokens_.empty()) return {};
    return {{.name = "token", .us = static_cast<double>(steps_->options.step_ns) * 1e-3}};
  }

 private:
  int64_t next_position() const { return run_.position + std::ssize(tokens_) + 1; }
  bool hangs() const { return next_position() == runs_.hangs_at; }
  int32_t next_token() const {
    if (next_position() == runs_.bad_logits_at) return kBadLogits;
    const int32_t last_id = tokens_.empty() ? run_.token_id : tokens_.back();
    return steps_->drawn_id(steps_->next_id(last_id, next_position() - 1),
                            {.temperature = run_.temperature,
                             .seed = run_.seed,
                             .position = next_position(),
                             .choice_idx = run_.choice_idx});
  }

  std::shared_ptr<FakeSteps> steps_;
  const FakeRuns runs_;
  DecodeRun run_;
  int32_t end_id_ = -1;
  std::vector<int32_t> tokens_;
  bool stopping_ = false;
  bool ended_ = true;
};

}  // namespace

int64_t StepPacer::next_end(int64_t now_ns) {
  const int64_t end_ns = std::max(now_ns, earliest_ns_);
  earliest_ns_ = end_ns + step_ns_;
  return end_ns;
}

FakeModel make_fake_model(FakeExecutorOptions options) {
  const auto steps = std::make_shared<FakeSteps>(std::move(options));
  FakeModel model{std::make_unique<FakeExecutor>(steps), std::make_unique<FakeSampler>(steps), {}};
  if (steps->options.runs != nullptr) model.resident = std::make_unique<FakeResident>(steps);
  return model;
}

std::vector<int32_t> fake_answer_ids(int64_t vocab_size, const std::vector<int32_t>& end_ids,
                                     const Tokenizer* tokenizer) {
  std::vector<int32_t> readable, others;
  for (int32_t id = 0; id < vocab_size; ++id) {
    if (std::binary_search(end_ids.begin(), end_ids.end(), id)) continue;
    if (tokenizer != nullptr && tokenizer->is_special(id)) continue;
    others.push_back(id);
    if (tokenizer != nullptr && is_readable(tokenizer->token_bytes(id))) readable.push_back(id);
  }
  if (!readable.empty()) return readable;
  if (others.empty()) others.push_back(0);  // a vocabulary of nothing but ends
  return others;
}

}  // namespace slipstream
