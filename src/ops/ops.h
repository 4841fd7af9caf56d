// Ops: the table of device functions. `ref`, each CPU instruction set and CUDA are values of it.
//
// Each line states shapes and formula; ops/cpu/ref holds the loop that defines it. M is the number
// of tokens (rows) of a ragged batch; on the CPU a row's result never depends on M, on its
// neighbours or on the number of threads. Activations are `activation_dtype`: float32 on the CPU,
// bfloat16 on CUDA. Every pointer and view is in the table's `memory`. Called by the engine thread
// only. On the CPU an op returns when its output is complete; a device runs the ops of a context in
// order and DeviceMemory::copy_out waits for them.
#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "base/status.h"
#include "base/thread_pool.h"
#include "core/memory.h"
#include "core/tensor.h"
#include "ops/forward_batch.h"
#include "ops/sample_row.h"
#include "quant/format.h"

namespace slipstream {

// The largest batch an OpContext must serve: fixes the scratch memory, which is taken once.
struct OpLimits {
  int64_t max_tokens = 0;         // rows of any activation
  int64_t max_logit_rows = 0;     // rows of logits, and of the activations they are made of
  int64_t max_seqs = 1;           // of a batch
  int64_t max_cols = 0;           // widest `linear` input
  int64_t max_heads = 0;          // query heads
  int64_t heads_per_kv_head = 1;  // query heads that share a KV head, the same in every layer
  int64_t max_head_dim = 0;
  int64_t max_context = 0;  // KV positions of one sequence
  int64_t vocab_size = 0;
  int64_t max_sample_states = 0;  // for set_sample_state()
};

struct OpContext {
  ThreadPool* pool = nullptr;
  Buffer scratch;  // of Ops::open; contents are meaningless between ops
  std::shared_ptr<void> device_state = nullptr;  // a backend's own: streams, handles
  DType weight_dtype = DType::kBF16;             // CUDA: of kLinear matrices; or fp8_e4m3, int4
  // Of them, only those that the files store as weight_dtype: the others are not quantised.
  bool keep_stored_dtypes = false;
  // A row's result depends on neither its batch nor how its sequence is cut; always so on the CPU.
  bool deterministic = false;
  class OpProfile* profile = nullptr;  // of the table that ops/op_profile.h makes
  std::string cache_folder = {};       // where to keep what was measured; empty: nowhere
  // The chunk that Ops::pack is filling with small matrices, so that they share huge pages; every
  // Weight in it holds a reference.
  std::shared_ptr<Buffer> weight_chunk = nullptr;
  size_t weight_chunk_used = 0;
};

// The input of `linear`, as an op before it writes it: values of activation_dtype, or E4M3 with a
// scale a row (value = scale x stored) where Ops::linear_input says so.
struct Activations {
  TensorView values;            // [M, cols]
  float* row_scales = nullptr;  // [M]

