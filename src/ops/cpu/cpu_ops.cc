#include "ops/cpu/cpu_ops.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <vector>

#include "base/check.h"
#include "ops/cpu/attention.h"
#include "ops/cpu/kernels.h"
#include "ops/cpu/linear.h"
#include "ops/cpu/panels.h"

namespace slipstream {
namespace {

// Row-wise work below this many elements costs less than waking a thread.
constexpr int64_t kSerialElements = 32 * 1024;

// row(m) for every row, in parallel when there is work enough; rows are independent.
template <typename Row>
void for_rows(OpContext& ctx, int64_t num_rows, int64_t elements_per_row, const Row& row) {
  if (num_rows * elements_per_row <= kSerialElements) {
    for (int64_t m = 0; m < num_rows; ++m) row(m);
    return;
  }
  const int64_t chunk = std::max<int64_t>(1, kSerialElements / 4 / elements_per_row);
  ctx.pool->run((num_rows + chunk - 1) / chunk, [&](int64_t task, int) {
    const int64_t end = std::min(num_rows, (task + 1) * chunk);
    for (int64_t m = task * chunk; m < end; ++m) row(m);
  });
}

Status open(OpContext& ctx, const OpLimits& limits) {
  ctx.scratch = Buffer(std::max(linear_scratch_bytes(limits), attention_scratch_bytes(limits)));
  return {};
}

DType linear_input(const Weight&) { return DType::kF32; }

BatchView begin_step(OpContext&, const ForwardBatch& batch, BatchFill) { return host_view(batch); }

void to_activations(OpContext&, TensorView x, Activations out) {
  SLIPSTREAM_CHECK(x.data == out.values.data, "the CPU's linear takes activations as they are");
}

void embed(OpContext& ctx, const Weight& table, const int32_t* token_ids, TensorView out) {
  SLIPSTREAM_CHECK(table.layout == WeightLayout::kCpuPanels, "the table must be packed");
  SLIPSTREAM_CHECK(out.dim(1) == table.cols, "out and table disagree on columns");
  for_rows(ctx, out.dim(0), table.cols, [&](int64_t m) {
    SLIPSTREAM_CHECK(token_ids[m] >= 0 && token_ids[m] < table.rows, "token id out of range");
    dequantize_panel_row(table, token_ids[m], out.f32_row(m));
  });
}

void gather_rows(OpContext& ctx, TensorView x, const int32_t* rows, int64_t num_rows,
                 TensorView out) {
  for_rows(ctx, num_rows, x.dim(1),
           [&](int64_t r) { std::copy_n(x.f32_row(rows[r]), x.dim(1), out.f32_row(r)); });
}

// One angle table serves all layers of a step, so double precision costs nothing that counts.
void rope_table(OpContext& ctx, const int32_t* positions, const RopeParams& rope,
                TensorView cos_sin) {
  const int half = rope.rotary_dim / 2;
  constexpr int64_t kElementsPerAngle = 32;  // cos and sin cost as much as this many additions
  for_rows(ctx, cos_sin.dim(0), half * kElementsPerAngle, [&](int64_t m) {
    float* row = cos_sin.f32_row(m);
    for (int i = 0; i < half; ++i) {
      const double angle = static_cast<double>(positions[m]) * rope.inv_freq[i];
      row[i] = static_cast<float>(std::cos(angle) * rope.attention_factor);
      row[half + i] = static_cast<float>(std::sin(angle) * rope.attention_factor);
    }
  });
}

double median(double* values, int count) {
  std::sort(values, values + count);
  return values[count / 2];
}

// The ops of one instruction set; `kernels` is known at compile time, so the table's entries are
// plain functions.
template <const CpuKernels& (*kernels)()>
struct CpuOps {
  static Result<Weight> pack(OpContext& ctx, const SourceMatrix& source, WeightRole) {
    return pack_panels(ctx, source);
  }

  static void rms_norm(OpContext& ctx, TensorView x, const float* weight, float eps,
                       Activations out) {
    for_rows(ctx, x.dim(0), x.dim(1), [&](int64_t m) {
      kernels().rms_norm(x.f32_row(m), weight, eps, x.dim(1), out.values.f32_row(m));
    });
  }

  static void add_rms_norm(OpContext& ctx, TensorView residual, TensorView x, const float* weight,
                           float eps, Activations out) {
    for_rows(ctx, x.dim(0), x.dim(1), [&](int64_t m) {
      kernels().add(residual.f32_row(m), x.f32_row(m), x.dim(1));
      kernels().rms_norm(residual.f32_row(m), weight, eps, x.dim(1), out.values.f32_row(m));
    });
  }

