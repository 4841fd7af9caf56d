// Engine: joins a loaded model to the loop that runs it.
#include "slipstream/engine.h"

#include <utility>

#include "engine/engine_loop.h"
#include "engine/model_runner.h"

namespace slipstream {
namespace {

class EngineImpl final : public Engine {
 public:
  EngineImpl(const EngineOptions& options, std::unique_ptr<ModelRunner> runner, EventSink sink)
      : runner_(std::move(runner)), loop_(options, *runner_, std::move(sink)) {}

  Result<RequestId> submit(Request request) override { return loop_.submit(std::move(request)); }
  void cancel(RequestId id) override { loop_.cancel(id); }
  EngineStats stats() const override { return loop_.stats(); }
  const ModelInfo& model() const override { return runner_->info(); }
  const std::shared_ptr<const Tokenizer>& tokenizer() const override {
    return runner_->tokenizer();
  }
  double measure_read_gb_s() override { return loop_.measure_read_gb_s(); }
  std::vector<PhaseTime> latency_phases() override { return loop_.latency_phases(); }

 private:
  std::unique_ptr<ModelRunner> runner_;
  EngineLoop loop_;  // after the runner: it ends first
};

}  // namespace

Result<std::unique_ptr<Engine>> Engine::open(const EngineOptions& options, EventSink sink) {
  SLIPSTREAM_ASSIGN_OR_RETURN(std::unique_ptr<ModelRunner> runner, ModelRunner::open(options));
  return std::unique_ptr<Engine>(
      std::make_unique<EngineImpl>(options, std::move(runner), std::move(sink)));
}

}  // namespace slipstream
