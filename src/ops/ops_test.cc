// Every table against the reference, and the promises of ops.h: a row's bits do not depend on the
// batch, on how it is cut, on the number of threads, or on where its pages lie.
#include "ops/ops.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "base/random.h"
#include "base/strings.h"
#include "ops/ops_cases.h"

namespace slipstream {
namespace {

struct Harness {
  explicit Harness(int num_threads, const Ops& ops) : pool(num_threads) {
    ctx.pool = &pool;
    EXPECT_TRUE(ops.open(ctx, op_case_limits()).ok());
  }
  ThreadPool pool;
  OpContext ctx;
};

class EveryIsa : public testing::TestWithParam<CpuIsa> {
 protected:
  void SetUp() override {
    ops_ = cpu_ops(GetParam());
    if (ops_ == nullptr) GTEST_SKIP() << "this processor lacks " << cpu_isa_name(GetParam());
  }
  const Ops* ops_ = nullptr;
};

INSTANTIATE_TEST_SUITE_P(Cpu, EveryIsa, testing::Values(CpuIsa::kAvx2, CpuIsa::kAvx512),
                         [](const auto& isa) { return cpu_isa_name(isa.param); });

TEST_P(EveryIsa, AgreesWithTheReferenceOnEveryCase) {
  Harness harness(2, *ops_);
  for (const OpReport& report :
       check_ops(*ops_, *cpu_ops(CpuIsa::kRef), harness.ctx, {.op = "", .timed = false})) {
    EXPECT_TRUE(report.passed) << report.op << " " << report.name << ": error " << report.max_error
                               << " > " << report.tolerance << ", " << report.num_not_finite
                               << " not finite from " << report.first_not_finite;
  }
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

TEST_P(EveryIsa, ResultsDoNotDependOnThreads) {
  std::vector<std::unique_ptr<Harness>> harnesses;
  for (int threads = 1; threads <= 4; ++threads) {
    harnesses.push_back(std::make_unique<Harness>(threads, *ops_));
  }
  for (const OpCase& op_case : op_cases()) {
    std::vector<float> first;
    for (const auto& harness : harnesses) {
      const OpInstance instance = op_case.make(*ops_, harness->ctx);
      instance.run();
      if (first.empty()) {
        first = instance.result();
      } else {
        EXPECT_TRUE(same_bits(first, instance.result()))
            << op_case.op << " " << op_case.name << " with " << harness->pool.num_threads();
      }
    }
  }
}

TEST(Isas, Avx2AndAvx512GiveTheSameBits) {
  const Ops* avx2 = cpu_ops(CpuIsa::kAvx2);
  const Ops* avx512 = cpu_ops(CpuIsa::kAvx512);
  if (avx2 == nullptr || avx512 == nullptr) GTEST_SKIP() << "this processor lacks AVX-512";
  Harness harness(2, *avx2);
  for (const OpCase& op_case : op_cases()) {
    const OpInstance a = op_case.make(*avx2, harness.ctx);
    const OpInstance b = op_case.make(*avx512, harness.ctx);
    a.run();
    b.run();
    EXPECT_TRUE(same_bits(a.result(), b.result())) << op_case.op << " " << op_case.name;
  }
}

std::vector<float> seeded(int64_t count, uint64_t seed, float scale) {
  SplitMix64 random(seed);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = random.symmetric() * scale;
  return values;
}

// y of rows [begin, begin + count) of x, computed as one batch.
std::vector<float> linear_rows(const Ops& ops, OpContext& ctx, const Weight& weight,
                               std::vector<float>& x, int64_t begin, int64_t count) {
  std::vector<float> y(static_cast<size_t>(count * weight.rows));
  const TensorView input =
      TensorView::contiguous(x.data() + begin * weight.cols, DType::kF32, {count, weight.cols});
  const LinearPart part = {&weight, nullptr,
                           TensorView::contiguous(y.data(), DType::kF32, {count, weight.rows})};
  ops.linear(ctx, input, {&part, 1});
  return y;
}

TEST_P(EveryIsa, ALinearRowDoesNotDependOnItsBatch) {
  Harness harness(2, *ops_);
  constexpr int64_t kTokens = 133;
  for (const QuantFormat& format : quant_formats()) {
    SourceMatrix source;
    source.type = format.type;
    source.rows = 37;
    source.cols = format.block_elements == 256 ? 768 : 608;
    const std::vector<std::byte> data = random_matrix(source.type, source.rows, source.cols, 5);
    source.data = data.data();
    const Weight weight = std::move(ops_->pack(harness.ctx, source, WeightRole::kLinear)).value();
    std::vector<float> x = seeded(kTokens * source.cols, 6, 3.0f);
    const std::vector<float> whole = linear_rows(*ops_, harness.ctx, weight, x, 0, kTokens);
    for (const int64_t chunk : {1, 2, 3, 4, 5, 6, 7, 12, 13, 33, 128}) {
      std::vector<float> pieces;
      for (int64_t begin = 0; begin < kTokens; begin += chunk) {
        const std::vector<float> piece =
            linear_rows(*ops_, harness.ctx, weight, x, begin, std::min(chunk, kTokens - begin));
        pieces.insert(pieces.end(), piece.begin(), piece.end());
      }
      EXPECT_TRUE(same_bits(whole, pieces)) << format.name << " in chunks of " << chunk;
    }
  }
}

TEST_P(EveryIsa, NotFiniteActivationsPoisonTheirOwnRowOnly) {
  Harness harness(2, *ops_);
  for (const QuantType type : {QuantType::kQ4_1, QuantType::kF16}) {
    SourceMatrix source;
    source.type = type;
    source.rows = 20;
    source.cols = 64;
    const std::vector<std::byte> data = random_matrix(type, source.rows, source.cols, 8);
    source.data = data.data();
    const Weight weight = std::move(ops_->pack(harness.ctx, source, WeightRole::kLinear)).value();
    for (const int64_t tokens : {3, 9}) {
      std::vector<float> x = seeded(tokens * source.cols, 9, 1.0f);
      x[static_cast<size_t>(source.cols + 40)] = std::nanf("");
      const std::vector<float> y = linear_rows(*ops_, harness.ctx, weight, x, 0, tokens);
      for (int64_t m = 0; m < tokens; ++m) {
        for (int64_t row = 0; row < source.rows; ++row) {
          EXPECT_EQ(std::isnan(y[static_cast<size_t>(m * source.rows + row)]), m == 1);
        }
      }
    }
  }
}

// A sequence of `length` positions whose pages lie where `first_block` and `step` say.
struct Sequence {
  static constexpr int kHeads = 6, kKvHeads = 2, kHeadDim = 48;
  static constexpr int64_t kBlocks = 64;
  int64_t length;
  std::vector<float> q, k, v;
  std::vector<int32_t> block_table;
  Buffer k_pages, v_pages;
  KVLayerView kv;

  Sequence(int64_t num_positions, int64_t first_block, int64_t step)
      : length(num_positions),
        q(seeded(length * kHeads * kHeadDim, 31, 3.0f)),
        k(seeded(length * kKvHeads * kHeadDim, 32, 2.0f)),
        v(seeded(length * kKvHeads * kHeadDim, 33, 1.0f)) {
    for (int64_t b = 0; b < (length + 15) / 16; ++b) {
      block_table.push_back(static_cast<int32_t>((first_block + b * step) % kBlocks));
    }
    const size_t bytes = size_t{kBlocks} * 16 * kKvHeads * kHeadDim * 2;
    k_pages = Buffer(bytes);
    v_pages = Buffer(bytes);
    kv.k = k_pages.data();
    kv.v = v_pages.data();
    kv.num_blocks = kBlocks;
    kv.num_kv_heads = kKvHeads;
    kv.head_dim = kHeadDim;
  }

  // Appends and attends in steps of `chunk` tokens, as chunked prefill or decode would.
  std::vector<float> attend(const Ops& ops, OpContext& ctx, int64_t chunk, int window) {
    std::vector<float> out(q.size());
    std::memset(kv.k, 0xFF, k_pages.bytes());
    std::memset(kv.v, 0xFF, v_pages.bytes());
    for (int64_t begin = 0; begin < length; begin += chunk) {
      const int64_t count = std::min(chunk, length - begin);
      std::vector<int64_t> slots;
      for (int64_t pos = begin; pos < begin + count; ++pos) {
        slots.push_back(block_table[static_cast<size_t>(pos / 16)] * int64_t{16} + pos % 16);
      }
      const auto heads = [&](std::vector<float>& values, int num_heads) {
        return TensorView::contiguous(values.data() + begin * num_heads * kHeadDim, DType::kF32,
                                      {count, num_heads, kHeadDim});
      };
      ops.kv_append(ctx, heads(k, kKvHeads), heads(v, kKvHeads), slots.data(), kv);
      const int32_t cu_seqlens_q[2] = {0, static_cast<int32_t>(count)};
      const auto seq_len = static_cast<int32_t>(begin + count);
      AttentionArgs args;
      args.q = heads(q, kHeads);
      args.out = heads(out, kHeads);
      args.kv = kv;
      args.batch.num_seqs = 1;
      args.batch.cu_seqlens_q = cu_seqlens_q;
      args.batch.seq_lens = &seq_len;
      args.batch.block_table = block_table.data();
      args.batch.block_table_stride = static_cast<int64_t>(block_table.size());
      args.scale = 0.125f;
      args.window = window;
      ops.attention(ctx, args);
    }
    return out;
  }
};

TEST_P(EveryIsa, AttentionDoesNotDependOnChunksOrPages) {
  for (const int threads : {1, 3}) {
    Harness harness(threads, *ops_);
    for (const int window : {0, 70}) {
      Sequence plain(600, 0, 1);
      const std::vector<float> whole = plain.attend(*ops_, harness.ctx, 600, window);
      for (const int64_t chunk : {1, 2, 7, 16, 100, 256, 301}) {
        EXPECT_TRUE(same_bits(whole, plain.attend(*ops_, harness.ctx, chunk, window)))
            << "chunks of " << chunk << ", window " << window;
      }
      Sequence shuffled(600, 17, 27);
      EXPECT_TRUE(same_bits(whole, shuffled.attend(*ops_, harness.ctx, 33, window)));
    }
  }
}

TEST_P(EveryIsa, PackedBytesAreTheFilesBytes) {
  Harness harness(1, *ops_);
  for (const QuantFormat& format : quant_formats()) {
    SourceMatrix source;
    source.type = format.type;
    source.rows = 32;
    source.cols = 256;
    const std::vector<std::byte> data = random_matrix(source.type, source.rows, source.cols, 5);
    source.data = data.data();
    const Weight weight = std::move(ops_->pack(harness.ctx, source, WeightRole::kLinear)).value();
    // E4M3 comes with a float per row for every 128 columns.
    const int64_t scales = format.type == QuantType::kE4M3 ? source.bytes() / 32 : 0;
    EXPECT_EQ(weight.payload_bytes, source.bytes() + scales) << format.name;
  }
}

// A scale for the whole, one a row, and blocks that the edges cut, against the same values as F32.
TEST_P(EveryIsa, ScaledE4M3HasTheBitsOfItsDequantisedValues) {
  Harness harness(2, *ops_);
  constexpr int64_t kRows = 150;
  constexpr int64_t kCols = 300;
  const std::vector<std::byte> codes = random_matrix(QuantType::kE4M3, kRows, kCols, 5);
  const std::vector<float> scales = seeded(kRows, 6, 0.01f);
  const auto* scale_bytes = reinterpret_cast<const std::byte*>(scales.data());
  SourceMatrix scaled{codes.data(), QuantType::kE4M3, kRows, kCols};
  for (const auto& [rows, cols] : {std::pair{kRows, kCols}, {int64_t{1}, kCols}, {128, 128}}) {
    scaled.scales = {scale_bytes, QuantType::kF32, rows, cols};
    std::vector<float> values(kRows * kCols);
    for (int64_t row = 0; row < kRows; ++row) {
      dequantize_row(scaled, row, values.data() + row * kCols);
    }
    const SourceMatrix plain{reinterpret_cast<const std::byte*>(values.data()), QuantType::kF32,
                             kRows, kCols};
    const Weight a = std::move(ops_->pack(harness.ctx, scaled, WeightRole::kLinear)).value();
    const Weight b = std::move(ops_->pack(harness.ctx, plain, WeightRole::kLinear)).value();
    for (const int64_t tokens : {1, 2, 3, 4, 5, 40}) {
      std::vector<float> x = seeded(tokens * kCols, 7, 3.0f);
      EXPECT_TRUE(same_bits(linear_rows(*ops_, harness.ctx, a, x, 0, tokens),
                            linear_rows(*ops_, harness.ctx, b, x, 0, tokens)))
          << tokens << " tokens, a scale for " << rows << " x " << cols;
    }
    std::vector<int32_t> ids = {0, 127, 128, 149};
    std::vector<float> rows_a(ids.size() * kCols), rows_b(ids.size() * kCols);
    for (const auto& [weight, out] : {std::pair{&a, &rows_a}, std::pair{&b, &rows_b}}) {
      ops_->embed(harness.ctx, *weight, ids.data(),
                  TensorView::contiguous(out->data(), DType::kF32, {4, kCols}));
    }
    EXPECT_TRUE(same_bits(rows_a, rows_b));
  }
  scaled.scales = {scale_bytes, QuantType::kF32, 64, 64};
  EXPECT_FALSE(ops_->pack(harness.ctx, scaled, WeightRole::kLinear).ok());
}

TEST_P(EveryIsa, AMatrixThatIsNotWholeBlocksIsAnError) {
  Harness harness(1, *ops_);
  SourceMatrix source;
  source.type = QuantType::kQ4_K;
  source.rows = 4;
  source.cols = 128;
  EXPECT_FALSE(ops_->pack(harness.ctx, source, WeightRole::kLinear).ok());
}

TEST_P(EveryIsa, AnEmptyBatchIsNoWork) {
  Harness harness(2, *ops_);
  SourceMatrix source;
  source.rows = 4;
  source.cols = 8;
  const std::vector<std::byte> data = random_matrix(source.type, source.rows, source.cols, 5);
  source.data = data.data();
  const Weight weight = std::move(ops_->pack(harness.ctx, source, WeightRole::kLinear)).value();
  std::vector<float> x;
  EXPECT_TRUE(linear_rows(*ops_, harness.ctx, weight, x, 0, 0).empty());
}

// Faults of the kind kernels have, in an otherwise exact table, are found even with the tolerance
// of the coarsest types that a table may compute in.
TEST(PlantedFaults, AreFoundAtTheLargestTolerance) {
  const Ops& ref = *cpu_ops(CpuIsa::kRef);
  Ops broken = ref;
  broken.rms_norm = [](OpContext& ctx, TensorView x, const float* weight, float eps,
                       Activations out) {
    cpu_ops(CpuIsa::kRef)->rms_norm(ctx, x, weight, eps, out);
    for (int64_t row = 0; row < x.dim(0); ++row) out.values.f32_row(row)[5] = 0.0f;  // a lane
  };
  broken.linear = [](OpContext& ctx, const Activations& x, std::span<const LinearPart> parts) {
    cpu_ops(CpuIsa::kRef)->linear(ctx, x, parts);
    for (const LinearPart& part : parts) {  // the last row, as a tile that is cut off loses it
      for (int64_t m = 0; m < part.y.dim(0); ++m) part.y.f32_row(m)[part.weight->rows - 1] = 0.0f;
    }
  };
  broken.attention = [](OpContext& ctx, const AttentionArgs& args) {
    AttentionArgs later = args;  // a position too few, where there is one before the queries
    std::vector<int32_t> seq_lens(args.batch.seq_lens, args.batch.seq_lens + args.batch.num_seqs);
    for (size_t seq = 0; seq < seq_lens.size(); ++seq) {
      const int32_t count = args.batch.cu_seqlens_q[seq + 1] - args.batch.cu_seqlens_q[seq];
      seq_lens[seq] = std::max(count, seq_lens[seq] - 1);
    }
    later.batch.seq_lens = seq_lens.data();
    cpu_ops(CpuIsa::kRef)->attention(ctx, later);
  };
  Harness harness(2, ref);
  constexpr std::array<std::pair<const char*, double>, 3> kOps = {
      {{"rms_norm", 0.02}, {"linear", 0.25}, {"attention", 0.02}}};
  for (const auto& [op, tolerance] : kOps) {
    int num_found = 0;
    int num_cases = 0;
    for (const OpReport& report :
         check_ops(broken, ref, harness.ctx,
                   {.op = op, .tolerance = [&](const OpCase&) { return tolerance; }})) {
      ++num_cases;
      if (!report.passed) ++num_found;
    }
    EXPECT_GE(num_found, num_cases * 2 / 3)
        << op << ": found in " << num_found << " of " << num_cases;
  }
}

TEST(PlantedFaults, ACaseThatIsRefusedIsReportedAndNotRun) {
  Ops empty;
  Harness harness(1, *cpu_ops(CpuIsa::kRef));
  const std::vector<OpReport> reports =
      check_ops(empty, *cpu_ops(CpuIsa::kRef), harness.ctx,
                {.op = "rope", .refusal = [](const OpCase&) { return std::string("no rope"); }});
  ASSERT_FALSE(reports.empty());
  for (const OpReport& report : reports) EXPECT_EQ(report.skipped, "no rope");
}

}  // namespace
}  // namespace slipstream
