// The GPU's forward pass against the CPU's, on random models of real shapes. Skipped without a GPU.
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "base/random.h"
#include "loader/hf_config.h"
#include "model/chunk_runner.h"
#include "model/families/families.h"

namespace slipstream {
namespace {

constexpr const char* kLlama = R"({"architectures":["LlamaForCausalLM"],"model_type":"llama",
  "hidden_size":1024,"intermediate_size":2816,"num_hidden_layers":4,"num_attention_heads":16,
  "num_key_value_heads":4,"vocab_size":4096,"rms_norm_eps":1e-5,"rope_theta":10000.0,
  "max_position_embeddings":2048,"tie_word_embeddings":false,"hidden_act":"silu"})";
constexpr const char* kQwen2 = R"({"architectures":["Qwen2ForCausalLM"],"model_type":"qwen2",
  "hidden_size":896,"intermediate_size":2048,"num_hidden_layers":3,"num_attention_heads":14,
  "num_key_value_heads":2,"vocab_size":4096,"rms_norm_eps":1e-6,"rope_theta":1000000.0,
  "max_position_embeddings":2048,"tie_word_embeddings":true,"hidden_act":"silu"})";
constexpr const char* kQwen3 = R"({"architectures":["Qwen3ForCausalLM"],"model_type":"qwen3",
  "hidden_size":1024,"head_dim":128,"intermediate_size":2048,"num_hidden_layers":3,
  "num_attention_heads":16,"num_key_value_heads":8,"vocab_size":4096,"rms_norm_eps":1e-6,
  "rope_theta":1000000.0,"max_position_embeddings":2048,"tie_word_embeddings":true,
  "hidden_act":"silu","attention_bias":false})";

struct Case {
  const char* name;
  const char* config;
  DType kv_dtype;
  DType weight_dtype;
  // |difference| / |CPU's logits|, root mean square. Random weights have no outliers to hide errors
  // behind: 8-bit products are off by 4 % each, and the errors of 28 of them add up.
  double tolerance;
};

class DeviceForward : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    std::string why;
    cuda_ = cuda_ops(&why);
    if (cuda_ == nullptr) GTEST_SKIP() << why;
  }
  std::unique_ptr<ChunkRunner> open(const Ops& ops, DType kv_dtype) const {
    const auto config = HfConfig::from_text(GetParam().config, "", "config");
    EXPECT_TRUE(config.ok());
    const auto model = describe_config(config.value());
    EXPECT_TRUE(model.ok());
    auto runner = ChunkRunner::random(model.value(), QuantType::kBF16, 3, ops,
                                      {.num_threads = 2,
                                       .num_seqs = 3,
                                       .max_tokens = 512,
                                       .max_context = 1024,
                                       .kv_dtype = kv_dtype,
                                       .weight_dtype = GetParam().weight_dtype});
    EXPECT_TRUE(runner.ok()) << runner.status().message();
    return runner.ok() ? std::move(runner).value() : nullptr;
  }
  const Ops* cuda_ = nullptr;
};

double relative_error(TensorView want, TensorView got) {
  double difference = 0.0;
  double size = 0.0;
  for (int64_t row = 0; row < want.dim(0); ++row) {
    for (int64_t i = 0; i < want.dim(1); ++i) {
      const double a = want.f32_row(row)[i];
      const double b = got.f32_row(row)[i];
      difference += (a - b) * (a - b);
      size += a * a;
    }
  }
  return std::sqrt(difference / size);  // not a number when a logit is none
}

INSTANTIATE_TEST_SUITE_P(
    Models, DeviceForward,
    testing::Values(Case{"llama", kLlama, DType::kBF16, DType::kBF16, 0.03},
                    Case{"qwen2", kQwen2, DType::kBF16, DType::kBF16, 0.03},
                    Case{"qwen3", kQwen3, DType::kBF16, DType::kBF16, 0.03},
                    Case{"llama_fp8_kv", kLlama, DType::kF8E4M3, DType::kBF16, 0.15},
                    Case{"qwen3_fp8_kv", kQwen3, DType::kF8E4M3, DType::kBF16, 0.15},
                    Case{"llama_fp8", kLlama, DType::kBF16, DType::kF8E4M3, 0.25},
                    Case{"qwen2_fp8", kQwen2, DType::kBF16, DType::kF8E4M3, 0.25},
                    Case{"qwen3_fp8", kQwen3, DType::kF8E4M3, DType::kF8E4M3, 0.25}),
    [](const auto& each) { return each.param.name; });

TEST_P(DeviceForward, AgreesWithTheCpuThroughPrefillDecodeAndMixedSteps) {
  const auto host = open(*cpu_ops(CpuIsa::kAuto), DType::kF32);
  const auto device = open(*cuda_, GetParam().kv_dtype);
  ASSERT_TRUE(host != nullptr && device != nullptr);
  SplitMix64 random(1);
  const auto ids = [&](int count) {
    std::vector<int32_t> tokens(static_cast<size_t>(count));
    for (int32_t& token : tokens) token = static_cast<int32_t>(random.below(4000));
    return tokens;
  };
  const std::vector<std::vector<Chunk>> steps = {
      {{0, ids(300)}, {1, ids(7)}, {2, ids(130)}},
      {{0, ids(1)}, {1, ids(1)}, {2, ids(1)}},
      {{1, ids(1)}, {0, ids(200)}, {2, ids(1)}},
      {{2, ids(1)}, {0, ids(1)}},
  };
  for (const std::vector<Chunk>& step : steps) {
    const TensorView want = host->run(step);
    const TensorView got = device->run(step);
    ASSERT_EQ(got.dim(0), want.dim(0));
    EXPECT_LE(relative_error(want, got), GetParam().tolerance);
  }
}

}  // namespace
}  // namespace slipstream
