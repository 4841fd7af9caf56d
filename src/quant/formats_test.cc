// Formats: sizes and values that define them, checked against vectors computed elsewhere, and the
// quantisers' error against half a step.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "core/e4m3.h"
#include "core/half.h"
#include "quant/finite.h"
#include "quant/format.h"
#include "quant/gguf_blocks.h"

namespace slipstream {
namespace {

std::vector<float> dequantized(QuantType type, const void* block) {
  const QuantFormat& format = quant_format(type);
  std::vector<float> out(static_cast<size_t>(format.block_elements));
  format.dequantize_block(static_cast<const std::byte*>(block), out.data());
  return out;
}

// FNV-1a over the bytes of the floats: equal only when every bit is.
uint64_t bit_hash(const std::vector<float>& values) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const float value : values) {
    unsigned char bytes[sizeof(float)];
    std::memcpy(bytes, &value, sizeof(value));
    for (const unsigned char byte : bytes) hash = (hash ^ byte) * 0x100000001b3u;
  }
  return hash;
}

// A repeatable wave with values of both signs, no two blocks alike.
std::vector<float> wave(int count, float amplitude, float offset) {
  std::vector<float> values;
  for (int i = 0; i < count; ++i) {
    const float x = static_cast<float>(i);
    values.push_back(offset + amplitude * (std::sin(0.7f * x) + 0.3f * std::sin(3.1f * x + 1.0f)));
  }
  return values;
}

TEST(QuantFormats, TableIsInTypeOrderWithUniqueNamesAndIds) {
  std::set<std::string> names;
  std::set<int> ids;
  for (const QuantFormat& format : quant_formats()) {
    EXPECT_EQ(&quant_format(format.type), &format);
    EXPECT_TRUE(names.insert(format.name).second) << format.name;
    if (format.ggml_type != kNoGgmlType) {
      EXPECT_TRUE(ids.insert(format.ggml_type).second) << format.name;
      EXPECT_EQ(find_quant_format(format.ggml_type), &format);
    }
    EXPECT_EQ(find_quant_format(std::string_view(format.name)), &format);
  }
}

TEST(QuantFormats, NamesAreFoundInAnyCaseAndUnknownOnesAreNot) {
  EXPECT_EQ(find_quant_format("q4_k"), &quant_format(QuantType::kQ4_K));
  EXPECT_EQ(find_quant_format("bf16"), &quant_format(QuantType::kBF16));
  EXPECT_EQ(find_quant_format("Q4"), nullptr);
  EXPECT_EQ(find_quant_format(""), nullptr);
  EXPECT_EQ(find_quant_format(23), nullptr);
  EXPECT_EQ(find_quant_format(-1), nullptr);
}

TEST(QuantFormats, BytesPerWeightCountScales) {
  EXPECT_DOUBLE_EQ(quant_format(QuantType::kQ8_0).bytes_per_weight(), 1.0625);
  EXPECT_DOUBLE_EQ(quant_format(QuantType::kQ4_1).bytes_per_weight(), 0.625);
  EXPECT_DOUBLE_EQ(quant_format(QuantType::kQ6_K).bytes_per_weight(), 0.8203125);
}

// Block byte i = ((73 i + 41) mod 256) xor (i / 4), with d = 0x2E66 and, where the format has a
// minimum, m or dmin = 0xAA3D. The values come from numpy: `dequantize` of the PyPI package gguf
// 0.19.0.
struct Golden {
  QuantType type;
  size_t d_at;
  int m_at;  // -1: none
  float first, eighteenth, last;
  uint64_t hash;
};

constexpr Golden kGolden[] = {
    {QuantType::kQ8_0, 0, -1, -6.8983154296875f, -11.197265625f, -10.197509765625f,
     0x9e0f2a83ece48089u},
    {QuantType::kQ4_0, 0, -1, 0.2999267578125f, -0.7998046875f, -0.7998046875f,
     0xf4f1205253447f00u},
    {QuantType::kQ4_1, 0, 2, 1.150970458984375f, 0.851043701171875f, 0.851043701171875f,
     0x522a51fbdf71da23u},
    {QuantType::kQ5_0, 0, -1, 1.399658203125f, -1.399658203125f, 0.199951171875f,
     0xa93e8f00fa8d57beu},
    {QuantType::kQ5_1, 0, 2, 0.251190185546875f, 2.650604248046875f, 1.050994873046875f,
     0xc03384179baa7890u},
    {QuantType::kQ4_K, 0, 2, 18.081756591796875f, 14.482635498046875f, 5.019989013671875f,
     0xb41ac21f57b09f31u},
    {QuantType::kQ5_K, 0, 2, 27.679412841796875f, 4.884979248046875f, 6.819549560546875f,
     0x15cf0e31cc99bd26u},
    {QuantType::kQ6_K, 208, -1, 27.2933349609375f, 1.19970703125f, 2.0994873046875f,
     0x263d2007945380f7u},
};