  static void head_rms_norm(OpContext& ctx, TensorView x, const float* weight, float eps) {
    for_rows(ctx, x.dim(0), x.dim(1) * x.dim(2), [&](int64_t m) {
      for (int64_t head = 0; head < x.dim(1); ++head) {
        float* row = x.f32_row(m) + head * x.stride[1];
        kernels().rms_norm(row, weight, eps, x.dim(2), row);
      }
    });
  }

  static void linear(OpContext& ctx, const Activations& x, std::span<const LinearPart> parts) {
    cpu_linear(kernels(), ctx, x.values, parts);
  }

  static void rope(OpContext& ctx, TensorView x, const RopeParams& params, TensorView cos_sin) {
    for_rows(ctx, x.dim(0), x.dim(1) * x.dim(2), [&](int64_t m) {
      for (int64_t head = 0; head < x.dim(1); ++head) {
        kernels().rope(x.f32_row(m) + head * x.stride[1], cos_sin.f32_row(m), params.rotary_dim,
                       params.interleaved);
      }
    });
  }

  static void kv_append(OpContext& ctx, TensorView k, TensorView v, const int64_t* slot_mapping,
                        const KVLayerView& kv) {
    cpu_kv_append(kernels(), ctx, k, v, slot_mapping, kv);
  }

  static void attention(OpContext& ctx, const AttentionArgs& args) {
    cpu_attention(kernels(), ctx, args);
  }

  static void norm_rope_append(OpContext& ctx, const QkvArgs& args) {
    composed_norm_rope_append(table(), ctx, args);
  }

  static void silu_mul(OpContext& ctx, TensorView gate, TensorView up, Activations out) {
    constexpr int64_t kElementsPerExp = 4;
    for_rows(ctx, gate.dim(0), gate.dim(1) * kElementsPerExp, [&](int64_t m) {
      kernels().silu_mul(gate.f32_row(m), up.f32_row(m), gate.dim(1), out.values.f32_row(m));
    });
  }

  static void add(OpContext& ctx, TensorView residual, TensorView x) {
    for_rows(ctx, x.dim(0), x.dim(1),
             [&](int64_t m) { kernels().add(residual.f32_row(m), x.f32_row(m), x.dim(1)); });
  }

  static double measure_read_gb_s(OpContext& ctx, std::span<const ByteRange> ranges) {
    constexpr int kPasses = 9;
    constexpr size_t kChunk = 64 * 1024;
    std::vector<ByteRange> chunks;
    int64_t bytes = 0;
    for (const ByteRange& range : ranges) {
      for (size_t at = 0; at < range.size(); at += kChunk) {
        chunks.push_back(range.subspan(at, std::min(kChunk, range.size() - at)));
      }
      bytes += std::ssize(range);
    }
    double gb_s[kPasses];
    std::atomic<uint64_t> total{0};
    for (double& result : gb_s) {
      const auto begin = std::chrono::steady_clock::now();
      ctx.pool->run(std::ssize(chunks), [&](int64_t chunk_idx, int) {
        const ByteRange& chunk = chunks[static_cast<size_t>(chunk_idx)];
        total.fetch_add(
            kernels().read_bytes(reinterpret_cast<const uint8_t*>(chunk.data()), std::ssize(chunk)),
            std::memory_order_relaxed);
      });
      const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
      result = static_cast<double>(bytes) / seconds.count() * 1e-9;
    }
    SLIPSTREAM_CHECK(bytes == 0 || total.load() != 0, "the bytes read are not all zero");
    return median(gb_s, kPasses);
  }

  static const Ops& table() {
    static const Ops ops = {
        .name = kernels().name,
        .memory = &host_memory(),
        .open = slipstream::open,
        .pack = pack,
        .linear_input = slipstream::linear_input,
        .begin_step = slipstream::begin_step,
        .embed = slipstream::embed,
        .rms_norm = rms_norm,
        .add_rms_norm = add_rms_norm,
        .head_rms_norm = head_rms_norm,
        .to_activations = slipstream::to_activations,
        .linear = linear,
        .rope_table = slipstream::rope_table,
        .rope = rope,
        .kv_append = kv_append,
        .norm_rope_append = norm_rope_append,
        .attention = attention,
        .silu_mul = silu_mul,
        .add = add,
        .gather_rows = slipstream::gather_rows,
        .measure_read_gb_s = measure_read_gb_s,
    };
    return ops;
  }
};

}  // namespace

const Ops& avx2_ops() { return CpuOps<avx2_kernels>::table(); }
const Ops& avx512_ops() { return CpuOps<avx512_kernels>::table(); }

}  // namespace slipstream
