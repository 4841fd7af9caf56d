// Plain loops: THE definition of each op in ops.h. Weights stay in the file's layout and are
// dequantised exactly; sums run in double, in index order. Fast code is judged against this file,
// so nothing here is tuned beyond a loop order that keeps the order of every sum.
#include "ops/cpu/ref/ref_ops.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <vector>

#include "core/half.h"

namespace slipstream {
namespace {

Status ref_open(OpContext&, const OpLimits&) { return {}; }

DType ref_linear_input(const Weight&) { return DType::kF32; }

BatchView ref_begin_step(OpContext&, const ForwardBatch& batch, BatchFill) {
  return host_view(batch);
}

void ref_to_activations(OpContext&, TensorView x, Activations out) {
  SLIPSTREAM_CHECK(x.data == out.values.data, "linear takes activations as they are");
}

Result<Weight> ref_pack(OpContext&, const SourceMatrix& source, WeightRole) {
  Weight weight;
  weight.type = source.type;
  weight.layout = WeightLayout::kSource;
  weight.rows = source.rows;
  weight.cols = source.cols;
  weight.payload_bytes = source.bytes();
  weight.owner = std::make_shared<Buffer>(static_cast<size_t>(source.bytes()));
  std::copy_n(source.data, source.bytes(), weight.owner->as<std::byte>());
  weight.payload = weight.owner->as<std::byte>();
  if (source.scales.data != nullptr) {
    const int64_t bytes = num_scales(source) * quant_format(source.scales.type).block_bytes;
    weight.scales_owner = std::make_shared<Buffer>(static_cast<size_t>(bytes));
    std::copy_n(source.scales.data, bytes, weight.scales_owner->as<std::byte>());
    weight.scales = source.scales;
    weight.scales.data = weight.scales_owner->as<std::byte>();
  }
  return weight;
}

SourceMatrix as_source(const Weight& weight) {
  return {weight.payload, weight.type, weight.rows, weight.cols, weight.scales};
}

void ref_embed(OpContext& ctx, const Weight& table, const int32_t* token_ids, TensorView out) {
  ctx.pool->run(out.dim(0), [&](int64_t m, int) {
    dequantize_row(as_source(table), token_ids[m], out.f32_row(m));
  });
}

void norm_row(const float* x, const float* weight, float eps, int64_t size, float* out) {
  double sum_squares = 0.0;
  for (int64_t i = 0; i < size; ++i) sum_squares += static_cast<double>(x[i]) * x[i];
  const double scale = 1.0 / std::sqrt(sum_squares / static_cast<double>(size) + eps);
  for (int64_t i = 0; i < size; ++i) out[i] = static_cast<float>(x[i] * scale * weight[i]);
}

void ref_rms_norm(OpContext&, TensorView x, const float* weight, float eps, Activations out) {
  for (int64_t m = 0; m < x.dim(0); ++m) {
    norm_row(x.f32_row(m), weight, eps, x.dim(1), out.values.f32_row(m));
  }
}

void ref_add(OpContext&, TensorView residual, TensorView x) {
  for (int64_t m = 0; m < x.dim(0); ++m) {
    float* sum = residual.f32_row(m);
    const float* addend = x.f32_row(m);
    for (int64_t i = 0; i < x.dim(1); ++i) sum[i] += addend[i];
  }
}

void ref_add_rms_norm(OpContext& ctx, TensorView residual, TensorView x, const float* weight,
                      float eps, Activations out) {
  ref_add(ctx, residual, x);
  ref_rms_norm(ctx, residual, weight, eps, out);
}

void ref_head_rms_norm(OpContext&, TensorView x, const float* weight, float eps) {
  for (int64_t m = 0; m < x.dim(0); ++m) {
    for (int64_t head = 0; head < x.dim(1); ++head) {
      float* row = x.f32_row(m) + head * x.stride[1];
      norm_row(row, weight, eps, x.dim(2), row);
    }
  }
}

// One output row of a part against a tile of tokens. The tile is transposed to [cols][kTile] so
// that the inner loop runs over tokens while every token's sum keeps the order of k.
constexpr int64_t kTile = 16;

void linear_row(const LinearPart& part, int64_t row, const float* weight_row,
                const std::vector<float>& tile, int64_t first_token, int64_t num_tokens) {
  double sums[kTile] = {};
  for (int64_t k = 0; k < part.weight->cols; ++k) {
    const double w = weight_row[k];
    const float* column = tile.data() + k * kTile;
    for (int64_t t = 0; t < kTile; ++t) sums[t] += w * column[t];
  }
  const double bias = part.bias != nullptr ? part.bias[row] : 0.0;
  for (int64_t t = 0; t < num_tokens; ++t) {
    part.y.f32_row(first_token + t)[row] = static_cast<float>(sums[t] + bias);
  }
}

void ref_linear(OpContext& ctx, const Activations& input, std::span<const LinearPart> parts) {
  const TensorView& x = input.values;
  const int64_t num_tokens = x.dim(0);
  const int64_t cols = x.dim(1);
  std::vector<float> tile(static_cast<size_t>(cols * kTile));
  for (int64_t first = 0; first < num_tokens; first += kTile) {
    const int64_t count = std::min(kTile, num_tokens - first);
    std::fill(tile.begin(), tile.end(), 0.0f);
    for (int64_t t = 0; t < count; ++t) {
      const float* row = x.f32_row(first + t);
      for (int64_t k = 0; k < cols; ++k) tile[static_cast<size_t>(k * kTile + t)] = row[k];
    }
    for (const LinearPart& part : parts) {
      constexpr int64_t kRowsPerTask = 32;
      const int64_t rows = part.weight->rows;
      ctx.pool->run((rows + kRowsPerTask - 1) / kRowsPerTask, [&](int64_t task, int) {
        std::vector<float> weight_row(static_cast<size_t>(cols));
        const int64_t end = std::min(rows, (task + 1) * kRowsPerTask);
        for (int64_t row = task * kRowsPerTask; row < end; ++row) {
          dequantize_row(as_source(*part.weight), row, weight_row.data());
          linear_row(part, row, weight_row.data(), tile, first, count);
        }
      });
    }
  }
}

void ref_rope_table(OpContext&, const int32_t* positions, const RopeParams& rope,
                    TensorView cos_sin) {
  const int half = rope.rotary_dim / 2;
  for (int64_t m = 0; m < cos_sin.dim(0); ++m) {
    float* row = cos_sin.f32_row(m);
    for (int i = 0; i < half; ++i) {
      const double angle = static_cast<double>(positions[m]) * rope.inv_freq[i];
      row[i] = static_cast<float>(std::cos(angle) * rope.attention_factor);
      row[half + i] = static_cast<float>(std::sin(angle) * rope.attention_factor);
    }
  }
}

void ref_rope(OpContext&, TensorView x, const RopeParams& rope, TensorView cos_sin) {
  const int half = rope.rotary_dim / 2;
  for (int64_t m = 0; m < x.dim(0); ++m) {
    const float* cosines = cos_sin.f32_row(m);
    const float* sines = cosines + half;
    for (int64_t head = 0; head < x.dim(1); ++head) {
      float* row = x.f32_row(m) + head * x.stride[1];
      for (int i = 0; i < half; ++i) {
        float& a = rope.interleaved ? row[2 * i] : row[i];
        float& b = rope.interleaved ? row[2 * i + 1] : row[half + i];
        const float rotated_a = a * cosines[i] - b * sines[i];
        b = b * cosines[i] + a * sines[i];
        a = rotated_a;
      }
    }
  }
}

// Element (block, kv_head, position in block, dim) of the K and V pages; see KVLayerView.
int64_t k_offset(const KVLayerView& kv, int64_t block, int64_t head, int64_t pos, int64_t dim) {
  return ((block * kv.num_kv_heads + head) * kv.head_dim + dim) * kv.block_size + pos;
}
int64_t v_offset(const KVLayerView& kv, int64_t block, int64_t head, int64_t pos, int64_t dim) {
  return ((block * kv.num_kv_heads + head) * kv.block_size + pos) * kv.head_dim + dim;
}
void store(const KVLayerView& kv, void* pages, int64_t offset, float value) {
  if (kv.dtype == DType::kF16) {
    static_cast<uint16_t*>(pages)[offset] = f32_to_f16(value);
  } else {
    static_cast<float*>(pages)[offset] = value;
  }
}
float load(const KVLayerView& kv, const void* pages, int64_t offset) {
  return kv.dtype == DType::kF16 ? f16_to_f32(static_cast<const uint16_t*>(pages)[offset])
                                 : static_cast<const float*>(pages)[offset];
}

void ref_kv_append(OpContext&, TensorView k, TensorView v, const int64_t* slot_mapping,
                   const KVLayerView& kv) {
  for (int64_t m = 0; m < k.dim(0); ++m) {
    const int64_t block = slot_mapping[m] / kv.block_size;
    const int64_t pos = slot_mapping[m] % kv.block_size;
    for (int64_t head = 0; head < kv.num_kv_heads; ++head) {
      const float* k_row = k.f32_row(m) + head * k.stride[1];
      const float* v_row = v.f32_row(m) + head * v.stride[1];
      for (int64_t dim = 0; dim < kv.head_dim; ++dim) {
        store(kv, kv.k, k_offset(kv, block, head, pos, dim), k_row[dim]);
        store(kv, kv.v, v_offset(kv, block, head, pos, dim), v_row[dim]);
      }
    }
  }
}

// One query row of one head: softmax over the positions it sees, then the weighted sum of V.
void attend(const AttentionArgs& args, int64_t row, int64_t head, const int32_t* blocks,
            int64_t position) {
  const KVLayerView& kv = args.kv;
  const int64_t kv_head = head / (args.q.dim(1) / kv.num_kv_heads);
  const int64_t first = args.window > 0 ? std::max<int64_t>(0, position + 1 - args.window) : 0;
  const float* q = args.q.f32_row(row) + head * args.q.stride[1];
  std::vector<double> scores(static_cast<size_t>(position + 1 - first));
  double max_score = -INFINITY;
  for (int64_t p = first; p <= position; ++p) {
    double dot = 0.0;
    for (int64_t dim = 0; dim < kv.head_dim; ++dim) {
      dot +=
          static_cast<double>(q[dim]) *
          load(kv, kv.k, k_offset(kv, blocks[p / kv.block_size], kv_head, p % kv.block_size, dim));
    }
    double score = dot * args.scale;
    if (args.softcap > 0.0f) score = args.softcap * std::tanh(score / args.softcap);
    scores[static_cast<size_t>(p - first)] = score;
    max_score = std::max(max_score, score);
  }
  double total = 0.0;
  for (double& score : scores) total += (score = std::exp(score - max_score));
  float* out = args.out.f32_row(row) + head * args.out.stride[1];
  for (int64_t dim = 0; dim < kv.head_dim; ++dim) {
    double sum = 0.0;
    for (int64_t p = first; p <= position; ++p) {
      sum +=
          scores[static_cast<size_t>(p - first)] *
          load(kv, kv.v, v_offset(kv, blocks[p / kv.block_size], kv_head, p % kv.block_size, dim));
    }
    out[dim] = static_cast<float>(sum / total);
  }
}

void ref_attention(OpContext& ctx, const AttentionArgs& args) {
  const BatchView& batch = args.batch;
  for (int seq = 0; seq < batch.num_seqs; ++seq) {
    const int64_t begin = batch.cu_seqlens_q[seq];
    const int64_t num_queries = batch.cu_seqlens_q[seq + 1] - begin;
    const int32_t* blocks = batch.block_table + seq * batch.block_table_stride;
    const int64_t num_heads = args.q.dim(1);
    ctx.pool->run(num_queries * num_heads, [&](int64_t task, int) {
      const int64_t query = task / num_heads;
      attend(args, begin + query, task % num_heads, blocks,
             batch.seq_lens[seq] - num_queries + query);
    });
  }
}

void ref_norm_rope_append(OpContext& ctx, const QkvArgs& args) {
  composed_norm_rope_append(*ref_ops(), ctx, args);
}

void ref_silu_mul(OpContext&, TensorView gate, TensorView up, Activations out) {
  for (int64_t m = 0; m < gate.dim(0); ++m) {
    for (int64_t i = 0; i < gate.dim(1); ++i) {
      const double g = gate.f32_row(m)[i];
      out.values.f32_row(m)[i] = static_cast<float>(g / (1.0 + std::exp(-g)) * up.f32_row(m)[i]);
    }
  }
}

void ref_gather_rows(OpContext&, TensorView x, const int32_t* rows, int64_t num_rows,
                     TensorView out) {
  for (int64_t r = 0; r < num_rows; ++r) {
    std::copy_n(x.f32_row(rows[r]), x.dim(1), out.f32_row(r));
  }
}

double ref_measure_read_gb_s(OpContext& ctx, std::span<const ByteRange> ranges) {
  double bytes = 0.0;
  std::vector<double> rates;
  std::atomic<uint64_t> total{0};
  for (int pass = 0; pass < 5; ++pass) {
    bytes = 0.0;
    const auto start = std::chrono::steady_clock::now();
    for (const ByteRange& range : ranges) {
      constexpr int64_t kBytesPerTask = 1 << 18;
      const int64_t size = std::ssize(range);
      ctx.pool->run((size + kBytesPerTask - 1) / kBytesPerTask, [&](int64_t task, int) {
        uint64_t sum = 0;
        const int64_t end = std::min(size, (task + 1) * kBytesPerTask);
        for (int64_t i = task * kBytesPerTask; i < end; ++i) {
          sum += static_cast<uint64_t>(range[static_cast<size_t>(i)]);
        }
        total.fetch_add(sum, std::memory_order_relaxed);
      });
      bytes += static_cast<double>(size);
    }
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    rates.push_back(bytes * 1e-9 / elapsed.count());
  }
  SLIPSTREAM_CHECK(bytes == 0.0 || total.load() != 0, "the bytes read are not all zero");
  std::nth_element(rates.begin(), rates.begin() + 2, rates.end());
  return rates[2];
}

}  // namespace

const Ops* ref_ops() {
  static const Ops kOps = {
      .name = "ref",
      .memory = &host_memory(),
      .open = ref_open,
      .pack = ref_pack,
      .linear_input = ref_linear_input,
      .begin_step = ref_begin_step,
      .embed = ref_embed,
      .rms_norm = ref_rms_norm,
      .add_rms_norm = ref_add_rms_norm,
      .head_rms_norm = ref_head_rms_norm,
      .to_activations = ref_to_activations,
      .linear = ref_linear,
      .rope_table = ref_rope_table,
      .rope = ref_rope,
      .kv_append = ref_kv_append,
      .norm_rope_append = ref_norm_rope_append,
      .attention = ref_attention,
      .silu_mul = ref_silu_mul,
      .add = ref_add,
      .gather_rows = ref_gather_rows,
      .measure_read_gb_s = ref_measure_read_gb_s,
  };
  return &kOps;
}

}  // namespace slipstream
