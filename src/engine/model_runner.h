// ModelRunner: a loaded model ready to run steps. Opens the files, takes all memory (weights, KV
// pages, activations), owns the thread pool and picks the executor of each step.
//
// Opened by any one thread, then used by the engine thread alone.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/thread_pool.h"
#include "engine/device_sampler.h"
#include "engine/executor.h"
#include "engine/resident_decoder.h"
#include "loader/checkpoint.h"
#include "model/families/families.h"
#include "ops/op_profile.h"
#include "quant/format.h"
#include "slipstream/engine.h"
#include "slipstream/options.h"
#include "text/tokenizer.h"

namespace slipstream {

struct DevicePart;
struct ResolvedOptions;

// What one step may be at most; fixed when memory is taken.
struct RunnerLimits {
  int64_t max_model_len = 0;
  int64_t max_num_batched_tokens = 0;
  int64_t max_logit_rows = 0;
  int64_t num_blocks = 0;
  int32_t block_size = 0;
};

// The format of --load-format dummy: what most published checkpoints store.
inline constexpr QuantType kDummyWeights = QuantType::kBF16;
// The model of a config.json, or of a folder that has one; no weights are read.
Result<ModelDescription> describe_dummy_model(const std::string& path);

class ModelRunner {
 public:
  static Result<std::unique_ptr<ModelRunner>> open(const EngineOptions& options);
  ModelRunner(const ModelRunner&) = delete;
  ModelRunner& operator=(const ModelRunner&) = delete;
  ~ModelRunner();

  // Logits [num_logit_rows, vocab_size] f32 in the device's memory, valid until the next call.
  TensorView forward(const ForwardBatch& batch);
  // Whether draw() works; else the host samples from rows of host_logits().
  bool draws_on_device() const { return sampler_ != nullptr; }
  // See DeviceSampler; of the last forward's logits.
  void draw(std::span<const SampleRow> rows, int slot) { sampler_->draw(logits_, rows, slot); }
  std::span<const int32_t> drawn(int slot) { return sampler_->drawn(slot); }
  std::span<const SampledLogprobs> drawn_logprobs(int slot) { return sampler_->logprobs(slot); }
  int32_t num_sample_states() const { return sampler_ != nullptr ? sampler_->num_states() : 0; }
  void set_sample_state(int32_t idx, const SampleState& state) { sampler_->set_state(idx, state); }
  int64_t device_busy_ns() const { return sampler_ != nullptr ? sampler_->busy_ns() : 0; }
  // Row `row` of the last forward's logits on the host, which may overwrite it: in place, or a copy
  // in `copy`.
  std::span<float> host_logits(int64_t row, std::vector<float>& copy) const;
  ResidentDecoder* resident_decoder() const { return resident_.get(); }
  const char* executor_in_use() const { return executor_in_use_; }  // of the last forward
  double measure_read_gb_s();                                       // 0 without weights

  ThreadPool& pool() { return *pool_; }
  const RunnerLimits& limits() const { return limits_; }
  const ModelInfo& info() const { return info_; }
  const std::shared_ptr<const Tokenizer>& tokenizer() const { return tokenizer_; }
  // Every id that ends a generation, sorted.
  const std::vector<int32_t>& eos_token_ids() const { return eos_token_ids_; }

 private:
  void poison_new_blocks(const ForwardBatch& batch);
  ModelRunner() = default;
  Status load_state(const EngineOptions& options, const ResolvedOptions& resolved,
                    const ModelDescription& model, DevicePart part);
  void fake_state(const EngineOptions& options);
  GraphExecutorOptions graph_options(const EngineOptions& options) const;
  void finish_profile();

  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<Checkpoint> checkpoint_;  // weights may borrow its mapped bytes; null for dummy
  std::optional<OpProfile> profile_;        // stands in front of the state's table
  StepProfile* profile_result_ = nullptr;
  std::unique_ptr<ModelState> state_;                 // null: no model is computed
  std::vector<std::unique_ptr<Executor>> executors_;  // in order of preference
  const char* executor_in_use_ = "";
  std::unique_ptr<ResidentDecoder> resident_;  // null: none
  std::unique_ptr<DeviceSampler> sampler_;     // null: the host samples
  TensorView logits_;                          // of the last forward
  RunnerLimits limits_;
  ModelInfo info_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::vector<int32_t> eos_token_ids_;
};

}  // namespace slipstream
