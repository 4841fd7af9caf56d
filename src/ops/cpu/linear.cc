#include "ops/cpu/linear.h"

#include <algorithm>
#include <array>

#include "base/check.h"

namespace slipstream {
namespace {

constexpr size_t kMaxParts = 8;
// Fused tasks: enough bytes to amortise handing a task out, small enough to balance the threads.
constexpr int64_t kMinTaskBytes = 16 * 1024;
constexpr int64_t kMaxTaskBytes = 64 * 1024;
constexpr int64_t kTasksPerThread = 8;
// Tiled tasks: the activations of a block of tokens stay in half an L2 while panels pass.
constexpr int64_t kBlockActivationBytes = 256 * 1024;

int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

int64_t padded_blocks(int64_t cols) { return (cols + kPanelBlock - 1) / kPanelBlock; }

// Consecutive pieces of scratch, 64-byte aligned.
class ScratchCursor {
 public:
  explicit ScratchCursor(const Buffer& scratch)
      : at_(scratch.as<std::byte>()), left_(scratch.bytes()) {}
  template <typename T>
  T* take(int64_t count) {
    const size_t bytes = static_cast<size_t>(round_up(count * int64_t{sizeof(T)}, 64));
    SLIPSTREAM_CHECK(bytes <= left_, "OpContext::scratch is smaller than scratch_bytes(limits)");
    auto* piece = reinterpret_cast<T*>(at_);
    at_ += bytes;
    left_ -= bytes;
    return piece;
  }

