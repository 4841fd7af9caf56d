#include "ops/cuda/device_state.h"

#include <algorithm>
#include <fstream>
#include <new>
#include <utility>

#include "base/check.h"
#include "base/strings.h"
#include "ops/cuda/linear/skinny.h"
#include "ops/cuda/sample.h"

namespace slipstream::cuda {

void check(cudaError_t error, const char* op) {
  SLIPSTREAM_CHECK(error == cudaSuccess, str("CUDA ", op, ": ", cudaGetErrorString(error)));
}

namespace {

void* allocate(size_t bytes) {
  void* data = nullptr;
  if (cudaMalloc(&data, bytes) != cudaSuccess) {
    (void)cudaGetLastError();  // an allocation that does not fit poisons nothing
    throw std::bad_alloc();
  }
  return data;
}
void release(void* data) noexcept { (void)cudaFree(data); }
void copy_in(void* device, const void* host, size_t bytes) {
  check(cudaMemcpy(device, host, bytes, cudaMemcpyHostToDevice), "copy to the device");
}
void copy_out(void* host, const void* device, size_t bytes) {
  check(cudaMemcpy(host, device, bytes, cudaMemcpyDeviceToHost), "copy from the device");
}
void fill(void* device, int byte, size_t bytes) { check(cudaMemset(device, byte, bytes), "fill"); }
size_t free_bytes() {
  size_t free = 0;
  size_t total = 0;
  return cudaMemGetInfo(&free, &total) == cudaSuccess ? free : 0;
}

const DeviceMemory kMemory = {.name = "cuda",
                              .allocate = allocate,
                              .release = release,
                              .copy_in = copy_in,
                              .copy_out = copy_out,
                              .fill = fill,
                              .free_bytes = free_bytes};

}  // namespace

const DeviceMemory& device_memory() { return kMemory; }

DeviceDescription describe() {
  DeviceDescription description;
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, 0), "properties");
  description.name = properties.name;
  int version = 0;
  if (cudaRuntimeGetVersion(&version) == cudaSuccess) {
    description.cuda = str(version / 1000, ".", version % 1000 / 10);
  }
  // "NVRM version: NVIDIA UNIX ... Kernel Module  580.159.04  ..."
  std::ifstream text("/proc/driver/nvidia/version");
  for (std::string word; text >> word;) {
    const bool dotted = word.find('.') != std::string::npos;
    if (dotted && word.find_first_not_of("0123456789.") == std::string::npos) {
      description.driver = word;
      break;
    }
  }
  return description;
}

Status PinnedBuffer::allocate(size_t bytes) {
  if (cudaMallocHost(&data_, bytes) == cudaSuccess) return {};
  (void)cudaGetLastError();
  data_ = nullptr;
  return does_not_fit(str("no ", bytes, " bytes of pinned host memory"));
}

Status Upload::open() {
  for (UploadHalf& half : halves_) {
    if (half.done != nullptr) continue;
    SLIPSTREAM_RETURN_IF_ERROR(half.host.allocate(kUploadBytes));
    half.device = Buffer(kUploadBytes, device_memory());
    check(cudaEventCreateWithFlags(&half.done, cudaEventDisableTiming), "event");
  }
  return {};
}
UploadHalf& Upload::next() {
  next_ = (next_ + 1) % halves_.size();
  return halves_[next_];
}
Upload::~Upload() {
  for (const UploadHalf& half : halves_) {
    if (half.done == nullptr) continue;
    (void)cudaEventSynchronize(half.done);  // the copy still reads
    (void)cudaEventDestroy(half.done);
  }
}

namespace {

Status open_stagings(DeviceState& state) {
  for (BatchStaging& staging : state.stagings) {
    SLIPSTREAM_RETURN_IF_ERROR(staging.host.allocate(state.stager->num_bytes()));
    check(cudaEventCreate(&staging.began), "event");
    check(cudaEventRecord(staging.began, state.stream), "event");  // so that it can be asked for
    check(cudaEventCreateWithFlags(&staging.copied, cudaEventDisableTiming), "event");
  }
  return {};
}

}  // namespace

