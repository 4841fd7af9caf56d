#include "ops/staged_ops.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <vector>

#include "base/check.h"
#include "core/e4m3.h"
#include "core/half.h"

namespace slipstream {
namespace {

StagedContext& staged(OpContext& ctx) { return static_cast<StagedContext&>(ctx); }

// Bytes on the device, from the host or to fill. `spare_rows` are for kernels that compute beyond
// the batch's last row.
Buffer copied_in(const Ops& device, const void* host, size_t bytes) {
  Buffer buffer(std::max<size_t>(bytes, 16), *device.memory);
  if (bytes > 0) device.memory->copy_in(buffer.data(), host, bytes);
  return buffer;
}

// A [rows, width] array of bf16 on the device, rows `capacity` at least.
class Rows {
 public:
  Rows(StagedContext& ctx, int64_t num_rows, int64_t width)
      : ctx_(ctx),
        num_rows_(num_rows),
        width_(width),
        buffer_(static_cast<size_t>(std::max(num_rows, ctx.limits.max_tokens) * width * 2),
                *ctx.device->memory) {
    ctx.device->memory->fill(buffer_.data(), 0xFF, buffer_.bytes());  // NaN: what nobody wrote
  }
  // Columns [begin, begin + count of the view's) from a view of floats.
  void put(TensorView from, int64_t begin = 0) {
    std::vector<uint16_t> values(static_cast<size_t>(num_rows_ * width_));
    fetch(values);
    const int64_t count = from.num_elements() / std::max<int64_t>(from.dim(0), 1);
    for (int64_t m = 0; m < from.dim(0); ++m) {
      for (int64_t i = 0; i < count; ++i) {
        values[static_cast<size_t>(m * width_ + begin + i)] = f32_to_bf16(from.f32_row(m)[i]);
      }
    }
    ctx_.device->memory->copy_in(buffer_.data(), values.data(), values.size() * 2);
  }
  void get(TensorView to, int64_t begin = 0) const {
    std::vector<uint16_t> values(static_cast<size_t>(num_rows_ * width_));
    fetch(values);
    const int64_t count = to.num_elements() / std::max<int64_t>(to.dim(0), 1);
    for (int64_t m = 0; m < to.dim(0); ++m) {
      for (int64_t i = 0; i < count; ++i) {
        to.f32_row(m)[i] = bf16_to_f32(values[static_cast<size_t>(m * width_ + begin + i)]);
      }
    }
  }
  TensorView view() const {
    return TensorView::contiguous(buffer_.data(), DType::kBF16, {num_rows_, width_});
  }
  TensorView heads(int64_t begin, int64_t num_heads, int64_t head_dim) const {
    TensorView view = this->view().columns(begin, num_heads * head_dim);
    view.rank = 3;
    view.shape = {num_rows_, num_heads, head_dim, 0};
    view.stride = {width_, head_dim, 1, 0};
    return view;
  }

 private:
  void fetch(std::vector<uint16_t>& values) const {
    ctx_.device->memory->copy_out(values.data(), buffer_.data(), values.size() * 2);
  }

