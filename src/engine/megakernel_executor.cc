// The persistent kernel as a resident decoder: see megakernel/decoder.h.
#include <algorithm>
#include <utility>
#include <vector>

#include "engine/resident_decoder.h"
#include "megakernel/decoder.h"
#include "ops/sample_row.h"

namespace slipstream {
namespace {

class Megakernel final : public ResidentDecoder {
 public:
  explicit Megakernel(std::unique_ptr<PersistentDecoder> decoder) : decoder_(std::move(decoder)) {}

  const char* name() const override { return "megakernel"; }
  int64_t most_tokens() const override { return PersistentDecoder::kMaxTokens; }
  int64_t most_end_ids() const override { return kMaxEndIds; }

  Status start(const DecodeRun& run) override {
    const auto num_end_ids = std::min(std::ssize(run.end_ids), int64_t{kMaxEndIds});
    return decoder_->start({.token_id = run.token_id,
                            .position = run.position,
                            .block_table = run.block_table,
                            .max_tokens = static_cast<int32_t>(run.max_tokens),
                            .end_ids = run.end_ids.first(static_cast<size_t>(num_end_ids)),
                            .temperature = run.temperature,
                            .seed = run.seed,
                            .choice_idx = run.choice_idx});
  }
  std::span<const int32_t> wait(int64_t num_known, int64_t timeout_ns) override {
    static_assert(PersistentDecoder::kNoToken == kBadLogits);
    return decoder_->wait(num_known, timeout_ns);
  }
  bool ended() const override { return decoder_->ended(); }
  void stop() override { decoder_->stop(); }
  void abort() override { decoder_->abort(); }
  std::vector<PhaseTime> phase_times() override {
    std::vector<PhaseTime> times;
    for (DecodePhase& phase : decoder_->phases()) {
      times.push_back({.name = std::move(phase.name),
                       .us = phase.us,
                       .wait_us = phase.wait_us,
                       .bytes = phase.bytes});
    }
    return times;
  }

 private:
  std::unique_ptr<PersistentDecoder> decoder_;
};

}  // namespace

Result<std::unique_ptr<ResidentDecoder>> make_megakernel(ModelState& state,
                                                         const DecodeProgram& program,
                                                         int64_t max_context) {
  SLIPSTREAM_ASSIGN_OR_RETURN(std::unique_ptr<PersistentDecoder> decoder,
                              PersistentDecoder::open({.spec = state.spec,
                                                       .weights = state.weights,
                                                       .rope = state.rope,
                                                       .kv = state.kv,
                                                       .ops = *state.ops,
                                                       .ctx = state.ctx},
                                                      program, max_context));
  return std::unique_ptr<ResidentDecoder>(std::make_unique<Megakernel>(std::move(decoder)));
}

}  // namespace slipstream
