#include "ops/cuda/device_state.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <fstream>
#include <new>
#include <utility>
#include <vector>

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

namespace {

// Bytes of the arrays of the largest batch.
size_t batch_bytes(const OpLimits& limits) {
  const auto tokens = static_cast<size_t>(limits.max_tokens);
  const auto blocks = static_cast<size_t>(limits.max_context / 16 + 1);
  const auto seqs = static_cast<size_t>(limits.max_seqs);
  return align(tokens * 4) * 4 + align(tokens * 8) + align((seqs + 1) * 4) * 2 +
         align(tokens * sizeof(DecodeQuery)) + align((tokens + seqs) * sizeof(PrefillTile)) +
         align(seqs * blocks * 4);
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
    SLIPSTREAM_RETURN_IF_ERROR(staging.host.allocate(state.batch_bytes));
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
  const int64_t max_splits = (limits.max_context + kLeastSplitLen - 1) / kLeastSplitLen;
  const int64_t most_queries = ctx.deterministic ? limits.max_tokens : limits.max_seqs;
  state->partials_floats = max_splits > 1
                               ? std::min<int64_t>(most_queries, kMaxSplitQueries) *
                                     limits.max_heads * max_splits * (limits.max_head_dim + 1)
                               : 1;
  state->partials =
      Buffer(static_cast<size_t>(state->partials_floats) * sizeof(float), device_memory());
  state->batch_bytes = batch_bytes(limits);
  state->batch = Buffer(state->batch_bytes, device_memory());
  SLIPSTREAM_RETURN_IF_ERROR(open_stagings(*state));
  SLIPSTREAM_RETURN_IF_ERROR(open_sampling(*state));
  ctx.device_state = state;
  return {};
}

namespace {

// Packs arrays one after the other into the staging memory.
class Stager {
 public:
  Stager(DeviceState& state, std::byte* host) : state_(state), host_(host) {}
  template <typename T>
  const T* put(const std::vector<T>& values) {
    const size_t bytes = values.size() * sizeof(T);
    SLIPSTREAM_CHECK(used_ + align(bytes) <= state_.batch_bytes, "a batch fits its staging memory");
    std::memcpy(host_ + used_, values.data(), bytes);
    const auto* const device = reinterpret_cast<const T*>(state_.batch.as<std::byte>() + used_);
    used_ += align(bytes);
    return device;
  }
  size_t used() const { return used_; }