  StagedContext& ctx_;
  int64_t num_rows_;
  int64_t width_;
  Buffer buffer_;
};

void wait(StagedContext& ctx, const Buffer& any) {
  std::byte byte{};
  ctx.device->memory->copy_out(&byte, any.data(), 1);
}

// Microseconds of `launch` when launches follow each other without a gap; afterwards, because ops
// that work in place change their input each time.
void time_launches(StagedContext& ctx, const std::function<void()>& launch) {
  if (!ctx.timed) return;
  constexpr int kLaunches = 20;
  const auto all = [&] {
    for (int i = 0; i < kLaunches; ++i) launch();
  };
  const Buffer any(16, *ctx.device->memory);
  const uint64_t key = ctx.next_key++;
  const auto run = [&] {
    if (ctx.device->replay != nullptr) {
      ctx.device->replay(ctx.device_ctx, key, all);
    } else {
      all();
    }
    wait(ctx, any);
  };
  run();
  std::array<double, 9> us{};
  for (double& value : us) {
    const auto begin = std::chrono::steady_clock::now();
    run();
    const std::chrono::duration<double, std::micro> spent =
        std::chrono::steady_clock::now() - begin;
    value = spent.count() / kLaunches;
  }
  std::sort(us.begin(), us.end());
  ctx.us = us[us.size() / 2];
}

Result<Weight> pack(OpContext& ctx, const SourceMatrix& source, WeightRole role) {
  StagedContext& s = staged(ctx);
  return s.device->pack(s.device_ctx, source, role);
}

void embed(OpContext& ctx, const Weight& table, const int32_t* token_ids, TensorView out) {
  StagedContext& s = staged(ctx);
  const Buffer ids = copied_in(*s.device, token_ids, static_cast<size_t>(out.dim(0)) * 4);
  Rows rows(s, out.dim(0), out.dim(1));
  const auto launch = [&] { s.device->embed(s.device_ctx, table, ids.as<int32_t>(), rows.view()); };
  launch();
  rows.get(out);
  time_launches(s, launch);
}

void gather_rows(OpContext& ctx, TensorView x, const int32_t* rows, int64_t num_rows,
                 TensorView out) {
  StagedContext& s = staged(ctx);
  const Buffer ids = copied_in(*s.device, rows, static_cast<size_t>(num_rows) * 4);
  Rows from(s, x.dim(0), x.dim(1));
  Rows to(s, num_rows, x.dim(1));
  from.put(x);
  const auto launch = [&] {
    s.device->gather_rows(s.device_ctx, from.view(), ids.as<int32_t>(), num_rows, to.view());
  };
  launch();
  to.get(out);
  time_launches(s, launch);
}

void rms_norm(OpContext& ctx, TensorView x, const float* weight, float eps, Activations out) {
  StagedContext& s = staged(ctx);
  const Buffer weights = copied_in(*s.device, weight, static_cast<size_t>(x.dim(1)) * 4);
  Rows from(s, x.dim(0), x.dim(1));
  Rows to(s, x.dim(0), x.dim(1));
  from.put(x);
  const auto launch = [&] {
    s.device->rms_norm(s.device_ctx, from.view(), weights.as<float>(), eps, to.view());
  };
  launch();
  to.get(out.values);
  time_launches(s, launch);
}

void add_rms_norm(OpContext& ctx, TensorView residual, TensorView x, const float* weight, float eps,
                  Activations out) {
  StagedContext& s = staged(ctx);
  const Buffer weights = copied_in(*s.device, weight, static_cast<size_t>(x.dim(1)) * 4);
  Rows sum(s, x.dim(0), x.dim(1));
  Rows from(s, x.dim(0), x.dim(1));
  Rows to(s, x.dim(0), x.dim(1));
  sum.put(residual);
  from.put(x);
  const auto launch = [&] {
    s.device->add_rms_norm(s.device_ctx, sum.view(), from.view(), weights.as<float>(), eps,
                           to.view());
  };
  launch();
  to.get(out.values);
  sum.get(residual);
  time_launches(s, launch);
}

void silu_mul(OpContext& ctx, TensorView gate, TensorView up, Activations out) {
  StagedContext& s = staged(ctx);
  const int64_t width = gate.dim(1);
  Rows both(s, gate.dim(0), 2 * width);
  Rows to(s, gate.dim(0), width);
  both.put(gate);
  both.put(up, width);
  const auto launch = [&] {
    s.device->silu_mul(s.device_ctx, both.view().columns(0, width),
                       both.view().columns(width, width), to.view());
  };
  launch();
  to.get(out.values);
  time_launches(s, launch);
}

void linear(OpContext& ctx, const Activations& x, std::span<const LinearPart> parts) {
  StagedContext& s = staged(ctx);
  Rows from(s, x.values.dim(0), x.values.dim(1));
  from.put(x.values);
  int64_t width = 0;
  for (const LinearPart& part : parts) width += part.weight->rows;
  // Rows of y begin where 16-byte accesses can.
  Rows to(s, x.values.dim(0), (width + 7) / 8 * 8);
  std::vector<LinearPart> device_parts;
  std::vector<Buffer> biases;
  int64_t begin = 0;
  for (const LinearPart& part : parts) {
    const int64_t rows = part.weight->rows;
    const float* bias = nullptr;
    if (part.bias != nullptr) {
      biases.push_back(copied_in(*s.device, part.bias, static_cast<size_t>(rows) * 4));
      bias = biases.back().as<float>();
    }
    device_parts.push_back({part.weight, bias, to.view().columns(begin, rows)});
    begin += rows;
  }
  // What the op's kernels read: the rows as they are, or E4M3 with a scale a row.
  const DType wanted = s.device->linear_input(*parts.front().weight);
  const bool quantized = wanted != DType::kBF16;
  const auto capacity = static_cast<size_t>(std::max(x.values.dim(0), s.limits.max_tokens));
  const Buffer values(quantized ? capacity * static_cast<size_t>(x.values.dim(1)) : 16,
                      *s.device->memory);
  const Buffer scales(quantized ? capacity * sizeof(float) : 16, *s.device->memory);
  Activations input = from.view();
  if (quantized) {
    input = {TensorView::contiguous(values.data(), wanted, {x.values.dim(0), x.values.dim(1)}),
             scales.as<float>()};
    s.device->to_activations(s.device_ctx, from.view(), input);
  }
  const auto launch = [&] { s.device->linear(s.device_ctx, input, device_parts); };
  launch();
  begin = 0;
  for (const LinearPart& part : parts) {
    to.get(part.y, begin);
    begin += part.weight->rows;
  }
  time_launches(s, launch);
}

// The pages are the host's, so its ops fill them.
void kv_append(OpContext& ctx, TensorView k, TensorView v, const int64_t* slots,
               const KVLayerView& kv) {
  cpu_ops(CpuIsa::kRef)->kv_append(ctx, k, v, slots, kv);
}

// A layer's pages on the device, where bf16 stands for the host's f16 and E4M3 for its f32, and K
// lies as V does.
class Pages {
 public:
  Pages(const Ops& device, const KVLayerView& host) : device_(device), host_(host), view_(host) {
    view_.dtype = host.dtype == DType::kF16 ? DType::kBF16 : DType::kF8E4M3;
    k_ = upload(host.k, true);
    v_ = upload(host.v, false);
    view_.k = k_.data();
    view_.v = v_.data();
  }
  const KVLayerView& view() const { return view_; }
  void download() const {
    download(k_, host_.k, true);
    download(v_, host_.v, false);
  }

