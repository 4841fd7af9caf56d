// INT4 matrices on the GPU: their bits are those of quant/int4_rows.h, and a row of a product of
// few tokens depends neither on their number nor on what it is computed with. Skipped without a
// GPU.
#include <gtest/gtest.h>

#include <array>
#include <string>
#include <vector>

#include "base/random.h"
#include "core/half.h"
#include "ops/device_ops_test_util.h"
#include "quant/int4_rows.h"

namespace slipstream {
namespace {

class DeviceInt4 : public DeviceOpsTest {
 protected:
  void SetUp() override { open(DType::kI4); }

  Weight packed_random(int64_t rows, int64_t cols, uint64_t seed) {
    auto weight = ops_->pack_random(
        ctx_, {.rows = rows, .cols = cols, .seed = seed, .whole_cols = cols}, WeightRole::kLinear);
    EXPECT_TRUE(weight.ok()) << weight.status().message();
    return weight.ok() ? std::move(weight).value() : Weight{};
  }
  // row(i) is what row i of the matrix was made of.
  template <typename Row>
  void expect_rows(const Weight& weight, const Row& row) {
    ASSERT_EQ(weight.dtype, DType::kI4);
    ASSERT_EQ(weight.payload_bytes, weight.rows * weight.cols / 2);
    const int64_t row_bytes = int4_value_bytes(weight.cols);
    const int64_t row_scales = int4_num_scales(weight.cols);
    const auto values = read<uint8_t>(weight.payload, weight.payload_bytes);
    const auto scales = read<uint16_t>(weight.group_scales, weight.num_group_scales());
    std::vector<uint8_t> want_values(static_cast<size_t>(row_bytes));
    std::vector<uint16_t> want_scales(static_cast<size_t>(row_scales));
    for (int64_t i = 0; i < weight.rows; ++i) {
      const std::vector<float> of = row(i);
      quantize_int4_row(of.data(), weight.cols, want_values.data(), want_scales.data());
      ASSERT_TRUE(
          std::equal(want_values.begin(), want_values.end(), values.begin() + i * row_bytes))
          << "values of row " << i;
      ASSERT_TRUE(
          std::equal(want_scales.begin(), want_scales.end(), scales.begin() + i * row_scales))
          << "scales of row " << i;
    }
  }
  void expect_rows_of(const SourceMatrix& source) {
    expect_rows(packed(source, WeightRole::kLinear), [&](int64_t row) {
      std::vector<float> values(static_cast<size_t>(source.cols));
      dequantize_row(source, row, values.data());
      return values;
    });
  }
  // bf16 [num_tokens, cols] on the device; a row is the same whatever the number of tokens.
  Buffer activations(int64_t num_tokens, int64_t cols) const {
    SplitMix64 random(1);
    std::vector<uint16_t> values(static_cast<size_t>(num_tokens * cols));
    for (uint16_t& value : values) value = f32_to_bf16(random.symmetric());
    Buffer buffer(values.size() * 2, *ops_->memory);
    ops_->memory->copy_in(buffer.data(), values.data(), values.size() * 2);
    return buffer;
  }
};

TEST_F(DeviceInt4, FloatsBecomeTheBitsOfTheQuantiser) {
  constexpr int64_t kRows = 37;
  constexpr int64_t kCols = 1152;
  for (const QuantType type : {QuantType::kF32, QuantType::kF16, QuantType::kBF16}) {
    const std::vector<std::byte> data = random_matrix(type, kRows, kCols, 5);
    expect_rows_of({data.data(), type, kRows, kCols});
  }
  // Groups without a value, with scales among f16's subnormals and zeros, and above its largest.
  SplitMix64 random(7);
  std::vector<float> values(kRows * kCols);
  for (size_t i = 0; i < values.size(); ++i) {
    constexpr std::array<float, 5> kSizes = {0.0f, 1e-4f, 3e-6f, 1e-8f, 2e6f};
    values[i] = random.symmetric() * kSizes[i / kInt4Group % kSizes.size()];
  }
  expect_rows_of(
      {reinterpret_cast<const std::byte*>(values.data()), QuantType::kF32, kRows, kCols});
}

TEST_F(DeviceInt4, BlocksBecomeTheBitsOfTheQuantiser) {
  for (const QuantType type : {QuantType::kQ8_0, QuantType::kQ4_K, QuantType::kE4M3}) {
    const std::vector<std::byte> data = random_matrix(type, 19, 512, 6);
    expect_rows_of({data.data(), type, 19, 512});
  }
}

TEST_F(DeviceInt4, RandomRowsAreQuantisedToo) {
  const RandomMatrix matrix{
      .rows = 21, .cols = 384, .seed = 9, .first_col = 128, .whole_cols = 1024};
  auto weight = ops_->pack_random(ctx_, matrix, WeightRole::kLinear);
  ASSERT_TRUE(weight.ok()) << weight.status().message();
  expect_rows(weight.value(), [&](int64_t row) {
    SplitMix64 random(SplitMix64(matrix.seed + static_cast<uint64_t>(row)).next());
    random.skip(static_cast<uint64_t>(matrix.first_col));
    std::vector<float> values(static_cast<size_t>(matrix.cols));
    for (float& value : values) {
      value = bf16_to_f32(f32_to_bf16(random.symmetric() * matrix.limit()));
    }
    return values;
  });
}

TEST_F(DeviceInt4, OtherColumnsAreRefusedAndTheVocabularyIsNotQuantised) {
  const std::vector<std::byte> data = random_matrix(QuantType::kBF16, 16, 192, 5);
  const SourceMatrix source{data.data(), QuantType::kBF16, 16, 192};
  const auto refused = ops_->pack(ctx_, source, WeightRole::kLinear);
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.status().message().find("192"), std::string::npos);
  EXPECT_EQ(refused.status().message().find('\n'), std::string::npos);
  const auto vocabulary = ops_->pack(ctx_, source, WeightRole::kVocabulary);
  ASSERT_TRUE(vocabulary.ok()) << vocabulary.status().message();
  EXPECT_EQ(vocabulary.value().dtype, DType::kBF16);
}

TEST_F(DeviceInt4, AProductsRowIsTheSameWhateverItIsComputedWith) {
  constexpr int64_t kCols = 896;
  constexpr int64_t kTokens = 32;
  constexpr std::array<int64_t, 3> kRows = {896, 128, 128};
  constexpr int64_t kAllRows = 896 + 128 + 128;
  std::vector<Weight> weights;
  for (size_t i = 0; i < kRows.size(); ++i) {
    weights.push_back(packed_random(kRows[i], kCols, 20 + i));
    if (i == 0) continue;
    const Weight& before = weights[i - 1];
    EXPECT_EQ(before.payload + before.payload_bytes, weights[i].payload);
    EXPECT_EQ(before.group_scales + before.num_group_scales(), weights[i].group_scales);
  }
  ASSERT_EQ(ops_->linear_input(weights.front()), DType::kBF16);
  const Buffer x = activations(kTokens, kCols);
  const Buffer y(kTokens * kAllRows * 2, *ops_->memory);
  // y of the first tokens; all matrices at once, or each on its own.
  const auto product = [&](int64_t num_tokens, bool at_once) {
    ops_->memory->fill(y.data(), 0xFF, y.bytes());
    const TensorView in = TensorView::contiguous(x.data(), DType::kBF16, {num_tokens, kCols});
    const TensorView out = TensorView::contiguous(y.data(), DType::kBF16, {num_tokens, kAllRows});
    std::vector<LinearPart> parts;
    int64_t first = 0;
    for (const Weight& weight : weights) {
      parts.push_back({&weight, nullptr, out.columns(first, weight.rows)});
      first += weight.rows;
    }
    if (at_once) {
      ops_->linear(ctx_, in, parts);
    } else {
      for (const LinearPart& part : parts) ops_->linear(ctx_, in, {&part, 1});
    }
    return read<uint16_t>(y.data(), num_tokens * kAllRows);
  };
  const std::vector<uint16_t> want = product(kTokens, true);
  for (const int64_t num_tokens : {1, 2, 5, 8, 9, 16, 17, 31, 32}) {
    const std::vector<uint16_t> head(want.begin(), want.begin() + num_tokens * kAllRows);
    EXPECT_EQ(product(num_tokens, true), head) << num_tokens << " tokens";
    EXPECT_EQ(product(num_tokens, true), head) << num_tokens << " tokens, once more";
    EXPECT_EQ(product(num_tokens, false), head) << num_tokens << " tokens, each on its own";
  }
}

TEST_F(DeviceInt4, ProductsOfFewAndOfManyTokensCanBeReplayed) {
  constexpr int64_t kRows = 640;
  constexpr int64_t kCols = 1024;
  const Weight weight = packed_random(kRows, kCols, 31);
  uint64_t key = 1;
  for (const int64_t num_tokens : {1, 8, 32, 33, 256}) {
    const Buffer x = activations(num_tokens, kCols);
    const Buffer y(static_cast<size_t>(512 * kRows * 2), *ops_->memory);
    const TensorView in = TensorView::contiguous(x.data(), DType::kBF16, {num_tokens, kCols});
    const LinearPart part{&weight, nullptr,
                          TensorView::contiguous(y.data(), DType::kBF16, {num_tokens, kRows})};
    const auto launch = [&] { ops_->linear(ctx_, in, {&part, 1}); };
    launch();
    const auto want = read<uint16_t>(y.data(), num_tokens * kRows);
    for (int time = 0; time < 3; ++time) {
      ops_->memory->fill(y.data(), 0xFF, y.bytes());
      ops_->replay(ctx_, key, launch);
      EXPECT_EQ(read<uint16_t>(y.data(), num_tokens * kRows), want) << num_tokens << " tokens";
    }
    ++key;
  }
}

}  // namespace
}  // namespace slipstream
