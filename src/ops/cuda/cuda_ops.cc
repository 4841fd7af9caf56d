// The CUDA table: which kernel runs an op, with which arguments.
//
// Everything of one context runs on one stream, in order. Engine thread only.
#include <cuda_runtime.h>

#include <algorithm>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/strings.h"
#include "ops/cuda/attention/decode_paged.h"
#include "ops/cuda/device_state.h"
#include "ops/cuda/linear/skinny.h"
#include "ops/cuda/linear/skinny_int4.h"
#include "ops/cuda/measure_limits.h"
#include "ops/cuda/nvtx_ops.h"
#include "ops/cuda/pack.h"
#include "ops/cuda/qkv.h"
#include "ops/cuda/rowwise.h"
#include "ops/ops.h"

namespace slipstream {
namespace {

using cuda::check;
using cuda::device_memory;
using cuda::DeviceState;
using cuda::state_of;

DType linear_input(const Weight& weight) {
  return weight.dtype == DType::kI4 ? DType::kBF16 : weight.dtype;
}

cuda::RowOutput row_output(const Activations& out) { return {out.values.data, out.row_scales}; }

void embed(OpContext& ctx, const Weight& table, const int32_t* token_ids, TensorView out) {
  check(cuda::gather_rows(table.payload, token_ids, static_cast<int>(out.dim(0)), table.cols * 2,
                          out.data, state_of(ctx).stream),
        "embed");
}

void gather_rows(OpContext& ctx, TensorView x, const int32_t* rows, int64_t num_rows,
                 TensorView out) {
  check(cuda::gather_rows(x.data, rows, static_cast<int>(num_rows), x.dim(1) * 2, out.data,
                          state_of(ctx).stream),
        "gather_rows");
}

void norm(OpContext& ctx, TensorView x, void* residual, const float* weight, float eps,
          const Activations& out) {
  check(cuda::rms_norm({.x = x.data,
                        .residual = residual,
                        .weight = weight,
                        .eps = eps,
                        .num_rows = static_cast<int>(x.dim(0)),
                        .num_cols = static_cast<int>(x.dim(1)),
                        .out = row_output(out)},
                       state_of(ctx).stream),
        "rms_norm");
}
void rms_norm(OpContext& ctx, TensorView x, const float* weight, float eps, Activations out) {
  norm(ctx, x, nullptr, weight, eps, out);
}
void add_rms_norm(OpContext& ctx, TensorView residual, TensorView x, const float* weight, float eps,
                  Activations out) {
  norm(ctx, x, residual.data, weight, eps, out);
}

void silu_mul(OpContext& ctx, TensorView gate, TensorView up, Activations out) {
  SLIPSTREAM_CHECK(static_cast<uint16_t*>(gate.data) + gate.dim(1) == up.data &&
                       gate.stride[0] == 2 * gate.dim(1),
                   "gate and up are halves of one buffer");
  check(cuda::silu_mul(gate.data, static_cast<int>(gate.dim(0)), static_cast<int>(gate.dim(1)),
                       row_output(out), state_of(ctx).stream),
        "silu_mul");
}

void to_activations(OpContext& ctx, TensorView x, Activations out) {
  if (x.data == out.values.data) return;
  check(cuda::quantize_rows(x.data, static_cast<int>(x.dim(0)), static_cast<int>(x.dim(1)),
                            row_output(out), state_of(ctx).stream),
        "to_activations");
}

// Whether `next` continues `part`: one GEMM then computes both.
bool continues(const LinearPart& part, const LinearPart& next) {
  const Weight& a = *part.weight;
  const Weight& b = *next.weight;
  const auto y_bytes = static_cast<int64_t>(dtype_bytes(part.y.dtype));
  return a.dtype == b.dtype && a.payload + a.payload_bytes == b.payload &&
         static_cast<std::byte*>(part.y.data) + a.rows * y_bytes == next.y.data &&
         (a.row_scales == nullptr || a.row_scales + a.rows == b.row_scales) &&
         (a.group_scales == nullptr || a.group_scales + a.num_group_scales() == b.group_scales);
}

// Batches of similar sizes share a plan: the rows beyond M are computed and mean nothing.
int64_t rounded_tokens(int64_t num_tokens, int64_t max_tokens) {
  const int64_t step = num_tokens <= 64     ? 8
                       : num_tokens <= 512  ? 32
                       : num_tokens <= 1024 ? 128
                       : num_tokens <= 4096 ? 256
                                            : 512;
  return std::min((num_tokens + step - 1) / step * step, max_tokens);
}

// num_rows rows of a dense matrix, and where their products go.
struct DenseRows {
  const void* values = nullptr;
  DType dtype = DType::kBF16;
  const float* row_scales = nullptr;
  int64_t num_rows = 0;
  int64_t num_cols = 0;
};

void library_gemm(DeviceState& state, const Activations& x, const DenseRows& w, TensorView y) {
  // As many rows as the buffers have: logits are wanted of some tokens only.
  const int64_t most =
      std::max(x.values.dim(0),
               y.dtype == DType::kF32 ? state.limits.max_logit_rows : state.limits.max_tokens);
  const GemmShape shape{.num_tokens = rounded_tokens(x.values.dim(0), most),
                        .num_rows = w.num_rows,
                        .num_cols = w.num_cols,
                        .input = w.dtype,
                        .output = y.dtype,
                        .y_stride = y.stride[0]};
  const cuda::GemmOperands operands{.x = x.values.data,
                                    .w = w.values,
                                    .y = y.data,
                                    .x_scale = x.row_scales,
                                    .w_scale = w.row_scales};
  const Status status = state.cublaslt->gemm(shape, operands, state.stream);
  SLIPSTREAM_CHECK(status.ok(), status.message());
}

// Many tokens: some rows at a time as bf16, in pieces of one size so that they share a plan.
void dequantized_gemm(DeviceState& state, const Activations& x, const cuda::Int4Matrix& w,
                      TensorView y) {
  constexpr int64_t kTileRows = 128;  // of the library's kernels
  const int64_t at_once = cuda::kDequantizedBytes / 2 / w.num_cols / kTileRows * kTileRows;
  SLIPSTREAM_CHECK(at_once > 0, "a tile of rows fits as bf16");
  const int64_t num_pieces = (w.num_rows + at_once - 1) / at_once;
  const int64_t least_rows = (w.num_rows + num_pieces - 1) / num_pieces;
  const int64_t piece_rows = (least_rows + kTileRows - 1) / kTileRows * kTileRows;
  for (int64_t first = 0; first < w.num_rows; first += piece_rows) {
    const int64_t num_rows = std::min(piece_rows, w.num_rows - first);
    const cuda::Int4Matrix piece{
        .values = static_cast<const std::byte*>(w.values) + first * int4_value_bytes(w.num_cols),
        .scales = w.scales + first * int4_num_scales(w.num_cols),
        .num_rows = num_rows,
        .num_cols = w.num_cols};
    check(cuda::dequantize_int4(piece, state.dequantized.data(), state.stream), "dequantize");
    library_gemm(state, x,
                 {.values = state.dequantized.data(), .num_rows = num_rows, .num_cols = w.num_cols},
                 y.columns(first, num_rows));
  }
}

void int4_gemm(DeviceState& state, const Activations& x, const LinearPart& part, int64_t num_rows) {
  const Weight& weight = *part.weight;
  const cuda::Int4Matrix w{.values = weight.payload,
                           .scales = weight.group_scales,
                           .num_rows = num_rows,
                           .num_cols = weight.cols};
  if (!state.deterministic && x.values.dim(0) <= cuda::kSkinnyInt4MaxTokens &&
      part.y.dtype == DType::kBF16) {
    check(cuda::skinny_int4({.x = x.values.data,
                             .w = w,
                             .y = part.y.data,
                             .y_stride = part.y.stride[0],
                             .num_tokens = static_cast<int>(x.values.dim(0))},
                            state.stream),
          "linear");
    return;
  }
  dequantized_gemm(state, x, w, part.y);
}

void gemm(OpContext& ctx, const Activations& x, const LinearPart& part, int64_t num_rows) {
  DeviceState& state = state_of(ctx);
  const Weight& weight = *part.weight;
  if (weight.dtype == DType::kI4) {
    int4_gemm(state, x, part, num_rows);
    return;
  }
  // Below this many tokens reading the weights is all that counts, and the own kernel is faster:
  // 8 tokens through a layer of 218 MB took it 102 us and cuBLASLt 114 (1 x H200).
  constexpr int64_t kSkinnyTokens = 16;
  if (!state.deterministic && weight.dtype == DType::kF8E4M3 && x.values.dim(0) <= kSkinnyTokens &&
      part.y.dtype == DType::kBF16 && weight.cols % 128 == 0 && num_rows % 16 == 0) {
    check(cuda::skinny_e4m3({.x = x.values.data,
                             .w = weight.payload,
                             .y = part.y.data,
                             .y_stride = part.y.stride[0],
                             .x_scale = x.row_scales,
                             .w_scale = weight.row_scales,
                             .num_tokens = static_cast<int>(x.values.dim(0)),
                             .num_rows = static_cast<int>(num_rows),
                             .num_cols = static_cast<int>(weight.cols),
                             .workspace = state.skinny_workspace.data()},
                            state.num_sms, state.stream),
          "linear");
    return;
  }
  library_gemm(state, x,
               {.values = weight.payload,
                .dtype = weight.dtype,
                .row_scales = weight.row_scales,
                .num_rows = num_rows,
                .num_cols = weight.cols},
               part.y);
}

void linear(OpContext& ctx, const Activations& x, std::span<const LinearPart> parts) {
  for (size_t first = 0; first < parts.size();) {
    int64_t num_rows = parts[first].weight->rows;
    size_t last = first;
    while (last + 1 < parts.size() && continues(parts[last], parts[last + 1])) {
      num_rows += parts[++last].weight->rows;
    }
    gemm(ctx, x, parts[first], num_rows);
    first = last + 1;
  }
  for (const LinearPart& part : parts) {
    if (part.bias == nullptr) continue;
    check(cuda::add_bias(part.y.data, part.y.stride[0], part.bias, static_cast<int>(part.y.dim(0)),
                         static_cast<int>(part.weight->rows), state_of(ctx).stream),
          "bias");
  }
}

void rope_table(OpContext& ctx, const int32_t* positions, const RopeParams& rope,
                TensorView cos_sin) {
  check(cuda::rope_table(positions, static_cast<int>(cos_sin.dim(0)), rope.inv_freq,
                         rope.rotary_dim, rope.attention_factor, static_cast<float*>(cos_sin.data),
                         state_of(ctx).stream),
        "rope_table");
}

cuda::KvType kv_type(DType dtype) {
  return dtype == DType::kF8E4M3 ? cuda::KvType::kE4M3 : cuda::KvType::kBF16;
}

void norm_rope_append(OpContext& ctx, const QkvArgs& args) {
  check(cuda::norm_rope_append({.qkv = args.q.data,
                                .q_norm = args.q_norm,
                                .k_norm = args.k_norm,
                                .eps = args.norm_eps,
                                .cos_sin = static_cast<const float*>(args.cos_sin.data),
                                .rotary_dim = args.rope.rotary_dim,
                                .interleaved = args.rope.interleaved,
                                .slot_mapping = args.slot_mapping,
                                .k_pages = args.kv.k,
                                .v_pages = args.kv.v,
                                .kv_type = kv_type(args.kv.dtype),
                                .num_tokens = static_cast<int>(args.q.dim(0)),
                                .num_heads = static_cast<int>(args.q.dim(1)),
                                .num_kv_heads = args.kv.num_kv_heads,
                                .head_dim = args.kv.head_dim},
                               state_of(ctx).stream),
        "norm_rope_append");
}

cuda::PagedAttentionArgs paged(const AttentionArgs& args) {
  const BatchView& batch = args.batch;
  return {.q = args.q.data,
          .out = args.out.data,
          .q_stride = args.q.stride[0],
          .out_stride = args.out.stride[0],
          .k_pages = args.kv.k,
          .v_pages = args.kv.v,
          .kv_type = kv_type(args.kv.dtype),
          .block_table = batch.block_table,
          .block_table_stride = batch.block_table_stride,
          .num_heads = static_cast<int>(args.q.dim(1)),
          .num_kv_heads = args.kv.num_kv_heads,
          .head_dim = args.kv.head_dim,
          .scale = args.scale,
          .window = args.window,
          .softcap = args.softcap};
}

void decode(DeviceState& state, const AttentionArgs& args, const AttentionPlan& plan) {
  cuda::DecodeAttentionArgs decode{paged(args)};
  decode.split_len = static_cast<int>(plan.split_len);
  decode.max_splits = plan.num_splits;
  decode.partials = state.partials.as<float>();
  // Where parts may not be longer than one length, many queries of long contexts take turns.
  constexpr int64_t kMostQueries = 65535;  // of a grid
  int64_t at_once = std::min<int64_t>(plan.num_queries, kMostQueries);
  if (decode.max_splits > 1) {
    const int64_t floats_per_query =
        int64_t{decode.num_heads} * decode.max_splits * (decode.head_dim + 1);
    at_once = std::min(at_once, state.partials_floats / floats_per_query);
  }
  for (int64_t first = 0; first < plan.num_queries; first += at_once) {
    decode.queries = plan.queries + first;
    decode.num_queries = static_cast<int>(std::min(at_once, plan.num_queries - first));
    check(cuda::decode_attention(decode, state.stream), "attention (decode)");
  }
}

void attention(OpContext& ctx, const AttentionArgs& args) {
  DeviceState& state = state_of(ctx);
  const auto& plan = *static_cast<const AttentionPlan*>(args.batch.plan);
  if (plan.num_queries > 0) decode(state, args, plan);
  if (plan.num_tiles == 0) return;
  SLIPSTREAM_CHECK(args.q.dim(1) / args.kv.num_kv_heads == state.limits.heads_per_kv_head,
                   "the step's tiles are cut for this many heads");
  cuda::PrefillAttentionArgs prefill{paged(args)};
  prefill.tiles = plan.tiles;
  prefill.num_tiles = plan.num_tiles;
  const bool by_warpgroups = args.kv.head_dim == 64 || args.kv.head_dim == 128;
  check(by_warpgroups ? cuda::prefill_attention_warpgroups(prefill, state.num_sms, state.stream)
                      : cuda::prefill_attention(prefill, state.stream),
        "attention (prefill)");
}

void replay(OpContext& ctx, uint64_t key, const std::function<void()>& launch) {
  DeviceState& state = state_of(ctx);
  auto found = state.graphs.find(key);
  if (found == state.graphs.end()) {
    launch();  // what an op prepares the first time cannot be recorded; computing twice is harmless
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t runnable = nullptr;
    check(cudaStreamBeginCapture(state.stream, cudaStreamCaptureModeThreadLocal), "capture");
    launch();
    check(cudaStreamEndCapture(state.stream, &graph), "capture");
    check(cudaGraphInstantiate(&runnable, graph, 0), "graph");
    check(cudaGraphDestroy(graph), "graph");
    found = state.graphs.emplace(key, runnable).first;
  }
  check(cudaGraphLaunch(found->second, state.stream), "graph");
}

}  // namespace

const Ops* cuda_ops(std::string* why) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count == 0) {
    *why = error == cudaSuccess ? "no GPU is visible" : cudaGetErrorString(error);
    return nullptr;
  }
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, 0), "properties");
  if (properties.major != 9 || properties.minor != 0) {
    *why = str("the kernels are built for sm_90; ", properties.name, " is sm_", properties.major,
               properties.minor);
    return nullptr;
  }
  static const Ops kOps = {
      .name = "cuda",
      .memory = &device_memory(),
      .activation_dtype = DType::kBF16,
      .describe = cuda::describe,
      .open = cuda::open,
      .pack = cuda::pack,
      .pack_random = cuda::pack_random,
      .linear_input = linear_input,
      .begin_step = cuda::begin_step,
      .embed = embed,
      .rms_norm = rms_norm,
      .add_rms_norm = add_rms_norm,
      .to_activations = to_activations,
      .linear = linear,
      .rope_table = rope_table,
      .norm_rope_append = norm_rope_append,
      .attention = attention,
      .silu_mul = silu_mul,
      .gather_rows = gather_rows,
      .replay = replay,
      .sample = cuda::sample,
      .set_sample_state = cuda::set_sample_state,
      .sampled = cuda::sampled,
      .sampled_logprobs = cuda::sampled_logprobs,
      .busy_ns = cuda::busy_ns,
      .mark = cuda::mark,
      .between_us = cuda::between_us,
      .measure_read_gb_s = cuda::measure_read_gb_s,
      .measure_limits = cuda::measure_limits,
  };
  return &cuda::with_nvtx_ranges(kOps);
}

}  // namespace slipstream
