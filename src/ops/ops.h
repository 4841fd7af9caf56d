// Ops: the table of device functions. `ref`, each CPU instruction set and CUDA are values of it.
//
// Each line states shapes and formula; ops/cpu/ref holds the loop that defines it. Activations are
// float32 on the CPU. M is the number of tokens (rows) of a ragged batch; a row's result never
// depends on M, on its neighbours or on the number of threads.
// Called by the engine thread only; an op returns when its output is complete.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "base/status.h"
#include "base/thread_pool.h"
#include "core/tensor.h"
#include "quant/format.h"

namespace slipstream {

// The largest batch an OpContext must serve: fixes the scratch memory, which is taken once.
struct OpLimits {
  int64_t max_tokens = 0;  // rows of any activation
  int64_t max_cols = 0;    // widest `linear` input
  int64_t max_heads = 0;   // query heads
  int64_t max_head_dim = 0;
  int64_t max_context = 0;  // KV positions of one sequence
};

struct OpContext {
  ThreadPool* pool = nullptr;
  Buffer scratch;  // Ops::scratch_bytes(limits) bytes; contents are meaningless between ops
  // The chunk that Ops::pack is filling with small matrices, so that they share huge pages; every
  // Weight in it holds a reference.
  std::shared_ptr<Buffer> weight_chunk = nullptr;
  size_t weight_chunk_used = 0;
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

// One layer's pages. K: [num_blocks, num_kv_heads, head_dim, block_size]: a block's positions are
// contiguous per dimension, so scores of 16 positions need no horizontal sum.
// V: [num_blocks, num_kv_heads, block_size, head_dim].
struct KVLayerView {
  void* k = nullptr;
  void* v = nullptr;
  DType dtype = DType::kF16;  // f16 or f32
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
  int num_seqs = 0;
  const int32_t* cu_seqlens_q = nullptr;  // [B + 1]
  const int32_t* seq_lens = nullptr;      // [B], positions after this step
  const int32_t* block_table = nullptr;   // [B, block_table_stride]
  int64_t block_table_stride = 0;
  float scale = 1.0f;
  int window = 0;        // 0: full
  float softcap = 0.0f;  // 0: none, else s = softcap * tanh(s / softcap)
};
constexpr int64_t kAttentionPartition = 256;

using ByteRange = std::span<const std::byte>;

struct Ops {
  const char* name = "";

  // Bytes of OpContext::scratch that batches within `limits` need.
  size_t (*scratch_bytes)(const OpLimits& limits) = nullptr;

  // The matrix in the layout this backend streams. Takes a copy unless the layout is the file's.
  Result<Weight> (*pack)(OpContext& ctx, const SourceMatrix& source) = nullptr;

  // out[M, hidden] = row token_ids[m] of table, dequantised
  void (*embed)(OpContext& ctx, const Weight& table, const int32_t* token_ids,
                TensorView out) = nullptr;

  // out[M, n] = x / sqrt(mean(x^2) + eps) * weight
  void (*rms_norm)(OpContext& ctx, TensorView x, const float* weight, float eps,
                   TensorView out) = nullptr;

  // residual[M, n] += x; out = rms_norm(residual)
  void (*add_rms_norm)(OpContext& ctx, TensorView residual, TensorView x, const float* weight,
                       float eps, TensorView out) = nullptr;

  // x[M, heads, head_dim] in place: rms_norm of every head (Qwen3's q_norm, k_norm)
  void (*head_rms_norm)(OpContext& ctx, TensorView x, const float* weight, float eps) = nullptr;

  // For each part: y[M, rows] = x[M, cols] W^T + bias
  void (*linear)(OpContext& ctx, TensorView x, std::span<const LinearPart> parts) = nullptr;

  // cos_sin[M, rotary_dim] = cos(p * inv_freq) in the first half, sin in the second, times
  // attention_factor; computed once per step and shared by all layers
  void (*rope_table)(OpContext& ctx, const int32_t* positions, const RopeParams& rope,
                     TensorView cos_sin) = nullptr;

  // x[M, heads, head_dim] in place: each pair (a, b) -> (a cos - b sin, b cos + a sin)
  void (*rope)(OpContext& ctx, TensorView x, const RopeParams& rope, TensorView cos_sin) = nullptr;

  // page slot_mapping[m] (block * block_size + offset) = k[m], v[m]: [M, kv_heads, head_dim]
  void (*kv_append)(OpContext& ctx, TensorView k, TensorView v, const int64_t* slot_mapping,
                    const KVLayerView& kv) = nullptr;

  // out = softmax(scale q K^T) V, causal, over pages
  void (*attention)(OpContext& ctx, const AttentionArgs& args) = nullptr;

  // out[M, n] = silu(gate) * up
  void (*silu_mul)(OpContext& ctx, TensorView gate, TensorView up, TensorView out) = nullptr;

  // residual[M, n] += x
  void (*add)(OpContext& ctx, TensorView residual, TensorView x) = nullptr;

  // out[R, n] = x[rows[r]]
  void (*gather_rows)(OpContext& ctx, TensorView x, const int32_t* rows, int64_t num_rows,
                      TensorView out) = nullptr;

  // Gigabytes per second at which this backend reads `ranges`, weights as a rule, with the
  // context's threads: the roof of decode. Median of several passes over all of them.
  double (*measure_read_gb_s)(OpContext& ctx, std::span<const ByteRange> ranges) = nullptr;
};

enum class CpuIsa : uint8_t { kAuto, kRef, kAvx2, kAvx512 };

// The table for an instruction set; null when this CPU or build lacks it. kAuto picks the best.
const Ops* cpu_ops(CpuIsa isa);
const char* cpu_isa_name(CpuIsa isa);

}  // namespace slipstream
