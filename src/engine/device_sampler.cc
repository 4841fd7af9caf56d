#include "engine/device_sampler.h"

#include "engine/executor.h"

namespace slipstream {
namespace {

class OpsSampler final : public DeviceSampler {
 public:
  OpsSampler(ModelState& state, int32_t num_states) : state_(state), num_states_(num_states) {}

  int32_t num_states() const override { return num_states_; }
  void set_state(int32_t idx, const SampleState& state) override {
    state_.ops->set_sample_state(state_.ctx, idx, state);
  }
  void draw(TensorView logits, std::span<const SampleRow> rows, int slot) override {
    state_.ops->sample(state_.ctx, logits, rows, slot);
  }
  std::span<const int32_t> drawn(int slot) override {
    return state_.ops->sampled(state_.ctx, slot);
  }
  std::span<const SampledLogprobs> logprobs(int slot) override {
    return state_.ops->sampled_logprobs(state_.ctx, slot);
  }
  int64_t busy_ns() const override { return state_.ops->busy_ns(state_.ctx); }
  std::span<float> copy_row(TensorView logits, int64_t row,
                            std::vector<float>& copy) const override {
    copy.resize(static_cast<size_t>(logits.dim(1)));
    state_.ops->memory->copy_out(copy.data(), logits.f32_row(row), copy.size() * sizeof(float));
    return copy;
  }

 private:
  ModelState& state_;
  int32_t num_states_;
};

}  // namespace

std::unique_ptr<DeviceSampler> make_device_sampler(ModelState& state, int32_t num_states) {
  if (state.ops->sample == nullptr) return nullptr;
  return std::make_unique<OpsSampler>(state, num_states);
}

}  // namespace slipstream
