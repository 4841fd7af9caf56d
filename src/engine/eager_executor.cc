#include "engine/executor.h"

namespace slipstream {
namespace {

class EagerExecutor final : public Executor {
 public:
  explicit EagerExecutor(ModelState& state) : state_(state) {}

  const char* name() const override { return "eager"; }
  bool can_run(const ForwardBatch&) const override { return true; }
  TensorView forward(const ForwardBatch& batch) override {
    check_batch(batch, state_.spec, state_.workspace);
    return slipstream::forward({.spec = state_.spec,
                                .weights = state_.weights,
                                .rope = state_.rope,
                                .batch = state_.ops->begin_step(state_.ctx, batch, {}),
                                .kv = state_.kv,
                                .ops = *state_.ops,
                                .ctx = state_.ctx,
                                .workspace = state_.workspace,
                                .comm = *state_.comm});
  }

 private:
  ModelState& state_;
};

}  // namespace

std::unique_ptr<Executor> make_eager_executor(ModelState& state) {
  return std::make_unique<EagerExecutor>(state);
}

}  // namespace slipstream