TEST(QuantFormats, DequantiseMatchesAnIndependentImplementationBitForBit) {
  for (const Golden& golden : kGolden) {
    const QuantFormat& format = quant_format(golden.type);
    std::vector<uint8_t> block(static_cast<size_t>(format.block_bytes));
    for (size_t i = 0; i < block.size(); ++i) {
      block[i] = static_cast<uint8_t>(((i * 73 + 41) & 0xFF) ^ (i >> 2));
    }
    block[golden.d_at] = 0x66;
    block[golden.d_at + 1] = 0x2E;
    if (golden.m_at >= 0) {
      block[static_cast<size_t>(golden.m_at)] = 0x3D;
      block[static_cast<size_t>(golden.m_at) + 1] = 0xAA;
    }
    const std::vector<float> values = dequantized(golden.type, block.data());
    EXPECT_EQ(values.front(), golden.first) << format.name;
    EXPECT_EQ(values[17], golden.eighteenth) << format.name;
    EXPECT_EQ(values.back(), golden.last) << format.name;
    EXPECT_EQ(bit_hash(values), golden.hash) << format.name;
  }
}

TEST(QuantFormats, LowNibblesHoldTheFirstHalfOfABlock) {
  BlockQ4_0 block{};
  block.d = f32_to_f16(0.5f);
  for (uint8_t& byte : block.q) byte = 0x88;  // code 8 is zero
  block.q[3] = 0xF1;                          // element 3: 1 - 8, element 19: 15 - 8
  const auto values = dequantized(QuantType::kQ4_0, &block);
  for (size_t j = 0; j < values.size(); ++j) {
    const float expected = j == 3 ? -3.5f : j == 19 ? 3.5f : 0.0f;
    EXPECT_EQ(values[j], expected) << "element " << j;
  }
}

TEST(QuantFormats, FifthBitsFollowElementOrder) {
  BlockQ5_1 block{};
  block.d = f32_to_f16(1.0f);
  block.m = f32_to_f16(-2.0f);
  block.high_bits[0] = 0x04;  // element 2
  block.high_bits[3] = 0x80;  // element 31
  block.q[2] = 0x03;
  block.q[15] = 0x50;
  const auto values = dequantized(QuantType::kQ5_1, &block);
  EXPECT_EQ(values[2], 16.0f + 3.0f - 2.0f);
  EXPECT_EQ(values[31], 16.0f + 5.0f - 2.0f);
  EXPECT_EQ(values[0], -2.0f);
  EXPECT_EQ(values[18], -2.0f);
}

TEST(QuantFormats, SixBitScalesUnpackToWhatWasPacked) {
  // Packs eight pairs by the rule in words: 0..3 whole in six bits, 4..7 split four and two.
  uint8_t scale[8];
  uint8_t minimum[8];
  uint8_t packed[12] = {};
  for (int j = 0; j < 8; ++j) {
    scale[j] = static_cast<uint8_t>((j * 23 + 17) & 63);
    minimum[j] = static_cast<uint8_t>((j * 41 + 50) & 63);
  }
  for (int j = 0; j < 4; ++j) {
    packed[j] = static_cast<uint8_t>(scale[j] | (scale[j + 4] >> 4) << 6);
    packed[j + 4] = static_cast<uint8_t>(minimum[j] | (minimum[j + 4] >> 4) << 6);
    packed[j + 8] = static_cast<uint8_t>((scale[j + 4] & 15) | (minimum[j + 4] & 15) << 4);
  }
  for (int j = 0; j < 8; ++j) {
    EXPECT_EQ(q4_k_scale_min(packed, j).scale, scale[j]) << j;
    EXPECT_EQ(q4_k_scale_min(packed, j).minimum, minimum[j]) << j;
  }
}