  Activations() = default;
  Activations(TensorView plain) : values(plain) {}  // NOLINT: implicit by design
  Activations(TensorView stored, float* scales) : values(stored), row_scales(scales) {}
  Activations rows(int64_t begin, int64_t count) const {
    return {values.rows(begin, count), row_scales == nullptr ? nullptr : row_scales + begin};
  }
};

// One output of `linear`: y[M, weight.rows] = x W^T + bias. `y` may be a column range of a wider
// buffer (its row stride is honoured).
struct LinearPart {
  const Weight* weight = nullptr;
  const float* bias = nullptr;  // [rows] or null
  TensorView y;
};

// Rotary embedding. Pairs are (i, i + rotary_dim/2) as in Hugging Face ("neox"), or (2i, 2i + 1)
// as in GGUF files of the llama family, whose q and k rows are permuted for it.
struct RopeParams {
  int rotary_dim = 0;
  bool interleaved = false;
  const float* inv_freq = nullptr;  // [rotary_dim / 2], scaling already applied
  float attention_factor = 1.0f;    // multiplies cos and sin (YaRN); 1 otherwise
};

// One layer's pages. V: [num_blocks, num_kv_heads, block_size, head_dim]. K on the CPU:
// [num_blocks, num_kv_heads, head_dim, block_size]: a block's positions are contiguous per
// dimension, so scores of 16 positions need no horizontal sum. K on CUDA: as V.
struct KVLayerView {
  void* k = nullptr;
  void* v = nullptr;
  DType dtype = DType::kF16;  // f16 or f32 on the CPU; bf16 or fp8_e4m3 on CUDA
  int64_t num_blocks = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  int block_size = 16;
};

// Causal attention over pages for a ragged batch of B sequences. Query row t of sequence b has
// position seq_lens[b] - (cu_seqlens_q[b+1] - cu_seqlens_q[b]) + (t - cu_seqlens_q[b]) and sees
// positions 0..itself (the last `window` of them when window > 0). KV is reduced in partitions of
// kAttentionPartition positions counted from position 0, merged in order.
struct AttentionArgs {
  TensorView q;    // [M, num_heads, head_dim]
  TensorView out;  // [M, num_heads, head_dim]
  KVLayerView kv;
  BatchView batch;
  float scale = 1.0f;
  int window = 0;        // 0: full
  float softcap = 0.0f;  // 0: none, else s = softcap * tanh(s / softcap)
};
constexpr int64_t kAttentionPartition = 256;

// What lies between the products of q, k, v and attention, in place: norm of heads, rotation, and
// the write of k and v to pages.
struct QkvArgs {
  TensorView q;  // [M, num_heads, head_dim]
  TensorView k;  // [M, num_kv_heads, head_dim]
  TensorView v;
  const float* q_norm = nullptr;  // [head_dim]; null: heads are not normed
  const float* k_norm = nullptr;
  float norm_eps = 0.0f;
  RopeParams rope;
  TensorView cos_sin;  // [M, rotary_dim] of rope_table
  const int64_t* slot_mapping =
      nullptr;  // [M]; negative: a row that fills a batch, written nowhere
  KVLayerView kv;
};

using ByteRange = std::span<const std::byte>;

// What a matrix is for: a backend may store the vocabulary's matrices, and those that are not to be
// quantised, in another format.
enum class WeightRole : uint8_t { kLinear, kUnquantizedLinear, kVocabulary };

// Values uniform in [-limit, limit), so that activations keep their size. Value i of row r is the
// i-th symmetric() of SplitMix64 seeded with the first number of SplitMix64(seed + r), times limit:
// every row has a generator of its own, so that rows can be made in any order. Of a wider matrix
// these are `cols` columns from first_col on; rows from r on are those of the seed plus r.
struct RandomMatrix {
  int64_t rows = 0;
  int64_t cols = 0;
  uint64_t seed = 0;
  int64_t first_col = 0;
  int64_t whole_cols = 0;  // of the wider matrix
  float limit() const {
    return static_cast<float>(std::sqrt(3.0 / static_cast<double>(whole_cols)));
  }
};

// What a record of a measurement says of the device; empty on the CPU.
struct DeviceDescription {
  std::string name;    // "NVIDIA H200"
  std::string driver;  // "580.159.04"
  std::string cuda;    // "13.0", the runtime's
};

// What a device can do at most.
struct DeviceLimits {
  double read_gb_s = 0.0;
  double write_gb_s = 0.0;
  double barrier_us = 0.0;     // among blocks, one on each multiprocessor
  double launch_us = 0.0;      // from kernel to kernel of a stream that do nothing
  double graph_node_us = 0.0;  // the same in a graph
};

struct Ops {
  const char* name = "";
  const DeviceMemory* memory = nullptr;
  DType activation_dtype = DType::kF32;

  // Null on the CPU.
  DeviceDescription (*describe)() = nullptr;

  // Takes what the ops of `ctx` need for batches within `limits`; ctx.pool is set before.
  Status (*open)(OpContext& ctx, const OpLimits& limits) = nullptr;

  // The matrix in the layout this backend streams. Takes a copy unless the layout is the file's.
  Result<Weight> (*pack)(OpContext& ctx, const SourceMatrix& source, WeightRole role) = nullptr;

  // pack() of a BF16 matrix of random values. Null: the host makes them.
  Result<Weight> (*pack_random)(OpContext& ctx, const RandomMatrix& matrix,
                                WeightRole role) = nullptr;

  // The dtype in which `linear` wants its input for this weight.
  DType (*linear_input)(const Weight& weight) = nullptr;

  // The batch, filled up where there is `replay`, as ops read it; valid until the next call.
  BatchView (*begin_step)(OpContext& ctx, const ForwardBatch& batch, BatchFill fill) = nullptr;

  // out[M, hidden] = row token_ids[m] of table, dequantised
  void (*embed)(OpContext& ctx, const Weight& table, const int32_t* token_ids,
                TensorView out) = nullptr;

  // out[M, n] = x / sqrt(mean(x^2) + eps) * weight
  void (*rms_norm)(OpContext& ctx, TensorView x, const float* weight, float eps,
                   Activations out) = nullptr;

  // residual[M, n] += x; out = rms_norm(residual)
  void (*add_rms_norm)(OpContext& ctx, TensorView residual, TensorView x, const float* weight,
                       float eps, Activations out) = nullptr;

  // x[M, heads, head_dim] in place: rms_norm of every head (Qwen3's q_norm, k_norm)
  void (*head_rms_norm)(OpContext& ctx, TensorView x, const float* weight, float eps) = nullptr;

  // out = x as `linear` wants it; nothing to do where both are the same memory
  void (*to_activations)(OpContext& ctx, TensorView x, Activations out) = nullptr;

