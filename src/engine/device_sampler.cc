#include "engine/device_sampler.h"

#include "engine/executor.h"

namespace slipstream {
namespace {

class OpsSampler final : public DeviceSampler {
 public:
  explicit OpsSampler(ModelState& state) : state_(state) {}

  void draw(TensorView logits, std::span<const SampleRow> rows, int slot) override {
    state_.ops->sample(state_.ctx, logits, rows, slot);
  }
  std::span<const int32_t> drawn(int slot) override {
    return state_.ops->sampled(state_.ctx, slot);
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
};

}  // namespace

std::unique_ptr<DeviceSampler> make_device_sampler(ModelState& state) {
  if (state.ops->sample == nullptr) return nullptr;
  return std::make_unique<OpsSampler>(state);
}

}  // namespace slipstream