TEST(QuantFormats, FloatFormatsRoundTripExactly) {
  for (const QuantType type : {QuantType::kF32, QuantType::kF16, QuantType::kBF16}) {
    const QuantFormat& format = quant_format(type);
    for (const float value : {0.0f, -0.0f, 1.0f, -2.5f, 32768.0f, 6.103515625e-5f}) {
      std::byte stored[4];
      format.quantize_block(&value, stored);
      float back = 0.0f;
      format.dequantize_block(stored, &back);
      EXPECT_EQ(back, value) << format.name;
      EXPECT_EQ(std::signbit(back), std::signbit(value)) << format.name;
    }
  }
}

TEST(QuantFormats, QuantiserErrsByAtMostHalfAStep) {
  struct Case {
    QuantType type;
    float steps;     // steps between the smallest and the largest value of a block
    bool symmetric;  // the range is centred on zero
  };
  // One extra half step: the value opposite the peak may clip (symmetric formats have one code
  // less on that side), or lie outside because scale and minimum are rounded to f16.
  for (const Case& c : {Case{QuantType::kQ8_0, 254, true}, Case{QuantType::kQ4_0, 16, true},
                        Case{QuantType::kQ4_1, 15, false}, Case{QuantType::kQ5_0, 32, true},
                        Case{QuantType::kQ5_1, 31, false}}) {
    const QuantFormat& format = quant_format(c.type);
    const std::vector<float> in = wave(64, 0.08f, c.symmetric ? 0.0f : 0.02f);
    for (size_t start = 0; start < in.size(); start += 32) {
      std::vector<std::byte> block(static_cast<size_t>(format.block_bytes));
      format.quantize_block(in.data() + start, block.data());
      const auto out = dequantized(c.type, block.data());
      float low = in[start];
      float high = in[start];
      for (size_t j = 0; j < 32; ++j) {
        low = std::min(low, in[start + j]);
        high = std::max(high, in[start + j]);
      }
      const float range = c.symmetric ? 2.0f * std::max(-low, high) : high - low;
      const float step = range / c.steps;
      int num_beyond_half = 0;
      for (size_t j = 0; j < 32; ++j) {
        const float error = std::fabs(out[j] - in[start + j]);
        EXPECT_LE(error, 1.01f * step) << format.name << " element " << j;
        if (error > 0.51f * step) ++num_beyond_half;
      }
      EXPECT_LE(num_beyond_half, 2) << format.name;
    }
  }
}

TEST(QuantFormats, QuantisingWhatAFormatRepresentsLosesNothing) {
  // Codes -8..7 in steps of a power of two; Q8_0 and Q5_1 have no such step for this range.
  std::vector<float> in;
  for (int j = 0; j < 32; ++j) in.push_back(0.25f * static_cast<float>(j % 16 - 8));
  for (const QuantType type : {QuantType::kQ4_0, QuantType::kQ4_1, QuantType::kQ5_0}) {
    const QuantFormat& format = quant_format(type);
    std::vector<std::byte> block(static_cast<size_t>(format.block_bytes));
    format.quantize_block(in.data(), block.data());
    EXPECT_EQ(dequantized(type, block.data()), in) << format.name;
  }
}

TEST(QuantFormats, ZeroBlocksStayZero) {
  const std::vector<float> zeros(32, 0.0f);
  for (const QuantFormat& format : quant_formats()) {
    if (format.quantize_block == nullptr) continue;
    std::vector<std::byte> block(static_cast<size_t>(format.block_bytes));
    format.quantize_block(zeros.data(), block.data());
    for (const float value : dequantized(format.type, block.data())) EXPECT_EQ(value, 0.0f);
  }
}

TEST(QuantFormats, HugeAndNonFiniteInputsQuantiseToFiniteValues) {
  std::vector<float> in(32, 1.0f);
  in[0] = 3e38f;
  in[1] = -3e38f;
  in[2] = std::numeric_limits<float>::quiet_NaN();
  in[3] = std::numeric_limits<float>::infinity();
  for (const QuantFormat& format : quant_formats()) {
    if (format.quantize_block == nullptr || format.block_elements == 1) continue;
    std::vector<std::byte> block(static_cast<size_t>(format.block_bytes));
    format.quantize_block(in.data(), block.data());
    for (const float value : dequantized(format.type, block.data())) {
      EXPECT_TRUE(std::isfinite(value)) << format.name;
    }
  }
}

