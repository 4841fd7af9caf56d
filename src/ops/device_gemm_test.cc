// What --deterministic promises of a GPU's products: a row of the result does not depend on how
// many rows there are. Skipped without a GPU.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "base/random.h"
#include "base/strings.h"
#include "core/half.h"
#include "ops/ops.h"

namespace slipstream {
namespace {

constexpr int64_t kMaxTokens = 2048;

struct GemmCase {
  int64_t rows;
  int64_t cols;
  DType weights;
  DType output;
};

class DeviceGemm : public testing::TestWithParam<GemmCase> {};

TEST_P(DeviceGemm, ARowDoesNotDependOnTheNumberOfRows) {
  std::string why;
  const Ops* const ops = cuda_ops(&why);
  if (ops == nullptr) GTEST_SKIP() << why;
  const GemmCase& c = GetParam();
  ThreadPool pool(2);
  OpContext ctx;
  ctx.pool = &pool;
  ctx.weight_dtype = c.weights;
  ctx.deterministic = true;
  const Status opened = ops->open(ctx, {.max_tokens = kMaxTokens,
                                        .max_logit_rows = kMaxTokens,
                                        .max_seqs = 1,
                                        .max_cols = c.cols,
                                        .max_heads = 1,
                                        .max_head_dim = 64,
                                        .max_context = 64});
  ASSERT_TRUE(opened.ok()) << opened.message();
  const WeightRole role = c.output == DType::kF32 ? WeightRole::kVocabulary : WeightRole::kLinear;
  auto weight = ops->pack_random(
      ctx, {.rows = c.rows, .cols = c.cols, .seed = 3, .whole_cols = c.cols}, role);
  ASSERT_TRUE(weight.ok()) << weight.status().message();

  // All rows of x are one row, so all rows of y must be.
  const bool is_fp8 = weight.value().dtype == DType::kF8E4M3;
  const auto cols = static_cast<size_t>(c.cols);
  std::vector<uint16_t> row(cols);
  SplitMix64 random(1);
  for (uint16_t& value : row) value = f32_to_bf16(random.symmetric());
  std::vector<uint16_t> all;
  for (int64_t i = 0; i < kMaxTokens; ++i) all.insert(all.end(), row.begin(), row.end());
  const Buffer plain(all.size() * 2, *ops->memory);
  ops->memory->copy_in(plain.data(), all.data(), all.size() * 2);
  const Buffer stored(all.size(), *ops->memory);
  const Buffer scales(kMaxTokens * sizeof(float), *ops->memory);
  const auto y_bytes = static_cast<int64_t>(dtype_bytes(c.output));
  const Buffer y(static_cast<size_t>(kMaxTokens * c.rows * y_bytes), *ops->memory);
  std::vector<std::byte> want;
  for (const int64_t m : {1, 5, 8, 17, 40, 64, 65, 128, 200, 300, 512, 700, 1024, 1500, 2048}) {
    const TensorView x = TensorView::contiguous(plain.data(), DType::kBF16, {m, c.cols});
    Activations in = x;
    if (is_fp8) {
      in = {TensorView::contiguous(stored.data(), DType::kF8E4M3, {m, c.cols}), scales.as<float>()};
      ops->to_activations(ctx, x, in);
    }
    const std::array parts = {LinearPart{&weight.value(), nullptr,
                                         TensorView::contiguous(y.data(), c.output, {m, c.rows})}};
    ops->linear(ctx, in, parts);
    std::vector<std::byte> got(static_cast<size_t>(m * c.rows * y_bytes));
    ops->memory->copy_out(got.data(), y.data(), got.size());
    const auto row_bytes = static_cast<std::ptrdiff_t>(c.rows * y_bytes);
    if (want.empty()) want.assign(got.begin(), got.begin() + row_bytes);
    for (int64_t i = 0; i < m; ++i) {
      const auto begin = got.begin() + i * row_bytes;
      ASSERT_TRUE(std::equal(want.begin(), want.end(), begin)) << "row " << i << " of " << m;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, DeviceGemm,
                         testing::Values(GemmCase{3072, 2048, DType::kBF16, DType::kBF16},
                                         GemmCase{2048, 2048, DType::kBF16, DType::kBF16},
                                         GemmCase{16384, 2048, DType::kBF16, DType::kBF16},
                                         GemmCase{2048, 8192, DType::kBF16, DType::kBF16},
                                         GemmCase{32000, 2048, DType::kBF16, DType::kF32},
                                         GemmCase{105, 128, DType::kBF16, DType::kF32},
                                         GemmCase{6144, 4096, DType::kF8E4M3, DType::kBF16},
                                         GemmCase{4096, 12288, DType::kF8E4M3, DType::kBF16},
                                         GemmCase{576, 1536, DType::kF8E4M3, DType::kBF16},
                                         GemmCase{6144, 4096, DType::kI4, DType::kBF16},
                                         GemmCase{105, 128, DType::kI4, DType::kBF16},
                                         // More than is dequantised at a time.
                                         GemmCase{16448, 8192, DType::kI4, DType::kBF16}),
                         [](const auto& each) {
                           return str(each.param.rows, "x", each.param.cols, "_",
                                      dtype_name(each.param.weights), "_",
                                      dtype_name(each.param.output));
                         });

}  // namespace
}  // namespace slipstream
