#include "ops/ops_cases.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstring>

#include "base/random.h"
#include "base/strings.h"
#include "core/half.h"
#include "ops/ops_case_data.h"
#include "ops/read_roof.h"
#include "quant/gguf_blocks.h"
#include "quant/int4_rows.h"

namespace slipstream {
namespace {

// ---- linear and embed ----

struct MatrixShape {
  QuantType type = QuantType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  bool of_int4 = false;  // F32 values of INT4 rows, which become the same rows again
};

// As F32: what INT4 rows hold of a random matrix.
std::vector<std::byte> random_int4_values(int64_t rows, int64_t cols, uint64_t seed) {
  const auto count = static_cast<size_t>(cols);
  std::vector<std::byte> data = random_matrix(QuantType::kF32, rows, cols, seed);
  std::vector<uint8_t> values(static_cast<size_t>(int4_value_bytes(cols)));
  std::vector<uint16_t> scales(static_cast<size_t>(int4_num_scales(cols)));
  std::vector<float> row(count);
  for (int64_t i = 0; i < rows; ++i) {
    std::byte* const at = data.data() + float_bytes(i * cols);
    std::memcpy(row.data(), at, count * sizeof(float));
    quantize_int4_row(row.data(), cols, values.data(), scales.data());
    dequantize_int4_row(values.data(), scales.data(), cols, row.data());
    std::memcpy(at, row.data(), count * sizeof(float));
  }
  return data;
}

// A bound case keeps everything the lambdas touch alive.
struct LinearState {
  std::vector<Weight> weights;
  std::vector<float> bias;
  std::vector<float> x;
  std::vector<float> y;  // [M, all rows]
  std::vector<LinearPart> parts;
};

Weight packed(const Ops& ops, OpContext& ctx, const MatrixShape& shape, uint64_t seed) {
  const std::vector<std::byte> data = shape.of_int4
                                          ? random_int4_values(shape.rows, shape.cols, seed)
                                          : random_matrix(shape.type, shape.rows, shape.cols, seed);
  SourceMatrix source;
  source.data = data.data();
  source.type = shape.type;
  source.rows = shape.rows;
  source.cols = shape.cols;
  return std::move(ops.pack(ctx, source, WeightRole::kLinear)).value();
}

OpInstance make_linear(const Ops& ops, OpContext& ctx, int64_t num_tokens,
                       const std::vector<MatrixShape>& shapes) {
  auto state = std::make_shared<LinearState>();
  const int64_t cols = shapes.front().cols;
  int64_t all_rows = 0;
  for (const MatrixShape& shape : shapes) all_rows += shape.rows;
  state->x = random_floats(num_tokens * cols, 11, 2.0f);
  // Outliers of the size real activations have.
  for (int64_t m = 0; m < num_tokens; ++m) state->x[static_cast<size_t>(m * cols + m % cols)] = 90;
  state->y.resize(static_cast<size_t>(num_tokens * all_rows));
  state->bias = random_floats(all_rows, 12, 1.0f);
  uint64_t seed = 100;
  for (const MatrixShape& shape : shapes) {
    state->weights.push_back(packed(ops, ctx, shape, ++seed));
  }
  const TensorView y = view2(state->y, num_tokens, all_rows);
  int64_t first_row = 0;
  for (const Weight& weight : state->weights) {
    const float* bias = first_row == 0 ? nullptr : state->bias.data() + first_row;
    state->parts.push_back({&weight, bias, y.columns(first_row, weight.rows)});
    first_row += weight.rows;
  }
  const TensorView x = view2(state->x, num_tokens, cols);
  return {[&ops, &ctx, state, x] { ops.linear(ctx, x, state->parts); },
          [state] { return state->y; }};
}

OpCase linear_case(int64_t num_tokens, const std::vector<MatrixShape>& shapes) {
  OpCase out;
  out.op = "linear";
  out.needs.cols = shapes.front().cols;
  out.name = str("M=", num_tokens, " cols=", shapes.front().cols);
  for (const MatrixShape& shape : shapes) {
    const QuantFormat& format = quant_format(shape.type);
    out.name += str(" ", shape.of_int4 ? "INT4 values" : format.name, "x", shape.rows);
    out.bytes += shape.of_int4
                     ? shape.rows * int4_row_bytes(shape.cols)
                     : shape.rows * shape.cols / format.block_elements * format.block_bytes;
    out.needs.of_int4 = shape.of_int4;
    out.needs.odd_rows = out.needs.odd_rows || shape.rows % 16 != 0;
    out.flops += 2.0 * static_cast<double>(num_tokens * shape.rows * shape.cols);
  }
  // 16-bit activations: half a step of max/32767 per element, and these rows have an outlier.
  out.tolerance = 6e-4;
  out.make = [num_tokens, shapes](const Ops& ops, OpContext& ctx) {
    return make_linear(ops, ctx, num_tokens, shapes);
  };
  return out;
}

void add_linear_cases(std::vector<OpCase>& cases) {
  for (const QuantFormat& format : quant_formats()) {
    const bool super_block = format.block_elements == kSuperBlockElements;
    for (const int64_t num_tokens : {1, 2, 3, 5, 16, 33, 128}) {
      cases.push_back(linear_case(num_tokens, {{format.type, 49, super_block ? 768 : 576}}));
    }
    cases.push_back(linear_case(7, {{format.type, 1, super_block ? 256 : 32}}));
  }
  for (const QuantType type : {QuantType::kF32, QuantType::kF16, QuantType::kBF16}) {
    cases.push_back(linear_case(3, {{type, 17, 37}}));
    cases.push_back(linear_case(9, {{type, 5, 5}}));
  }
  // Parts of different formats share one input, as q, k and v do in mixed files.
  for (const int64_t num_tokens : {1, 20}) {
    cases.push_back(linear_case(
        num_tokens,
        {{QuantType::kQ4_K, 40, 512}, {QuantType::kQ6_K, 24, 512}, {QuantType::kF16, 8, 512}}));
  }
  // The default model's matrices.
  for (const int64_t num_tokens : {1, 512}) {
    constexpr QuantType kType = QuantType::kQ4_1;
    cases.push_back(
        linear_case(num_tokens, {{kType, 576, 576}, {kType, 192, 576}, {kType, 192, 576}}));
    cases.push_back(linear_case(num_tokens, {{kType, 1536, 576}, {kType, 1536, 576}}));
    cases.push_back(linear_case(num_tokens, {{kType, 576, 1536}}));
  }
  cases.push_back(linear_case(1, {{QuantType::kQ8_0, 49152, 576}}));
  // Of a GPU: few tokens, a batch that ends within a tile, matrices that are one to it.
  for (const int64_t num_tokens : {1, 8, 16, 17, 64, 300}) {
    cases.push_back(
        linear_case(num_tokens, {{QuantType::kBF16, 512, 1024}, {QuantType::kBF16, 128, 1024}}));
  }
}

// Of a GPU's INT4 matrices: one group and many, rows that end within a tile, either side of where
// its kernels take turns, matrices that are one to it.
void add_int4_cases(std::vector<OpCase>& cases) {
  const auto of = [](int64_t rows, int64_t cols) {
    return MatrixShape{QuantType::kF32, rows, cols, true};
  };
  for (const int64_t cols : {128, 896, 8192}) {
    for (const int64_t num_tokens : {1, 2, 5, 8, 9, 16, 17, 32, 33, 64}) {
      cases.push_back(linear_case(num_tokens, {of(49, cols)}));
    }
  }
  for (const int64_t num_tokens : {1, 8, 20, 300}) {
    cases.push_back(linear_case(num_tokens, {of(512, 1024), of(128, 1024), of(128, 1024)}));
  }
}

OpCase embed_case(const MatrixShape& shape) {
  OpCase out;
  out.op = "embed";
  out.needs.cols = shape.cols;
  out.name = str(quant_format(shape.type).name, " ", shape.rows, "x", shape.cols);
  out.tolerance = 0.0;  // exact
  constexpr int64_t kTokens = 5;
  out.bytes = kTokens * float_bytes(shape.cols);
  out.make = [shape](const Ops& ops, OpContext& ctx) {
    struct State {
      Weight table;
      std::vector<int32_t> ids;
      std::vector<float> out;
    };
    auto state = std::make_shared<State>();
    state->table = packed(ops, ctx, shape, 7);
    const auto last = static_cast<int32_t>(shape.rows - 1);
    state->ids = {0, last, last / 2, last / 3, last};
    state->out.resize(static_cast<size_t>(kTokens * shape.cols));
    return OpInstance{[&ops, &ctx, state, shape] {
                        ops.embed(ctx, state->table, state->ids.data(),
                                  view2(state->out, kTokens, shape.cols));
                      },
                      [state] { return state->out; }};
  };
  return out;
}

// ---- row-wise ops ----

struct RowState {
  std::vector<float> a, b, weight, original, out;
  std::vector<int32_t> indices;
};

// `run` gets the state with `out` holding a fresh copy of `original` (for in-place ops).
OpCase row_case(std::string op, int64_t rows, int64_t cols,
                const std::function<void(const Ops&, OpContext&, RowState&)>& run) {
  OpCase out;
  out.op = std::move(op);
  out.name = str("M=", rows, " n=", cols);
  out.needs.cols = cols;
  out.tolerance = 2e-6;
  out.bytes = 3 * float_bytes(rows * cols);
  out.make = [rows, cols, run](const Ops& ops, OpContext& ctx) {
    auto state = std::make_shared<RowState>();
    state->a = random_floats(rows * cols, 1, 6.0f);
    state->b = random_floats(rows * cols, 2, 3.0f);
    state->weight = random_floats(cols, 3, 1.5f);
    state->original = random_floats(rows * cols, 4, 2.0f);
    return OpInstance{[&ops, &ctx, state, run] {
                        state->out = state->original;
                        run(ops, ctx, *state);
                      },
                      [state] { return state->out; }};
  };
  return out;
}

void add_row_cases(std::vector<OpCase>& cases) {
  constexpr std::array<std::array<int64_t, 2>, 5> kShapes = {
      {{1, 576}, {3, 64}, {2, 37}, {33, 1536}, {512, 576}}};
  for (const auto& [m, n] : kShapes) {
    cases.push_back(row_case("rms_norm", m, n, [m, n](const Ops& ops, OpContext& ctx, RowState& s) {
      ops.rms_norm(ctx, view2(s.a, m, n), s.weight.data(), 1e-5f, view2(s.out, m, n));
    }));
    cases.push_back(
        row_case("add_rms_norm", m, n, [m, n](const Ops& ops, OpContext& ctx, RowState& s) {
          std::vector<float> residual = s.a;
          ops.add_rms_norm(ctx, view2(residual, m, n), view2(s.b, m, n), s.weight.data(), 1e-5f,
                           view2(s.out, m, n));
          s.out.insert(s.out.end(), residual.begin(), residual.end());
        }));
    cases.push_back(row_case("silu_mul", m, n, [m, n](const Ops& ops, OpContext& ctx, RowState& s) {
      ops.silu_mul(ctx, view2(s.a, m, n), view2(s.b, m, n), view2(s.out, m, n));
    }));
    cases.push_back(row_case("add", m, n, [m, n](const Ops& ops, OpContext& ctx, RowState& s) {
      ops.add(ctx, view2(s.out, m, n), view2(s.b, m, n));
    }));
    cases.push_back(
        row_case("gather_rows", m, n, [m, n](const Ops& ops, OpContext& ctx, RowState& s) {
          const std::array<int32_t, 2> rows = {static_cast<int32_t>(m - 1), 0};
          ops.gather_rows(ctx, view2(s.a, m, n), rows.data(), 1, view2(s.out, 1, n));
        }));
  }
}

OpCase head_norm_case(int64_t tokens, int64_t heads, int64_t dim) {
  OpCase out = row_case(
      "head_rms_norm", tokens, heads * dim, [=](const Ops& ops, OpContext& ctx, RowState& s) {
        ops.head_rms_norm(ctx, view3(s.out, tokens, heads, dim), s.weight.data(), 1e-6f);
      });
  out.name = str("M=", tokens, " heads=", heads, " head_dim=", dim);
  return out;
}

// A table from positions, then the rotation of heads by it.
OpCase rope_case(int64_t tokens, int64_t heads, int64_t dim, int rotary_dim, bool interleaved) {
  OpCase out =
      row_case("rope", tokens, heads * dim, [=](const Ops& ops, OpContext& ctx, RowState& s) {
        std::vector<float> inv_freq(static_cast<size_t>(rotary_dim / 2));
        for (size_t i = 0; i < inv_freq.size(); ++i) {
          inv_freq[i] =
              std::pow(10000.0f, -2.0f * static_cast<float>(i) / static_cast<float>(rotary_dim));
        }
        std::vector<int32_t> positions(static_cast<size_t>(tokens));
        for (size_t m = 0; m < positions.size(); ++m) positions[m] = static_cast<int32_t>(m * 97);
        RopeParams rope;
        rope.rotary_dim = rotary_dim;
        rope.interleaved = interleaved;
        rope.inv_freq = inv_freq.data();
        rope.attention_factor = 1.25f;
        std::vector<float> cos_sin(static_cast<size_t>(tokens * rotary_dim));
        const TensorView table = view2(cos_sin, tokens, rotary_dim);
        ops.rope_table(ctx, positions.data(), rope, table);
        ops.rope(ctx, view3(s.out, tokens, heads, dim), rope, table);
        s.out.insert(s.out.end(), cos_sin.begin(), cos_sin.end());
      });
  out.name = str("M=", tokens, " heads=", heads, " head_dim=", dim, " rotary_dim=", rotary_dim,
                 interleaved ? " interleaved" : " halves");
  return out;
}

// ---- comparison and timing ----

void compare(const std::vector<float>& got, const std::vector<float>& want, OpReport* report) {
  double dot = 0, got_squares = 0, want_squares = 0;
  report->num_values = static_cast<int64_t>(want.size());
  for (size_t i = 0; i < want.size(); ++i) {
    const double a = got[i];
    const double b = want[i];
    if (!std::isfinite(b)) continue;
    if (!std::isfinite(a)) {
      if (report->num_not_finite++ == 0) report->first_not_finite = static_cast<int64_t>(i);
      continue;
    }
    report->max_abs = std::max(report->max_abs, std::fabs(a - b));
    dot += a * b;
    got_squares += a * a;
    want_squares += b * b;
  }
  const double rms =
      std::sqrt(want_squares / static_cast<double>(std::max<size_t>(1, want.size())));
  report->max_error = rms > 0 ? report->max_abs / rms : report->max_abs;
  if (got_squares > 0 && want_squares > 0) {
    report->cosine = dot / std::sqrt(got_squares * want_squares);
  }
  report->passed = got.size() == want.size() && report->num_not_finite == 0 &&
                   report->max_error <= report->tolerance;
}

double median_us(const OpInstance& instance) {
  constexpr int kRuns = 21;
  std::array<double, kRuns> us;
  for (double& value : us) {
    const auto begin = std::chrono::steady_clock::now();
    instance.run();
    const std::chrono::duration<double, std::micro> spent =
        std::chrono::steady_clock::now() - begin;
    value = spent.count();
  }
  std::sort(us.begin(), us.end());
  return us[kRuns / 2];
}

}  // namespace

std::vector<float> random_floats(int64_t count, uint64_t seed, float scale) {
  SplitMix64 random(seed);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = bf16_to_f32(f32_to_bf16(random.symmetric() * scale));
  return values;
}

std::vector<std::byte> random_matrix(QuantType type, int64_t rows, int64_t cols, uint64_t seed) {
  const QuantFormat& format = quant_format(type);
  const int64_t num_blocks = rows * cols / format.block_elements;
  std::vector<std::byte> data(static_cast<size_t>(num_blocks * format.block_bytes));
  SplitMix64 random(seed);
  std::array<float, kSuperBlockElements> values;
  for (int64_t b = 0; b < num_blocks; ++b) {
    std::byte* block = data.data() + b * format.block_bytes;
    if (format.quantize_block != nullptr) {
      for (int i = 0; i < format.block_elements; ++i) {
        values[static_cast<size_t>(i)] = random.symmetric();
      }
      format.quantize_block(values.data(), block);
      continue;
    }
    // Read-only formats: any bytes are valid once the f16 scales are small and finite.
    for (int i = 0; i < format.block_bytes; ++i) block[i] = static_cast<std::byte>(random.next());
    const uint16_t d = f32_to_f16(0.002f + 0.001f * random.symmetric());
    if (type == QuantType::kQ6_K) {
      std::memcpy(block + offsetof(BlockQ6_K, d), &d, sizeof(d));
    } else {
      const uint16_t dmin = f32_to_f16(0.01f + 0.005f * random.symmetric());
      std::memcpy(block, &d, sizeof(d));
      std::memcpy(block + sizeof(d), &dmin, sizeof(dmin));
    }
  }
  return data;
}

OpLimits op_case_limits() {
  OpLimits limits;
  limits.max_tokens = 512;
  limits.max_cols = 8192;
  limits.max_heads = 40;
  limits.max_head_dim = 128;
  limits.max_context = 2048;
  return limits;
}

std::vector<OpCase> op_cases() {
  std::vector<OpCase> cases;
  add_linear_cases(cases);
  add_int4_cases(cases);
  for (const QuantFormat& format : quant_formats()) {
    cases.push_back(embed_case({format.type, 35, format.block_elements == 256 ? 512 : 96}));
  }
  add_row_cases(cases);
  cases.push_back(head_norm_case(1, 9, 64));
  cases.push_back(head_norm_case(33, 3, 40));
  for (const bool interleaved : {false, true}) {
    cases.push_back(rope_case(1, 9, 64, 64, interleaved));
    cases.push_back(rope_case(50, 12, 64, 64, interleaved));
    cases.push_back(rope_case(5, 3, 40, 20, interleaved));
    cases.push_back(rope_case(3, 2, 8, 6, interleaved));
  }
  add_attention_cases(cases);
  return cases;
}

std::vector<OpReport> check_ops(const Ops& ops, const Ops& ref, OpContext& ctx,
                                const OpCheckOptions& options) {
  constexpr int64_t kRoofBytes = 64 * 1024 * 1024;
  const double roof_gb_s = options.timed ? measure_buffer_read_gb_s(ops, ctx, kRoofBytes) : 0.0;
  std::vector<OpReport> reports;
  for (const OpCase& op_case : op_cases()) {
    if (!options.op.empty() && options.op != op_case.op) continue;
    OpReport report;
    report.op = op_case.op;
    report.name = op_case.name;
    report.tolerance = options.tolerance ? options.tolerance(op_case) : op_case.tolerance;
    if (options.refusal) report.skipped = options.refusal(op_case);
    if (!report.skipped.empty()) {
      reports.push_back(std::move(report));
      continue;
    }
    const OpInstance want = op_case.make(ref, ctx);
    want.run();
    const OpInstance got = op_case.make(ops, ctx);
    got.run();
    compare(got.result(), want.result(), &report);
    if (options.timed) {
      report.us = options.last_us ? options.last_us() : median_us(got);
      report.gb_s = static_cast<double>(op_case.bytes) / report.us * 1e-3;
      report.gflop_s = op_case.flops / report.us * 1e-3;
      report.roof_fraction = roof_gb_s > 0 ? report.gb_s / roof_gb_s : 0.0;
    }
    reports.push_back(std::move(report));
  }
  return reports;
}

}  // namespace slipstream