Status open(OpContext& ctx, const OpLimits& limits) {
  if (!has_attention_kernels(limits.max_head_dim)) {
    return does_not_fit(
        str("device cuda: attention takes heads of 16, 32, 64, 80, 96, 128 or 256 dimensions and "
            "this model has ",
            limits.max_head_dim, ": use the CPU (device cpu)"));
  }
  if (limits.heads_per_kv_head > 16) {
    return does_not_fit(
        str("device cuda: attention takes 16 query heads to a KV head and this model "
            "has ",
            limits.heads_per_kv_head, ": use the CPU (device cpu)"));
  }
  auto state = std::make_shared<DeviceState>();
  state->limits = limits;
  state->deterministic = ctx.deterministic;
  int device = 0;
  check(cudaGetDevice(&device), "device");
  check(cudaDeviceGetAttribute(&state->num_sms, cudaDevAttrMultiProcessorCount, device),
        "number of multiprocessors");
  // A blocking stream: copies of DeviceMemory, which know no stream, wait for it.
  check(cudaStreamCreate(&state->stream), "stream");
  SLIPSTREAM_ASSIGN_OR_RETURN(state->cublaslt, CublasLt::open(ctx.cache_folder, ctx.deterministic));
  state->skinny_workspace = Buffer(skinny_workspace_bytes(state->num_sms), device_memory());
  state->skinny_workspace.zero();
  if (ctx.weight_dtype == DType::kI4)
    state->dequantized = Buffer(kDequantizedBytes, device_memory());
  const int64_t max_splits = (limits.max_context + kLeastSplitLen - 1) / kLeastSplitLen;
  const int64_t most_queries = ctx.deterministic ? limits.max_tokens : limits.max_seqs;
  state->partials_floats = max_splits > 1
                               ? std::min<int64_t>(most_queries, kMaxSplitQueries) *
                                     limits.max_heads * max_splits * (limits.max_head_dim + 1)
                               : 1;
  state->partials =
      Buffer(static_cast<size_t>(state->partials_floats) * sizeof(float), device_memory());
  state->stager.emplace(StagingLimits{.ops = limits,
                                      .max_blocks_per_seq = limits.max_context / 16 + 1,
                                      .num_sms = state->num_sms,
                                      .deterministic = ctx.deterministic,
                                      .partials_floats = state->partials_floats});
  state->batch = Buffer(state->stager->num_bytes(), device_memory());
  SLIPSTREAM_RETURN_IF_ERROR(open_stagings(*state));
  SLIPSTREAM_RETURN_IF_ERROR(open_sampling(*state));
  ctx.device_state = state;
  return {};
}

BatchView begin_step(OpContext& ctx, const ForwardBatch& batch, BatchFill fill) {
  DeviceState& state = state_of(ctx);
  BatchStaging& staging = state.stagings[static_cast<size_t>(state.next_staging)];
  state.next_staging = (state.next_staging + 1) % kNumSlots;
  check(cudaEventSynchronize(staging.copied), "previous step");
  const StepStager::Staged staged = state.stager->stage(
      batch, fill, {.host = staging.host.as<std::byte>(), .device = state.batch.as<std::byte>()});
  check(cudaEventRecord(staging.began, state.stream), "batch");
  check(cudaMemcpyAsync(state.batch.data(), staging.host.as<std::byte>(), staged.num_bytes,
                        cudaMemcpyHostToDevice, state.stream),
        "batch");
  check(cudaEventRecord(staging.copied, state.stream), "batch");
  if (staged.drawn_from != nullptr) {
    const SampleSlot& drawn = state.samples[static_cast<size_t>(batch.drawn_slot)];
    check(take_drawn(drawn.ids.as<int32_t>(), staged.drawn_from,
                     static_cast<int>(staged.view.num_tokens),
                     const_cast<int32_t*>(staged.view.token_ids), state.stream),
          "drawn tokens");
  }
  return staged.view;
}

void mark(OpContext& ctx, int idx) {
  DeviceState& state = state_of(ctx);
  while (std::ssize(state.marks) <= idx) {
    check(cudaEventCreate(&state.marks.emplace_back(nullptr)), "mark");
  }
  check(cudaEventRecord(state.marks[static_cast<size_t>(idx)], state.stream), "mark");
}

double between_us(OpContext& ctx, int begin, int end) {
  const DeviceState& state = state_of(ctx);
  float ms = 0.0f;
  check(cudaEventSynchronize(state.marks[static_cast<size_t>(end)]), "mark");
  check(cudaEventElapsedTime(&ms, state.marks[static_cast<size_t>(begin)],
                             state.marks[static_cast<size_t>(end)]),
        "mark");
  return static_cast<double>(ms) * 1e3;
}

}  // namespace slipstream::cuda