 private:
  DeviceState& state_;
  std::byte* host_;
  size_t used_ = 0;
};

// What begin_step() cuts a batch's attention into, on the host.
struct AttentionCuts {
  std::vector<DecodeQuery> queries;
  std::vector<PrefillTile> tiles;
};

AttentionCuts cut_attention(const DeviceState& state, const ForwardBatch& batch) {
  AttentionCuts cuts;
  const int32_t tokens_per_tile =
      kPrefillRows / static_cast<int32_t>(state.limits.heads_per_kv_head);
  for (int seq = 0; seq < batch.num_seqs(); ++seq) {
    const auto s = static_cast<size_t>(seq);
    const int32_t first_row = batch.cu_seqlens_q[s];
    const int32_t count = batch.cu_seqlens_q[s + 1] - first_row;
    if (count == 1 || state.deterministic) {
      const int32_t first_len = batch.seq_lens[s] - count + 1;
      for (int32_t token = 0; token < count; ++token) {
        cuts.queries.push_back({first_row + token, seq, first_len + token, first_len - 1});
      }
      continue;
    }
    for (int32_t token = 0; token < count; token += tokens_per_tile) {
      cuts.tiles.push_back({seq, first_row + token, std::min(tokens_per_tile, count - token),
                            batch.seq_lens[s] - count + token});
    }
  }
  // The longest contexts first: the last to start are short ones, so that all end together.
  std::stable_sort(cuts.queries.begin(), cuts.queries.end(),
                   [](const auto& a, const auto& b) { return a.seq_len > b.seq_len; });
  std::stable_sort(cuts.tiles.begin(), cuts.tiles.end(),
                   [](const auto& a, const auto& b) { return a.kv_end() > b.kv_end(); });
  return cuts;
}

// Long contexts are split so that no block works much longer than the others; but a context that is
// split is written twice and merged. So a part is at least what a place on the device gets when all
// places get the same.
void plan_splits(const DeviceState& state, const std::vector<DecodeQuery>& queries,
                 StepPlan& plan) {
  if (queries.empty()) return;
  constexpr int64_t kBlocksPerSm = 6;
  const int64_t longest = queries.front().seq_len;
  int64_t positions = 0;
  for (const DecodeQuery& query : queries) positions += query.seq_len;
  const int64_t kv_heads = state.limits.max_heads / state.limits.heads_per_kv_head;
  const int64_t share = positions * kv_heads / (kBlocksPerSm * state.num_sms);
  const auto num_splits = [&] { return (longest + plan.split_len - 1) / plan.split_len; };
  const int64_t floats_per_split = state.limits.max_heads * (state.limits.max_head_dim + 1);
  const auto too_many = [&] {
    return num_splits() > 1 &&
           std::ssize(queries) * num_splits() * floats_per_split > state.partials_floats;
  };
  while (!state.deterministic && num_splits() > 1 && (plan.split_len < share || too_many())) {
    plan.split_len *= 2;
  }
  plan.num_splits = static_cast<int>(std::max<int64_t>(1, num_splits()));
  if (plan.num_splits == 1) plan.split_len = (state.limits.max_context + 63) / 64 * 64;
}

// Steps that are not split are the same whatever a part's length.
uint32_t plan_key(const StepPlan& plan) {
  if (plan.num_splits == 1) return 1;
  const auto length = static_cast<uint64_t>(plan.split_len / kLeastSplitLen);
  return static_cast<uint32_t>(std::countr_zero(length)) << 12 |
         static_cast<uint32_t>(plan.num_splits);
}

}  // namespace

BatchView begin_step(OpContext& ctx, const ForwardBatch& batch) {
  DeviceState& state = state_of(ctx);
  BatchStaging& staging = state.stagings[static_cast<size_t>(state.next_staging)];
  state.next_staging = (state.next_staging + 1) % kNumSlots;
  check(cudaEventSynchronize(staging.copied), "previous step");
  const AttentionCuts cuts = cut_attention(state, batch);
  Stager stager(state, staging.host.as<std::byte>());
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
  StepPlan& plan = state.plan;
  plan = StepPlan();
  plan.num_queries = static_cast<int>(cuts.queries.size());
  plan.queries = stager.put(cuts.queries);
  plan_splits(state, cuts.queries, plan);
  plan.num_tiles = static_cast<int>(cuts.tiles.size());
  plan.tiles = stager.put(cuts.tiles);
  view.block_table = stager.put(batch.block_table);
  view.block_table_stride = batch.block_table_stride;
  view.plan = &plan;
  view.plan_key = plan_key(plan);
  // Last, so that the others lie at the same place whether or not ids are drawn; see replay().
  const int32_t* const drawn_from =
      batch.drawn_from.empty() ? nullptr : stager.put(batch.drawn_from);
  check(cudaEventRecord(staging.began, state.stream), "batch");
  check(cudaMemcpyAsync(state.batch.data(), staging.host.as<std::byte>(), stager.used(),
                        cudaMemcpyHostToDevice, state.stream),
        "batch");
  check(cudaEventRecord(staging.copied, state.stream), "batch");
  if (drawn_from != nullptr) {
    const SampleSlot& drawn = state.samples[static_cast<size_t>(batch.drawn_slot)];
    check(take_drawn(drawn.ids.as<int32_t>(), drawn_from, static_cast<int>(view.num_tokens),
                     const_cast<int32_t*>(view.token_ids), state.stream),
          "drawn tokens");
  }
  return view;
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
