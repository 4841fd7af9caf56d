// FP8 checkpoints: every layout of scales gives the same exact values, and what is wrong with a
// scale is said in one line that names tensor and file.
#include "loader/fp8_scales.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/strings.h"
#include "core/e4m3.h"
#include "core/half.h"
#include "loader/checkpoint.h"
#include "loader/hf_quantization.h"
#include "loader/model_files_for_test.h"

namespace slipstream {
namespace {

constexpr int64_t kRows = 130;  // neither is a multiple of a block
constexpr int64_t kCols = 300;

std::string codes() {
  std::string bytes;
  for (int64_t i = 0; i < kRows * kCols; ++i) {
    bytes.push_back(static_cast<char>(i * 37 % 127 + (i % 2 == 0 ? 128 : 0)));
  }
  return bytes;
}

std::string f32_scales(const std::vector<float>& values) {
  std::string bytes;
  for (const float value : values) bytes += raw(value);
  return bytes;
}

std::vector<float> some_scales(int64_t count) {
  std::vector<float> values;
  for (int64_t i = 0; i < count; ++i) values.push_back(0.001f * static_cast<float>(i + 1));
  return values;
}

class Fp8Scales : public testing::Test {
 protected:
  // A folder with X.weight and what `builder` holds.
  std::unique_ptr<Checkpoint> open(SafetensorsBuilder builder) const {
    builder.tensor("X.weight", "F8_E4M3", str("[", kRows, ",", kCols, "]"), codes());
    folder_.write("config.json", "{}");
    folder_.write("model.safetensors", builder.text());
    auto checkpoint = Checkpoint::open(folder_.path());
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status().message();
    return checkpoint.ok() ? std::move(checkpoint).value() : nullptr;
  }
  std::unique_ptr<Checkpoint> open(const std::string& name, const std::string& dtype,
                                   const std::string& shape, const std::string& bytes) const {
    return open(SafetensorsBuilder().tensor(name, dtype, shape, bytes));
  }

  // Every element is its code times the scale that `scale_of` gives, rounded once.
  template <typename ScaleOf>
  void expect_values(const Checkpoint& checkpoint, const ScaleOf& scale_of) const {
    const auto matrix = checkpoint.matrix("X.weight", kRows, kCols);
    ASSERT_TRUE(matrix.ok()) << matrix.status().message();
    const Status finite = checkpoint.check_finite("X.weight", matrix.value());
    EXPECT_TRUE(finite.ok()) << finite.message();
    const std::string stored = codes();
    std::vector<float> row(kCols);
    for (int64_t r = 0; r < kRows; ++r) {
      dequantize_row(matrix.value(), r, row.data());
      for (int64_t c = 0; c < kCols; ++c) {
        const auto code = static_cast<uint8_t>(stored[static_cast<size_t>(r * kCols + c)]);
        ASSERT_EQ(row[static_cast<size_t>(c)], e4m3_to_f32(code) * scale_of(r, c)) << r << " " << c;
      }
    }
    EXPECT_TRUE(checkpoint.unused({"X.weight"}).empty());
    EXPECT_TRUE(checkpoint.stores(QuantType::kE4M3));
    EXPECT_FALSE(checkpoint.stores(QuantType::kQ8_0));
  }

  void expect_refused(const Checkpoint& checkpoint, const std::string& needle) const {
    const auto matrix = checkpoint.matrix("X.weight", kRows, kCols);
    const Status status =
        matrix.ok() ? checkpoint.check_finite("X.weight", matrix.value()) : matrix.status();
    ASSERT_FALSE(status.ok()) << "accepted, expected: " << needle;
    EXPECT_EQ(status.code(), StatusCode::kInvalidModel);
    EXPECT_NE(status.message().find(needle), std::string::npos) << status.message();
    EXPECT_NE(status.message().find("model.safetensors: tensor 'X.weight"), std::string::npos)
        << status.message();
    EXPECT_EQ(status.message().find('\n'), std::string::npos);
  }