 private:
  std::byte* at_;
  size_t left_;
};

// A part cut into tasks of consecutive panels.
struct PartPlan {
  const LinearPart* part;
  int64_t panel_bytes;
  int64_t num_panels;
  int64_t panels_per_task;
  int64_t first_task;
};

struct Plan {
  std::array<PartPlan, kMaxParts> parts;
  size_t num_parts = 0;
  int64_t num_tasks = 0;
};

Plan plan_tasks(std::span<const LinearPart> parts, int64_t task_bytes) {
  Plan plan;
  for (const LinearPart& part : parts) {
    const Weight& weight = *part.weight;
    PartPlan& out = plan.parts[plan.num_parts++];
    out.part = &part;
    out.panel_bytes = panel_bytes(weight.type, weight.cols);
    out.num_panels = (weight.rows + kPanelRows - 1) / kPanelRows;
    out.panels_per_task = std::clamp<int64_t>(task_bytes / out.panel_bytes, 1, out.num_panels);
    out.first_task = plan.num_tasks;
    plan.num_tasks += (out.num_panels + out.panels_per_task - 1) / out.panels_per_task;
  }
  return plan;
}

LinearTask task_of(const Plan& plan, int64_t task_idx, const PartPlan** chosen) {
  size_t p = plan.num_parts - 1;
  while (plan.parts[p].first_task > task_idx) --p;
  const PartPlan& part = plan.parts[p];
  const int64_t first_panel = (task_idx - part.first_task) * part.panels_per_task;
  const int64_t first_row = first_panel * kPanelRows;
  LinearTask task;
  task.panels =
      reinterpret_cast<const uint8_t*>(part.part->weight->payload) + first_panel * part.panel_bytes;
  task.panel_bytes = part.panel_bytes;
  task.num_panels = std::min(part.panels_per_task, part.num_panels - first_panel);
  task.rows = part.part->weight->rows - first_row;
  task.y = static_cast<float*>(part.part->y.data) + first_row;
  task.y_stride = part.part->y.stride[0];
  task.bias = part.part->bias != nullptr ? part.part->bias + first_row : nullptr;
  *chosen = &part;
  return task;
}

PreparedInput take_input(OpContext& ctx, int64_t num_tokens, int64_t cols,
                         std::span<const LinearPart> parts) {
  PreparedInput input;
  input.num_blocks = padded_blocks(cols);
  input.num_tokens = num_tokens;
  const int64_t blocks = input.num_blocks * num_tokens;
  const auto dense = [](const LinearPart& part) { return is_dense(part.weight->type); };
  ScratchCursor scratch(ctx.scratch);
  if (!std::all_of(parts.begin(), parts.end(), dense)) {
    input.codes = scratch.take<int16_t>(blocks * kPanelBlock);
    input.scales = scratch.take<float>(blocks);
    input.sums = scratch.take<float>(blocks);
    input.code_sums = scratch.take<int32_t>(blocks);
  }
  if (std::any_of(parts.begin(), parts.end(), dense)) {
    input.values = scratch.take<float>(blocks * kPanelBlock);
  }
  return input;
}

void prepare(const CpuKernels& kernels, OpContext& ctx, const TensorView& x,
             const PreparedInput& input) {
  const int64_t num_tiles = (input.num_tokens + kernels.tile_tokens - 1) / kernels.tile_tokens;
  const auto* rows = static_cast<const float*>(x.data);
  ctx.pool->run(num_tiles, [&](int64_t tile_idx, int) {
    if (input.codes != nullptr) {
      kernels.prepare_codes(rows, x.stride[0], x.dim(1), tile_idx, input);
    }
    if (input.values != nullptr) {
      kernels.prepare_values(rows, x.stride[0], x.dim(1), tile_idx, input);
    }
  });
}

void check_parts(const TensorView& x, std::span<const LinearPart> parts) {
  SLIPSTREAM_CHECK(x.rank == 2 && x.dtype == DType::kF32, "linear takes x[M, cols] f32");
  SLIPSTREAM_CHECK(!parts.empty() && parts.size() <= kMaxParts, "1 to 8 parts");
  for (const LinearPart& part : parts) {
    SLIPSTREAM_CHECK(part.weight->layout == WeightLayout::kCpuPanels, "weights must be packed");
    SLIPSTREAM_CHECK(part.weight->cols == x.dim(1), "x and weight disagree on columns");
    SLIPSTREAM_CHECK(part.y.dim(0) == x.dim(0), "x and y disagree on tokens");
    SLIPSTREAM_CHECK(part.y.dim(1) == part.weight->rows, "y and weight disagree on rows");
  }
}

// Few tokens: every weight byte is read once, so tasks are equal shares of bytes.
void run_fused(const CpuKernels& kernels, OpContext& ctx, const PreparedInput& input,
               std::span<const LinearPart> parts) {
  int64_t bytes = 0;
  for (const LinearPart& part : parts) bytes += part.weight->payload_bytes;
  const int64_t share = bytes / (kTasksPerThread * ctx.pool->num_threads());
  const Plan plan = plan_tasks(parts, std::clamp(share, kMinTaskBytes, kMaxTaskBytes));
  ctx.pool->run(plan.num_tasks, [&](int64_t task_idx, int) {
    const PartPlan* part = nullptr;
    LinearTask task = task_of(plan, task_idx, &part);
    task.input = &input;
    task.token_end = input.num_tokens;
    kernels.linear_fused[static_cast<int>(part->part->weight->type)](task);
  });
}

// Many tokens: blocks of tokens outside, panels inside.
void run_tiled(const CpuKernels& kernels, OpContext& ctx, const PreparedInput& input,
               std::span<const LinearPart> parts) {
  const int64_t tile = kernels.tile_tokens;
  const int64_t fit = kBlockActivationBytes / (input.num_blocks * kPanelBlock * 2);
  const int64_t most = std::clamp(fit / tile * tile, 4 * tile, kMaxBlockTokens / tile * tile);
  const int64_t num_blocks = (input.num_tokens + most - 1) / most;
  const int64_t block = round_up((input.num_tokens + num_blocks - 1) / num_blocks, tile);
  const Plan plan = plan_tasks(parts, 1);
  const int64_t blocks_used = (input.num_tokens + block - 1) / block;
  ctx.pool->run(plan.num_tasks * blocks_used, [&](int64_t idx, int) {
    const PartPlan* part = nullptr;
    LinearTask task = task_of(plan, idx % plan.num_tasks, &part);
    task.input = &input;
    task.token_begin = idx / plan.num_tasks * block;
    task.token_end = std::min(task.token_begin + block, input.num_tokens);
    kernels.linear_tiled[static_cast<int>(part->part->weight->type)](task);
  });
}

}  // namespace

size_t linear_scratch_bytes(const OpLimits& limits) {
  const int64_t blocks = padded_blocks(limits.max_cols) * limits.max_tokens;
  const int64_t codes = round_up(blocks * kPanelBlock * 2, 64) + 3 * round_up(blocks * 4, 64);
  const int64_t values = round_up(blocks * kPanelBlock * 4, 64);
  return static_cast<size_t>(codes + values);
}

void cpu_linear(const CpuKernels& kernels, OpContext& ctx, TensorView x,
                std::span<const LinearPart> parts) {
  if (x.dim(0) == 0) return;
  check_parts(x, parts);
  const PreparedInput input = take_input(ctx, x.dim(0), x.dim(1), parts);
  prepare(kernels, ctx, x, input);
  if (input.num_tokens <= kMaxFusedTokens) {
    run_fused(kernels, ctx, input, parts);
  } else {
    run_tiled(kernels, ctx, input, parts);
  }
}

}  // namespace slipstream
