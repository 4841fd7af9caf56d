// What the CUDA table keeps per context: stream, staging memory, graphs; and how a batch gets to
// the device. Engine thread only.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/status.h"
#include "core/memory.h"
#include "core/tensor.h"
#include "ops/cuda/attention/decode_paged.h"
#include "ops/cuda/attention/prefill_paged.h"
#include "ops/cuda/cublaslt.h"
#include "ops/cuda/sample_state.h"
#include "ops/ops.h"
#include "ops/step_stager.h"

namespace slipstream::cuda {

// A launch or copy that fails has wrong arguments or a device that is gone: neither can be gone on
// from. The message names the op.
void check(cudaError_t error, const char* op);

const DeviceMemory& device_memory();

// Memory that both the host and the device reach, for copies that wait for nobody.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  PinnedBuffer(const PinnedBuffer&) = delete;
  PinnedBuffer& operator=(const PinnedBuffer&) = delete;
  ~PinnedBuffer() {
    if (data_ != nullptr) (void)cudaFreeHost(data_);
  }
  Status allocate(size_t bytes);
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
};

// Weights on their way to the device, a half at a time.
constexpr int64_t kUploadBytes = 16 << 20;
struct UploadHalf {
  PinnedBuffer host;
  Buffer device;
  cudaEvent_t done = nullptr;
};
class Upload {
 public:
  Upload() = default;
  Upload(const Upload&) = delete;
  Upload& operator=(const Upload&) = delete;
  ~Upload();
  Status open();  // nothing to do after the first time
  UploadHalf& next();

 private:
  std::array<UploadHalf, 2> halves_;
  size_t next_ = 0;
};

// Of steps that take turns: while one is at work, the host prepares or reads the other.
constexpr int kNumSlots = 2;

// What the host hands over for a step. The device's copy is one for all: steps run in order.
struct BatchStaging {
  PinnedBuffer host;
  cudaEvent_t began = nullptr;
  cudaEvent_t copied = nullptr;
};

struct SampleSlot {
  PinnedBuffer host_rows;      // SampleRow[max_tokens]
  PinnedBuffer host_ids;       // int32_t[max_tokens]
  PinnedBuffer host_logprobs;  // SampledLogprobs[max_tokens]
  Buffer rows;
  Buffer ids;
  Buffer logprobs;
  int64_t num_rows = 0;
  cudaEvent_t began = nullptr;  // of the step, its staging's
  cudaEvent_t done = nullptr;
  bool is_new = false;  // not asked for yet
};

// Rows that are sampled together: they have room for what they keep.
struct RowGroup {
  int64_t begin = 0;
  int64_t end = 0;
  bool has_states = false;
  bool has_logprobs = false;
};

// What states are to be filled from, until the device has read it; see fill_states().
struct FillStaging {
  PinnedBuffer host;
  size_t used = 0;
  std::vector<SampleStateFill> fills;  // not launched yet
  cudaEvent_t read = nullptr;
};

struct SampleStateMemory {
  Buffer counts;
  Buffer lists;
  SampleStates states;  // the two
  // Rows of logits as they were, of rows that have a state and ask for log-probabilities. Where a
  // step has more than fit, they take turns.
  Buffer kept;
  int64_t num_kept = 0;
  size_t staging_bytes = 0;
  std::array<FillStaging, 2> stagings;
  size_t staging = 0;  // the one that is written
};

// Of rows of INT4 matrices as bf16, for the GEMM: as many as fit at a time.
constexpr int64_t kDequantizedBytes = 128 << 20;

struct DeviceState {
  cudaStream_t stream = nullptr;
  int num_sms = 0;
  OpLimits limits;
  bool deterministic = false;
  std::unique_ptr<CublasLt> cublaslt;
  Buffer skinny_workspace;
  // kDequantizedBytes, where matrices are INT4.
  Buffer dequantized;
  Buffer partials;  // of split decode attention
  int64_t partials_floats = 0;
  std::array<BatchStaging, kNumSlots> stagings;
  int next_staging = 0;
  std::vector<cudaEvent_t> marks;
  bool in_nvtx_step = false;  // see nvtx_ops.cc
  double busy_ms = 0.0;       // from began to done, of the steps asked for
  Buffer batch;
  std::optional<StepStager> stager;
  std::array<SampleSlot, kNumSlots> samples;
  std::vector<RowGroup> row_groups;  // of the step that is sampled
  SampleStateMemory sample_states;
  std::unordered_map<uint64_t, cudaGraphExec_t> graphs;
  Upload upload;
  // Scales of packed rows, one after the other like the rows.
  std::shared_ptr<Buffer> scale_chunk;
  size_t scale_chunk_used = 0;

  DeviceState() = default;
  DeviceState(const DeviceState&) = delete;
  DeviceState& operator=(const DeviceState&) = delete;
  ~DeviceState() {
    if (stream != nullptr) (void)cudaStreamSynchronize(stream);  // copies from pinned memory
    for (const auto& [key, graph] : graphs) (void)cudaGraphExecDestroy(graph);
    for (const BatchStaging& staging : stagings) {
      if (staging.began != nullptr) (void)cudaEventDestroy(staging.began);
      if (staging.copied != nullptr) (void)cudaEventDestroy(staging.copied);
    }
    for (cudaEvent_t mark : marks) (void)cudaEventDestroy(mark);
    for (const SampleSlot& slot : samples) {
      if (slot.done != nullptr) (void)cudaEventDestroy(slot.done);
    }
    for (const FillStaging& staging : sample_states.stagings) {
      if (staging.read != nullptr) (void)cudaEventDestroy(staging.read);
    }
    if (stream != nullptr) (void)cudaStreamDestroy(stream);
  }
};

inline DeviceState& state_of(const OpContext& ctx) {
  return *static_cast<DeviceState*>(ctx.device_state.get());
}

constexpr size_t align(size_t bytes) { return (bytes + 255) / 256 * 256; }

// What sample() needs; see device_sampling.cc.
Status open_sampling(DeviceState& state);

// The entries of the table.
DeviceDescription describe();
Status open(OpContext& ctx, const OpLimits& limits);
BatchView begin_step(OpContext& ctx, const ForwardBatch& batch, BatchFill fill);
void sample(OpContext& ctx, TensorView logits, std::span<const SampleRow> rows, int slot);
void set_sample_state(OpContext& ctx, int32_t idx, const SampleState& state);
std::span<const int32_t> sampled(OpContext& ctx, int slot);
std::span<const SampledLogprobs> sampled_logprobs(OpContext& ctx, int slot);
int64_t busy_ns(const OpContext& ctx);
void mark(OpContext& ctx, int idx);
double between_us(OpContext& ctx, int begin, int end);

}  // namespace slipstream::cuda