 private:
  size_t num_values() const {
    return static_cast<size_t>(host_.num_blocks * host_.num_kv_heads * host_.block_size *
                               host_.head_dim);
  }
  // Where the host has what the device has at `idx`.
  size_t host_idx(size_t idx, bool transposed) const {
    if (!transposed) return idx;
    const auto dim = static_cast<size_t>(host_.head_dim);
    const auto block_size = static_cast<size_t>(host_.block_size);
    const size_t page = idx / (dim * block_size);
    const size_t position = idx / dim % block_size;
    return (page * dim + idx % dim) * block_size + position;
  }
  float host_value(const void* pages, size_t idx) const {
    return host_.dtype == DType::kF16 ? f16_to_f32(static_cast<const uint16_t*>(pages)[idx])
                                      : static_cast<const float*>(pages)[idx];
  }
  Buffer upload(const void* pages, bool transposed) const {
    const size_t bytes = num_values() * dtype_bytes(view_.dtype);
    std::vector<std::byte> encoded(bytes);
    for (size_t i = 0; i < num_values(); ++i) {
      const float value = host_value(pages, host_idx(i, transposed));
      if (view_.dtype == DType::kBF16) {
        reinterpret_cast<uint16_t*>(encoded.data())[i] = f32_to_bf16(value);
      } else {
        reinterpret_cast<uint8_t*>(encoded.data())[i] = f32_to_e4m3(value);
      }
    }
    return copied_in(device_, encoded.data(), bytes);
  }
  void download(const Buffer& from, void* pages, bool transposed) const {
    std::vector<std::byte> encoded(num_values() * dtype_bytes(view_.dtype));
    device_.memory->copy_out(encoded.data(), from.data(), encoded.size());
    for (size_t i = 0; i < num_values(); ++i) {
      const float value = view_.dtype == DType::kBF16
                              ? bf16_to_f32(reinterpret_cast<const uint16_t*>(encoded.data())[i])
                              : e4m3_to_f32(reinterpret_cast<const uint8_t*>(encoded.data())[i]);
      const size_t at = host_idx(i, transposed);
      if (host_.dtype == DType::kF16) {
        static_cast<uint16_t*>(pages)[at] = f32_to_f16(value);
      } else {
        static_cast<float*>(pages)[at] = value;
      }
    }
  }

