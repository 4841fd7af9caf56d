// Ranges as a profiler sees them: this program carries one, and needs no GPU.
#include "ops/cuda/nvtx_ops.h"

#include <gtest/gtest.h>
#include <nvtx3/nvToolsExt.h>

#include <memory>
#include <string>
#include <vector>

#include "ops/cuda/device_state.h"

namespace slipstream {
namespace {

std::vector<std::string> seen;  // "(name" and ")", in the order they come
int the_domain = 0;

nvtxDomainHandle_t create_domain(const char*) {
  return reinterpret_cast<nvtxDomainHandle_t>(&the_domain);
}
int push_range(nvtxDomainHandle_t, const nvtxEventAttributes_t* event) {
  seen.push_back(std::string("(") + event->message.ascii);
  return 0;
}
int pop_range(nvtxDomainHandle_t) {
  seen.emplace_back(")");
  return 0;
}

int start_profiler(NvtxGetExportTableFunc_t get_table) {
  const auto* const callbacks =
      static_cast<const NvtxExportTableCallbacks*>(get_table(NVTX_ETID_CALLBACKS));
  NvtxFunctionTable functions = nullptr;
  unsigned size = 0;
  if (callbacks->GetModuleFunctionTable(NVTX_CB_MODULE_CORE2, &functions, &size) == 0) return 0;
  *functions[NVTX_CBID_CORE2_DomainCreateA] = reinterpret_cast<NvtxFunctionPointer>(create_domain);
  *functions[NVTX_CBID_CORE2_DomainRangePushEx] = reinterpret_cast<NvtxFunctionPointer>(push_range);
  *functions[NVTX_CBID_CORE2_DomainRangePop] = reinterpret_cast<NvtxFunctionPointer>(pop_range);
  return 1;
}

// A table whose ops do nothing.
Ops idle_ops() {
  Ops ops;
  ops.begin_step = [](OpContext&, const ForwardBatch&, BatchFill) { return BatchView(); };
  ops.rms_norm = [](OpContext&, TensorView, const float*, float, Activations) {};
  ops.linear = [](OpContext&, const Activations&, std::span<const LinearPart>) {};
  ops.replay = [](OpContext&, uint64_t, const std::function<void()>& launch) { launch(); };
  ops.sample = [](OpContext&, TensorView, std::span<const SampleRow>, int) {};
  return ops;
}

TEST(NvtxOps, AStepIsARangeFromItsBatchToItsDrawAndHoldsThoseOfItsOps) {
  InitializeInjectionNvtx2_fnptr = start_profiler;  // asked for when the first range comes
  static const Ops kIdle = idle_ops();              // the table in front keeps it
  const Ops& ops = cuda::with_nvtx_ranges(kIdle);
  ASSERT_NE(&ops, &kIdle);
  EXPECT_EQ(ops.embed, nullptr);
  OpContext ctx;
  ctx.device_state = std::make_shared<cuda::DeviceState>();
  ForwardBatch batch;
  batch.token_ids = {1, 2, 3};
  batch.seq_lens = {3, 1};
  Weight q;
  q.rows = 32;
  q.cols = 64;
  const std::vector<LinearPart> parts = {{&q, nullptr, {}}, {&q, nullptr, {}}};
  seen.clear();
  (void)ops.begin_step(ctx, batch, {});
  ops.replay(ctx, 1, [&] { ops.rms_norm(ctx, {}, nullptr, 0.0f, TensorView()); });
  (void)ops.begin_step(ctx, batch, {});  // of a step that draws nothing no end is known
  ops.linear(ctx, TensorView(), parts);
  ops.sample(ctx, {}, {}, 0);
  const std::string step = "(step of 3 tokens, 2 sequences";
  EXPECT_EQ(seen, (std::vector<std::string>{step, "(replay", "(rms_norm", ")", ")", ")",  //
                                            step, "(linear 64x64", ")", "(sample", ")", ")"}));
}

}  // namespace
}  // namespace slipstream
