#include "ops/cuda/device_state.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <new>
#include <vector>

#include "base/check.h"
#include "base/strings.h"
#include "ops/cuda/linear/skinny.h"

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

namespace {

// Bytes of the arrays of the largest batch.
size_t batch_bytes(const OpLimits& limits) {
  const auto tokens = static_cast<size_t>(limits.max_tokens);
  const auto blocks = static_cast<size_t>(limits.max_context / 16 + 1);
  const auto seqs = static_cast<size_t>(limits.max_seqs);
  return align(tokens * 4) * 3 + align(tokens * 8) + align((seqs + 1) * 4) * 3 +
         align((tokens + seqs) * sizeof(PrefillTile)) + align(seqs * blocks * 4);
}

}  // namespace

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

Status open(OpContext& ctx, const OpLimits& limits) {
  if (limits.max_head_dim != 64 && limits.max_head_dim != 128) {
    return does_not_fit(
        str("device cuda: attention takes heads of 64 or 128 dimensions and this model "
            "has ",
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
  int device = 0;
  check(cudaGetDevice(&device), "device");
  check(cudaDeviceGetAttribute(&state->num_sms, cudaDevAttrMultiProcessorCount, device),
        "number of multiprocessors");
  // A blocking stream: copies of DeviceMemory, which know no stream, wait for it.
  check(cudaStreamCreate(&state->stream), "stream");
  SLIPSTREAM_ASSIGN_OR_RETURN(state->cublaslt, CublasLt::open());
  state->skinny_workspace = Buffer(skinny_workspace_bytes(state->num_sms), device_memory());
  state->skinny_workspace.zero();
  const int64_t max_splits = (limits.max_context + kSplitLen - 1) / kSplitLen;
  state->partials_floats = max_splits > 1
                               ? std::min<int64_t>(limits.max_seqs, kMaxSplitSeqs) *
                                     limits.max_heads * max_splits * (limits.max_head_dim + 1)
                               : 1;
  state->partials =
      Buffer(static_cast<size_t>(state->partials_floats) * sizeof(float), device_memory());
  state->batch_bytes = batch_bytes(limits);
  state->batch = Buffer(state->batch_bytes, device_memory());
  void* staging = nullptr;
  if (cudaMallocHost(&staging, state->batch_bytes) != cudaSuccess) {
    return does_not_fit(str("no ", state->batch_bytes, " bytes of pinned host memory"));
  }
  state->staging = static_cast<std::byte*>(staging);
  const auto tokens = static_cast<size_t>(limits.max_tokens);
  void* sample_staging = nullptr;
  if (cudaMallocHost(&sample_staging, tokens * sizeof(SampleRow)) != cudaSuccess) {
    return does_not_fit(str("no ", tokens * sizeof(SampleRow), " bytes of pinned host memory"));
  }
  state->sample_staging = static_cast<SampleRow*>(sample_staging);
  state->sample_rows = Buffer(tokens * sizeof(SampleRow), device_memory());
  state->sampled = Buffer(tokens * sizeof(int32_t), device_memory());
  ctx.device_state = state;
  return {};
}

namespace {

// Packs arrays one after the other into the staging memory.
class Stager {
 public:
  explicit Stager(DeviceState& state) : state_(state) {}
  template <typename T>
  const T* put(const std::vector<T>& values) {
    const size_t bytes = values.size() * sizeof(T);
    SLIPSTREAM_CHECK(used_ + align(bytes) <= state_.batch_bytes, "a batch fits its staging memory");
    std::memcpy(state_.staging + used_, values.data(), bytes);
    const auto* const device = reinterpret_cast<const T*>(state_.batch.as<std::byte>() + used_);
    used_ += align(bytes);
    return device;
  }
  size_t used() const { return used_; }

 private:
  DeviceState& state_;
  size_t used_ = 0;
};

int32_t tile_end(const ForwardBatch& batch, const PrefillTile& tile) {
  const auto s = static_cast<size_t>(tile.seq);
  const int32_t count = batch.cu_seqlens_q[s + 1] - batch.cu_seqlens_q[s];
  return batch.seq_lens[s] - count + tile.first_token;
}

}  // namespace

BatchView begin_step(OpContext& ctx, const ForwardBatch& batch) {
  DeviceState& state = state_of(ctx);
  // The last step's copy has left the staging memory.
  check(cudaStreamSynchronize(state.stream), "previous step");
  std::vector<int32_t> decodes;
  std::vector<PrefillTile> tiles;
  StepPlan& plan = state.plan;
  plan = StepPlan();
  const int32_t tokens_per_tile =
      kPrefillRows / static_cast<int32_t>(state.limits.heads_per_kv_head);
  for (int seq = 0; seq < batch.num_seqs(); ++seq) {
    const auto s = static_cast<size_t>(seq);
    const int32_t count = batch.cu_seqlens_q[s + 1] - batch.cu_seqlens_q[s];
    if (count == 1) {
      decodes.push_back(seq);
      plan.max_decode_len = std::max(plan.max_decode_len, batch.seq_lens[s]);
      continue;
    }
    for (int32_t token = 0; token < count; token += tokens_per_tile) tiles.push_back({seq, token});
  }
  // The longest contexts first: the last tiles to start are short ones.
  std::stable_sort(tiles.begin(), tiles.end(), [&](const auto& a, const auto& b) {
    return tile_end(batch, a) > tile_end(batch, b);
  });
  Stager stager(state);
  BatchView view;
  view.num_tokens = batch.num_tokens();
  view.num_seqs = batch.num_seqs();
  view.num_logit_rows = batch.num_logit_rows();
  view.token_ids = stager.put(batch.token_ids);
  view.positions = stager.put(batch.positions);
  view.cu_seqlens_q = stager.put(batch.cu_seqlens_q);
  view.seq_lens = stager.put(batch.seq_lens);
  view.slot_mapping = stager.put(batch.slot_mapping);
  view.logit_rows = stager.put(batch.logit_rows);
  plan.num_decodes = static_cast<int>(decodes.size());
  plan.decode_seqs = stager.put(decodes);
  plan.num_tiles = static_cast<int>(tiles.size());
  plan.tiles = stager.put(tiles);
  view.block_table = stager.put(batch.block_table);
  view.block_table_stride = batch.block_table_stride;
  view.plan = &plan;
  view.num_splits = std::max(1, (plan.max_decode_len + kSplitLen - 1) / kSplitLen);
  check(cudaMemcpyAsync(state.batch.data(), state.staging, stager.used(), cudaMemcpyHostToDevice,
                        state.stream),
        "batch");
  return view;
}

}  // namespace slipstream::cuda