  const Ops& device_;
  KVLayerView host_;
  KVLayerView view_;
  Buffer k_;
  Buffer v_;
};

void attention(OpContext& ctx, const AttentionArgs& args) {
  StagedContext& s = staged(ctx);
  const int64_t num_heads = args.q.dim(1);
  const int64_t head_dim = args.q.dim(2);
  const BatchView& host = args.batch;
  ForwardBatch batch;
  batch.cu_seqlens_q.assign(host.cu_seqlens_q, host.cu_seqlens_q + host.num_seqs + 1);
  batch.seq_lens.assign(host.seq_lens, host.seq_lens + host.num_seqs);
  batch.block_table.assign(host.block_table,
                           host.block_table + host.num_seqs * host.block_table_stride);
  for (int32_t& block : batch.block_table) block = std::max(block, 0);
  batch.block_table_stride = host.block_table_stride;
  batch.token_ids.resize(static_cast<size_t>(args.q.dim(0)));
  batch.positions.resize(batch.token_ids.size());
  batch.slot_mapping.resize(batch.token_ids.size());
  Rows q(s, args.q.dim(0), num_heads * head_dim);
  Rows out(s, args.q.dim(0), num_heads * head_dim);
  q.put(args.q);
  const Pages pages(*s.device, args.kv);
  AttentionArgs device = args;
  device.q = q.heads(0, num_heads, head_dim);
  device.out = out.heads(0, num_heads, head_dim);
  device.kv = pages.view();
  device.batch = s.device->begin_step(s.device_ctx, batch, {});
  const auto launch = [&] { s.device->attention(s.device_ctx, device); };
  launch();
  out.get(args.out);
  time_launches(s, launch);
}

void norm_rope_append(OpContext& ctx, const QkvArgs& args) {
  StagedContext& s = staged(ctx);
  const int64_t head_dim = args.kv.head_dim;
  const int64_t num_heads = args.q.dim(1);
  const int64_t kv_heads = args.kv.num_kv_heads;
  const int64_t num_tokens = args.q.dim(0);
  Rows qkv(s, num_tokens, (num_heads + 2 * kv_heads) * head_dim);
  qkv.put(args.q);
  qkv.put(args.k, num_heads * head_dim);
  qkv.put(args.v, (num_heads + kv_heads) * head_dim);
  const auto floats = [&](const float* values, int64_t count) {
    return copied_in(*s.device, values, values == nullptr ? 0 : static_cast<size_t>(count) * 4);
  };
  const Buffer q_norm = floats(args.q_norm, head_dim);
  const Buffer k_norm = floats(args.k_norm, head_dim);
  const Buffer cos_sin =
      floats(static_cast<const float*>(args.cos_sin.data), num_tokens * args.rope.rotary_dim);
  const Buffer slots =
      copied_in(*s.device, args.slot_mapping, static_cast<size_t>(num_tokens) * sizeof(int64_t));
  const Pages pages(*s.device, args.kv);
  QkvArgs device = args;
  device.q = qkv.heads(0, num_heads, head_dim);
  device.k = qkv.heads(num_heads * head_dim, kv_heads, head_dim);
  device.v = qkv.heads((num_heads + kv_heads) * head_dim, kv_heads, head_dim);
  device.q_norm = args.q_norm == nullptr ? nullptr : q_norm.as<float>();
  device.k_norm = args.k_norm == nullptr ? nullptr : k_norm.as<float>();
  device.cos_sin.data = cos_sin.data();
  device.slot_mapping = slots.as<int64_t>();
  device.kv = pages.view();
  const auto launch = [&] { s.device->norm_rope_append(s.device_ctx, device); };
  launch();
  qkv.get(args.q);
  pages.download();
  time_launches(s, launch);
}

// Over a buffer of the device's, as large as the ranges.
double measure_read_gb_s(OpContext& ctx, std::span<const ByteRange> ranges) {
  StagedContext& s = staged(ctx);
  constexpr size_t kLeast = size_t{1} << 30;  // far more than a cache holds
  const Buffer buffer(std::max(ranges.front().size(), kLeast), *s.device->memory);
  s.device->memory->fill(buffer.data(), 1, buffer.bytes());
  const std::array own = {ByteRange{buffer.as<std::byte>(), buffer.bytes()}};
  return s.device->measure_read_gb_s(s.device_ctx, own);
}

bool has(const Ops& device, const std::string& op) {
  if (op == "linear") return device.linear != nullptr;
  if (op == "embed") return device.embed != nullptr;
  if (op == "rms_norm") return device.rms_norm != nullptr;
  if (op == "add_rms_norm") return device.add_rms_norm != nullptr;
  if (op == "silu_mul") return device.silu_mul != nullptr;
  if (op == "gather_rows") return device.gather_rows != nullptr;
  if (op == "attention") return device.attention != nullptr;
  if (op == "norm_rope_append") return device.norm_rope_append != nullptr;
  if (op == "add") return device.add != nullptr;
  if (op == "head_rms_norm") return device.head_rms_norm != nullptr;
  if (op == "rope") return device.rope != nullptr;
  return op == "kv_append" && device.kv_append != nullptr;
}

// Inputs and pages are exact in the device's types, so what is left is its own rounding: of a
// value, bf16 rounds away 2^-9, and the largest of many is up to ten times their root mean square.
double staged_tolerance(const StagedContext& ctx, const OpCase& op_case) {
  constexpr double kBf16 = 1.0 / 512.0;
  const bool e4m3_pages = op_case.needs.kv_dtype == DType::kF32;
  if (op_case.op == "linear") {
    // Weights of most formats are rounded as well; in E4M3 both factors are, each by 2.6 % (root
    // mean square), and 4.5 times the sum of it is the largest of many.
    return ctx.device_ctx.weight_dtype == DType::kF8E4M3 ? 0.25 : 16 * kBf16;
  }
  if (op_case.op == "norm_rope_append" && e4m3_pages) return 0.25;  // 2^-4 of the largest
  return 10 * kBf16;
}

std::string refusal(StagedContext& ctx, const OpCase& op_case) {
  if (!has(*ctx.device, op_case.op)) return "done by another op of the table, which is checked";
  if (op_case.needs.cols % 16 != 0) return "rows are not of a multiple of 16 values";
  if (op_case.needs.odd_rows && ctx.device_ctx.weight_dtype == DType::kF8E4M3) {
    return "E4M3 matrices have a multiple of 16 rows";
  }
  if (op_case.op == "linear" && ctx.device_ctx.weight_dtype == DType::kI4 &&
      !op_case.needs.of_int4) {
    return "INT4 rows do not hold its values";
  }
  if (op_case.needs.head_dim == 0) return {};
  // How a batch is cut depends on the group, and that is fixed when a table is opened.
  OpLimits limits = ctx.limits;
  limits.max_head_dim = op_case.needs.head_dim;
  limits.heads_per_kv_head = op_case.needs.heads_per_kv_head;
  const Status opened = ctx.device->open(ctx.device_ctx, limits);
  return opened.ok() ? std::string() : opened.message();
}

}  // namespace

Status open_staged(StagedContext& ctx, const Ops& device, DType weight_dtype) {
  SLIPSTREAM_RETURN_IF_ERROR(cpu_ops(CpuIsa::kRef)->open(ctx, op_case_limits()));
  ctx.device = &device;
  ctx.limits = op_case_limits();
  ctx.limits.max_logit_rows = ctx.limits.max_tokens;
  ctx.limits.max_head_dim = 64;
  ctx.device_ctx = OpContext();
  ctx.device_ctx.pool = ctx.pool;
  ctx.device_ctx.weight_dtype = weight_dtype;
  return device.open(ctx.device_ctx, ctx.limits);
}

OpCheckOptions staged_check_options(StagedContext& ctx, std::string_view op, bool timed) {
  ctx.timed = timed;
  return {.op = op,
          .timed = timed,
          .refusal = [&ctx](const OpCase& op_case) { return refusal(ctx, op_case); },
          .tolerance = [&ctx](const OpCase& op_case) { return staged_tolerance(ctx, op_case); },
          .last_us = [&ctx] { return ctx.us; }};
}

Ops staged_ops(const Ops& device) {
  Ops ops;
  ops.name = device.name;
  ops.memory = device.memory;
  ops.pack = pack;
  if (device.embed != nullptr) ops.embed = embed;
  if (device.gather_rows != nullptr) ops.gather_rows = gather_rows;
  if (device.rms_norm != nullptr) ops.rms_norm = rms_norm;
  if (device.add_rms_norm != nullptr) ops.add_rms_norm = add_rms_norm;
  if (device.silu_mul != nullptr) ops.silu_mul = silu_mul;
  if (device.linear != nullptr) ops.linear = linear;
  if (device.attention != nullptr) ops.attention = attention;
  if (device.norm_rope_append != nullptr) ops.norm_rope_append = norm_rope_append;
  ops.kv_append = kv_append;
  ops.measure_read_gb_s = measure_read_gb_s;
  return ops;
}

}  // namespace slipstream