  TempFolder folder_;
};

TEST_F(Fp8Scales, OneForTheTensor) {
  for (const char* shape : {"[]", "[1]", "[1,1]"}) {
    for (const char* name : {"X.weight_scale", "X.weight_scale_inv"}) {
      const auto checkpoint = open(name, "F32", shape, raw(0.37f));
      ASSERT_NE(checkpoint, nullptr);
      expect_values(*checkpoint, [](int64_t, int64_t) { return 0.37f; });
    }
  }
}

TEST_F(Fp8Scales, OneForEveryRow) {
  const std::vector<float> scales = some_scales(kRows);
  for (const std::string& shape : {str("[", kRows, "]"), str("[", kRows, ",1]")}) {
    const auto checkpoint = open("X.weight_scale", "F32", shape, f32_scales(scales));
    ASSERT_NE(checkpoint, nullptr);
    expect_values(*checkpoint, [&](int64_t r, int64_t) { return scales[static_cast<size_t>(r)]; });
  }
}

TEST_F(Fp8Scales, OneForEveryBlockWithEdgesCutOff) {
  const std::vector<float> scales = some_scales(2 * 3);
  for (const char* name : {"X.weight_scale", "X.weight_scale_inv"}) {
    const auto checkpoint = open(name, "F32", "[2,3]", f32_scales(scales));
    ASSERT_NE(checkpoint, nullptr);
    expect_values(*checkpoint, [&](int64_t r, int64_t c) {
      return scales[static_cast<size_t>(r / 128 * 3 + c / 128)];
    });
  }
}

TEST_F(Fp8Scales, OfEveryFloatType) {
  const auto half = open("X.weight_scale", "F16", "[1]", raw(f32_to_f16(0.37f)));
  expect_values(*half, [](int64_t, int64_t) { return f16_to_f32(f32_to_f16(0.37f)); });
  const auto brain = open("X.weight_scale", "BF16", "[1]", raw(f32_to_bf16(0.37f)));
  expect_values(*brain, [](int64_t, int64_t) { return bf16_to_f32(f32_to_bf16(0.37f)); });
  const auto tiny = open("X.weight_scale", "F32", "[1]", raw(1e-40f));  // subnormal
  expect_values(*tiny, [](int64_t, int64_t) { return 1e-40f; });
}

TEST_F(Fp8Scales, MissingOrDoubleScalesAreRefused) {
  expect_refused(*open(SafetensorsBuilder()),
                 "stored as F8_E4M3 without its scales, 'X.weight_scale' or 'X.weight_scale_inv'");
  expect_refused(*open(SafetensorsBuilder()
                           .tensor("X.weight_scale", "F32", "[1]", raw(1.0f))
                           .tensor("X.weight_scale_inv", "F32", "[1]", raw(1.0f))),
                 "has both");
}

TEST_F(Fp8Scales, OtherShapesAreRefusedWithThoseThatServe) {
  for (const auto& [shape, count] :
       {std::pair{"[2]", 2}, {"[300]", 300}, {"[1,130]", 130}, {"[3,2]", 6}, {"[2,3,1]", 6}}) {
    const auto checkpoint = open("X.weight_scale", "F32", shape, f32_scales(some_scales(count)));
    expect_refused(*checkpoint,
                   "expected scales of a [130, 300] matrix: [1], [130], [130, 1] or, "
                   "for blocks of 128 x 128, [2, 3]");
  }
}

TEST_F(Fp8Scales, OtherTypesAreRefused) {
  expect_refused(*open("X.weight_scale", "I32", "[1]", raw(int32_t{1})),
                 "'X.weight_scale': stored as I32, expected F32, F16 or BF16");
  expect_refused(*open("X.weight_scale", "F8_E8M0", "[1]", "\x7f"), "stored as F8_E8M0");
  expect_refused(*open("X.weight_scale", "F8_E4M3", "[1]", "\x3f"), "stored as F8_E4M3");
}

TEST_F(Fp8Scales, M13_ScalesThatAreNoPositiveNumbersAreRefused) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  for (const float bad : {std::nanf(""), -0.5f, 0.0f, -0.0f, kInf, -kInf, 1e37f}) {
    std::vector<float> scales = some_scales(kRows);
    scales[77] = bad;
    expect_refused(*open("X.weight_scale", "F32", "[130]", f32_scales(scales)),
                   "tensor 'X.weight_scale': element 77 is ");
    scales.resize(6);
    scales[4] = bad;
    expect_refused(*open("X.weight_scale_inv", "F32", "[2,3]", f32_scales(scales)),
                   "tensor 'X.weight_scale_inv': element 4 is ");
    expect_refused(*open("X.weight_scale", "F32", "[]", raw(bad)), "element 0 is ");
  }
}

TEST_F(Fp8Scales, M13_NotANumberAmongTheCodesIsFoundWithItsRow) {
  std::string bytes = codes();
  bytes[2 * kCols + 5] = '\xFF';
  SafetensorsBuilder builder;
  builder.tensor("Y.weight", "F8_E4M3", str("[", kRows, ",", kCols, "]"), bytes);
  builder.tensor("Y.weight_scale", "F32", "[1]", raw(1.0f));
  const auto checkpoint = open(builder);
  const auto matrix = checkpoint->matrix("Y.weight", kRows, kCols);
  ASSERT_TRUE(matrix.ok()) << matrix.status().message();
  const Status status = checkpoint->check_finite("Y.weight", matrix.value());
  EXPECT_NE(status.message().find("tensor 'Y.weight': row 2 holds NaN"), std::string::npos)
      << status.message();
}

TEST_F(Fp8Scales, AVectorInFp8IsRefused) {
  SafetensorsBuilder builder;
  builder.tensor("norm.weight", "F8_E4M3", "[4]", "\1\2\3\4");
  const auto vector = open(builder)->vector("norm.weight", 4);
  ASSERT_FALSE(vector.ok());
  EXPECT_NE(vector.status().message().find("stored as F8_E4M3, expected F32"), std::string::npos);
}

TEST_F(Fp8Scales, ScalesOfPlainWeightsStayUnused) {
  SafetensorsBuilder builder;
  builder.tensor("Y.weight", "F16", "[1,1]", raw(f32_to_f16(1.0f)));
  builder.tensor("Y.weight_scale", "F32", "[1]", raw(1.0f));
  builder.tensor("X.weight_scale", "F32", "[1]", raw(1.0f));
  EXPECT_EQ(open(builder)->unused({"X.weight", "Y.weight"}),
            (std::vector<std::string>{"Y.weight_scale"}));
}

// ---- config.json ----

Status check(const std::string& quantization) {
  const auto config =
      HfConfig::from_text(str(R"({"quantization_config":)", quantization, "}"), "", "config.json");
  EXPECT_TRUE(config.ok()) << config.status().message();
  return check_quantization(config.value());
}

TEST(Quantization, LayoutsOfFp8AreTaken) {
  for (const char* config :
       {R"({"quant_method":"fp8","fmt":"e4m3","activation_scheme":"dynamic",
            "weight_block_size":[128,128],"modules_to_not_convert":["lm_head"]})",
        R"({"quant_method":"fp8","activation_scheme":"static","weight_block_size":null})",
        R"({"quant_method":"fbgemm_fp8","activation_scale_ub":1200.0})",
        R"({"quant_method":"modelopt","quant_algo":"FP8","kv_cache_quant_algo":"FP8"})",
        R"({"quant_method":"compressed-tensors","format":"float-quantized","ignore":["lm_head"],
            "config_groups":{"group_0":{"targets":["Linear"],"weights":{"num_bits":8,
            "type":"float","strategy":"channel","symmetric":true,"group_size":null}}}})",
        R"({"quant_method":"compressed-tensors","format":"naive-quantized","config_groups":
            {"group_0":{"weights":{"num_bits":8,"type":"float","strategy":"tensor"}}}})",
        R"({"quant_method":"compressed-tensors","format":"mixed-precision","config_groups":
            {"group_0":{"format":"float-quantized","weights":{"num_bits":8,"type":"float",
            "strategy":"block","block_structure":[128,128]}}}})",
        R"({"quant_method":"compressed-tensors","config_groups":{},"kv_cache_scheme":
            {"num_bits":8,"type":"float"}})"}) {
    const Status status = check(config);
    EXPECT_TRUE(status.ok()) << config << ": " << status.message();
  }
}