  // For each part: y[M, rows] = x[M, cols] W^T + bias. y is of activation_dtype, or f32.
  void (*linear)(OpContext& ctx, const Activations& x, std::span<const LinearPart> parts) = nullptr;

  // cos_sin[M, rotary_dim] = cos(p * inv_freq) in the first half, sin in the second, times
  // attention_factor; computed once per step and shared by all layers
  void (*rope_table)(OpContext& ctx, const int32_t* positions, const RopeParams& rope,
                     TensorView cos_sin) = nullptr;

  // x[M, heads, head_dim] in place: each pair (a, b) -> (a cos - b sin, b cos + a sin)
  void (*rope)(OpContext& ctx, TensorView x, const RopeParams& rope, TensorView cos_sin) = nullptr;

  // page slot_mapping[m] (block * block_size + offset) = k[m], v[m]: [M, kv_heads, head_dim]
  void (*kv_append)(OpContext& ctx, TensorView k, TensorView v, const int64_t* slot_mapping,
                    const KVLayerView& kv) = nullptr;

  // head_rms_norm of q and k, rope of both, kv_append: compose.cc makes it of those
  void (*norm_rope_append)(OpContext& ctx, const QkvArgs& args) = nullptr;

  // out = softmax(scale q K^T) V, causal, over pages
  void (*attention)(OpContext& ctx, const AttentionArgs& args) = nullptr;

  // out[M, n] = silu(gate) * up
  void (*silu_mul)(OpContext& ctx, TensorView gate, TensorView up, Activations out) = nullptr;

  // residual[M, n] += x
  void (*add)(OpContext& ctx, TensorView residual, TensorView x) = nullptr;

  // out[R, n] = x[rows[r]]
  void (*gather_rows)(OpContext& ctx, TensorView x, const int32_t* rows, int64_t num_rows,
                      TensorView out) = nullptr;

  // Calls `launch`, whose ops read and write the same memory whenever `key` is the same, and runs
  // what it launched; or runs again what an earlier call for `key` launched, without calling it.
  // Null: nothing to gain.
  void (*replay)(OpContext& ctx, uint64_t key, const std::function<void()>& launch) = nullptr;

  // Queues the drawing of a token for each of `rows` into slot 0 or 1, whose ids begin_step() can
  // read from then on. Rows with a state overwrite their logits; each state serves one row of a
  // call. Null: the host samples.
  void (*sample)(OpContext& ctx, TensorView logits, std::span<const SampleRow> rows,
                 int slot) = nullptr;

  // Fills a sampling state, 0 <= idx < max_sample_states, for the sample() calls that follow.
  void (*set_sample_state)(OpContext& ctx, int32_t idx, const SampleState& state) = nullptr;

  // Waits for the slot's last sample() and gives its ids, in the order of its rows; kBadLogits or
  // kNoTokenLeft where there is none. In the host's memory, until the slot's next sample().
  std::span<const int32_t> (*sampled)(OpContext& ctx, int slot) = nullptr;

  // After sampled(): the log-probabilities of its rows, written where a row asked for them and a
  // token was drawn. As long.
  std::span<const SampledLogprobs> (*sampled_logprobs)(OpContext& ctx, int slot) = nullptr;

  // How long the device has been at work on steps whose tokens sampled() has given: from the copy
  // of a batch to its tokens. Null: the host samples.
  int64_t (*busy_ns)(const OpContext& ctx) = nullptr;

  // Marks the end of what has been queued so far; the time between two such ends, which it waits
  // for. Null where an op is done when it returns.
  void (*mark)(OpContext& ctx, int idx) = nullptr;
  double (*between_us)(OpContext& ctx, int begin, int end) = nullptr;

  // Gigabytes per second at which this backend reads `ranges`, weights as a rule, with the
  // context's threads: the roof of decode. Median of several passes over all of them.
  double (*measure_read_gb_s)(OpContext& ctx, std::span<const ByteRange> ranges) = nullptr;

  // With `bytes` bytes of the device's memory; an error where there are not so many. Null on the
  // CPU.
  Result<DeviceLimits> (*measure_limits)(OpContext& ctx, int64_t bytes) = nullptr;
};

// Whether the table computes in the host's memory: else it is a device's.
inline bool on_host(const Ops& ops) { return ops.memory == &host_memory(); }

// The table of the GPU; null when this build has no CUDA kernels or the machine no GPU they run on,
// and then `why` says which.
const Ops* cuda_ops(std::string* why);

// Of compose.cc: ops made of other ops of the same table.
void composed_norm_rope_append(const Ops& ops, OpContext& ctx, const QkvArgs& args);

enum class CpuIsa : uint8_t { kAuto, kRef, kAvx2, kAvx512 };

// The table for an instruction set; null when this CPU or build lacks it. kAuto picks the best.
const Ops* cpu_ops(CpuIsa isa);
const char* cpu_isa_name(CpuIsa isa);

}  // namespace slipstream