TEST(QuantFormats, DequantiseRowReadsItsRowOnlyInEveryFormat) {
  constexpr int64_t kRows = 3;
  constexpr int64_t kCols = 512;
  for (const QuantFormat& format : quant_formats()) {
    const SourceMatrix probe{.type = format.type, .rows = kRows, .cols = kCols};
    std::vector<std::byte> bytes(static_cast<size_t>(probe.bytes()));
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 37 % 61);
    SourceMatrix matrix = probe;
    matrix.data = bytes.data();
    std::vector<float> row(kCols);
    dequantize_row(matrix, 2, row.data());
    std::vector<float> expected(kCols);
    const std::byte* block = bytes.data() + 2 * matrix.row_bytes();
    for (int64_t col = 0; col < kCols; col += format.block_elements) {
      format.dequantize_block(block, expected.data() + col);
      block += format.block_bytes;
    }
    EXPECT_EQ(bit_hash(row), bit_hash(expected)) << format.name;
  }
}

TEST(QuantFormats, E4M3ValuesAreMultipliedByTheScaleOfTheirRectangle) {
  constexpr int64_t kRows = 5;
  constexpr int64_t kCols = 7;
  std::vector<std::byte> codes(kRows * kCols);
  for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<std::byte>(i * 37 % 127);
  // Rectangles of 2 x 3 that the matrix's edges cut: 3 x 3 of them.
  std::vector<float> scales;
  for (int i = 0; i < 9; ++i) scales.push_back(0.1f * static_cast<float>(i + 1));
  SourceMatrix matrix{.data = codes.data(), .type = QuantType::kE4M3, .rows = kRows, .cols = kCols};
  matrix.scales = {reinterpret_cast<const std::byte*>(scales.data()), QuantType::kF32, 2, 3};
  EXPECT_EQ(num_scales(matrix), 9);
  std::vector<float> row(kCols);
  for (int64_t r = 0; r < kRows; ++r) {
    dequantize_row(matrix, r, row.data());
    for (int64_t c = 0; c < kCols; ++c) {
      const auto code = static_cast<uint8_t>(codes[static_cast<size_t>(r * kCols + c)]);
      EXPECT_EQ(row[static_cast<size_t>(c)],
                e4m3_to_f32(code) * scales[static_cast<size_t>(r / 2 * 3 + c / 3)]);
    }
  }
  // Scales of other types are widened exactly.
  const uint16_t half = f32_to_bf16(0.37f);
  matrix.scales = {reinterpret_cast<const std::byte*>(&half), QuantType::kBF16, kRows, kCols};
  EXPECT_EQ(scale_at(matrix, 4, 6), bf16_to_f32(half));
}

// The finite check reads only where floats lie: it must agree with dequantising everything.
TEST(QuantFormats, M13_AnyBitFlipThatMakesAValueNotFiniteIsFound) {
  constexpr int64_t kCols = 256;
  for (const QuantFormat& format : quant_formats()) {
    SourceMatrix matrix{.type = format.type, .rows = 2, .cols = kCols};
    // Exponents one bit below all ones in every byte that may hold one.
    std::vector<std::byte> bytes(static_cast<size_t>(matrix.bytes()), std::byte{0x3F});
    matrix.data = bytes.data();
    EXPECT_EQ(first_non_finite_row(matrix), -1) << format.name;
    int num_found = 0;
    for (size_t at = static_cast<size_t>(matrix.row_bytes()); at < bytes.size(); ++at) {
      for (const int value : {0x7F, 0x80, 0xFF, 0x7C}) {
        bytes[at] = static_cast<std::byte>(value);
        if (at + 1 < bytes.size()) bytes[at + 1] = static_cast<std::byte>(value);
        std::vector<float> row(kCols);
        dequantize_row(matrix, 1, row.data());
        bool finite = true;
        for (const float element : row) finite = finite && std::isfinite(element);
        ASSERT_EQ(first_non_finite_row(matrix), finite ? -1 : 1) << format.name << " byte " << at;
        if (!finite) ++num_found;
        bytes[at] = std::byte{0x3F};
        if (at + 1 < bytes.size()) bytes[at + 1] = std::byte{0x3F};
      }
    }
    EXPECT_GT(num_found, 0) << format.name;
  }
}

}  // namespace
}  // namespace slipstream