TEST(Quantization, EverythingElseIsRefusedByName) {
  struct Case {
    const char* config;
    const char* named;
  };
  for (const Case& each : {
           Case{R"({"quant_method":"gptq","bits":4})", "quantised by 'gptq'"},
           Case{R"({"quant_method":"awq"})", "'awq'"},
           Case{R"({"quant_method":"bitsandbytes","load_in_4bit":true})", "'bitsandbytes'"},
           Case{R"({})", "'?'"},
           Case{R"({"quant_method":7})", "quant_method"},
           Case{R"({"quant_method":"fp8","fmt":"e5m2"})", "fp8 with fmt 'e5m2'"},
           Case{R"({"quant_method":"fp8","weight_block_size":[64,64]})", "[64,64]"},
           Case{R"({"quant_method":"modelopt","quant_algo":"NVFP4"})", "modelopt 'NVFP4'"},
           Case{R"({"quant_method":"compressed-tensors","format":"int-quantized","config_groups":
                {"g":{"weights":{"num_bits":8,"type":"int","strategy":"channel"}}}})",
                "'int-quantized' (8-bit int"},
           Case{R"({"quant_method":"compressed-tensors","format":"pack-quantized","config_groups":
                {"g":{"weights":{"num_bits":4,"type":"int","strategy":"group"}}}})",
                "'pack-quantized' (4-bit int"},
           Case{R"({"quant_method":"compressed-tensors","format":"float-quantized","config_groups":
                {"g":{"weights":{"num_bits":8,"type":"float","strategy":"group"}}}})",
                "strategy 'group'"},
           Case{R"({"quant_method":"compressed-tensors","format":"float-quantized","config_groups":
                {"g":{"weights":{"num_bits":8,"type":"float","strategy":"block",
                "block_structure":[1,128]}}}})",
                "[1,128]"},
           Case{R"({"quant_method":"compressed-tensors","format":"float-quantized",
                "transform_config":{"config_groups":{"u":{}}}})",
                "transform_config"},
       }) {
    const Status status = check(each.config);
    ASSERT_FALSE(status.ok()) << each.config;
    EXPECT_EQ(status.code(), StatusCode::kInvalidModel);
    EXPECT_NE(status.message().find(each.named), std::string::npos) << status.message();
    EXPECT_NE(status.message().find("config.json"), std::string::npos) << status.message();
    EXPECT_EQ(status.message().find('\n'), std::string::npos);
  }
}

}  // namespace
}  // namespace slipstream
