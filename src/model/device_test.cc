// The GPU's forward pass against the CPU's, on random models of real shapes. Skipped without a GPU.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "base/random.h"
#include "base/strings.h"
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

// A llama of two layers with 8 heads of `head_dim`, 4 of them for K and V.
std::string llama_with_heads_of(int head_dim) {
  return str(R"({"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_size":512,
  "head_dim":)",
             head_dim, R"(,"intermediate_size":1024,"num_hidden_layers":2,"num_attention_heads":8,
  "num_key_value_heads":4,"vocab_size":4096,"rms_norm_eps":1e-5,"rope_theta":10000.0,
  "max_position_embeddings":2048,"tie_word_embeddings":false,"hidden_act":"silu"})");
}

struct Case {
  std::string name;
  std::string config;
  DType kv_dtype;
  DType weight_dtype;
  // |difference| / |CPU's logits|, root mean square. Random weights have no outliers to hide errors
  // behind: 8-bit products are off by 4 % each, and the errors of 28 of them add up.
  double tolerance;
};

constexpr int kNumSeqs = 64;

class DeviceForward : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    std::string why;
    cuda_ = cuda_ops(&why);
    if (cuda_ == nullptr) GTEST_SKIP() << why;
  }
  std::unique_ptr<ChunkRunner> open(const Ops& ops, DType kv_dtype,
                                    bool deterministic = false) const {
    const auto config = HfConfig::from_text(GetParam().config, "", "config");
    EXPECT_TRUE(config.ok());
    const auto model = describe_config(config.value());
    EXPECT_TRUE(model.ok());
    auto runner = ChunkRunner::random(model.value(), QuantType::kBF16, 3, ops,
                                      {.num_threads = 2,
                                       .num_seqs = kNumSeqs,
                                       .max_tokens = 1280,
                                       .max_context = 2560,
                                       .kv_dtype = kv_dtype,
                                       .weight_dtype = GetParam().weight_dtype,
                                       .deterministic = deterministic});
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
    testing::Values(
        Case{"llama", kLlama, DType::kBF16, DType::kBF16, 0.03},
        Case{"qwen2", kQwen2, DType::kBF16, DType::kBF16, 0.03},
        Case{"qwen3", kQwen3, DType::kBF16, DType::kBF16, 0.03},
        Case{"heads_of_16", llama_with_heads_of(16), DType::kBF16, DType::kBF16, 0.03},
        Case{"heads_of_32", llama_with_heads_of(32), DType::kBF16, DType::kBF16, 0.03},
        Case{"heads_of_80", llama_with_heads_of(80), DType::kBF16, DType::kBF16, 0.03},
        Case{"heads_of_96", llama_with_heads_of(96), DType::kBF16, DType::kBF16, 0.03},
        Case{"heads_of_256", llama_with_heads_of(256), DType::kBF16, DType::kBF16, 0.03},
        Case{"heads_of_16_fp8_kv", llama_with_heads_of(16), DType::kF8E4M3, DType::kBF16, 0.15},
        Case{"heads_of_32_fp8_kv", llama_with_heads_of(32), DType::kF8E4M3, DType::kBF16, 0.15},
        Case{"heads_of_80_fp8_kv", llama_with_heads_of(80), DType::kF8E4M3, DType::kBF16, 0.15},
        Case{"heads_of_96_fp8_kv", llama_with_heads_of(96), DType::kF8E4M3, DType::kBF16, 0.15},
        Case{"heads_of_256_fp8_kv", llama_with_heads_of(256), DType::kF8E4M3, DType::kBF16, 0.15},
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

// What --deterministic promises: a token's logits are the same bits alone and among others, in one
// chunk, in many, and decoded one by one; across the length at which attention splits contexts.
TEST_P(DeviceForward, DeterministicLogitsKnowNeitherBatchNorChunks) {
  const auto device = open(*cuda_, GetParam().kv_dtype, /*deterministic=*/true);
  ASSERT_TRUE(device != nullptr);
  constexpr size_t kLength = 1100;
  constexpr size_t kLongest = 2100;
  SplitMix64 random(7);
  std::vector<int32_t> ids(kLength);
  for (int32_t& token : ids) token = static_cast<int32_t>(random.below(4000));
  const auto piece = [&](size_t begin, size_t count) {
    return std::vector<int32_t>(ids.begin() + static_cast<int64_t>(begin),
                                ids.begin() + static_cast<int64_t>(begin + count));
  };
  const auto row_of = [](TensorView logits, int64_t row) {
    return std::vector<float>(logits.f32_row(row), logits.f32_row(row) + logits.dim(1));
  };
  // Sequence 0 in one step alone; the last 160 tokens are compared.
  constexpr size_t kFirst = kLength - 160;
  std::vector<std::vector<float>> want;
  const TensorView whole = device->run(0, ids);
  for (size_t i = kFirst; i < kLength; ++i) want.push_back(row_of(whole, static_cast<int64_t>(i)));
  // Sequence 63 has a context that attention splits in three. Sequence 5 comes in chunks of many
  // sizes, then one by one, among neighbours that decode.
  for (size_t begin = 0; begin < kLongest; begin += 500) {
    const size_t count = std::min<size_t>(500, kLongest - begin);
    std::vector<int32_t> others(count);
    for (int32_t& token : others) token = static_cast<int32_t>(random.below(4000));
    (void)device->run(kNumSeqs - 1, others);
  }
  for (size_t begin = 0; begin < kFirst;) {
    const size_t count = std::min<size_t>({1 + random.below(300), kFirst - begin});
    std::vector<Chunk> step;
    for (int seq = 1; seq < kNumSeqs; ++seq) {
      if (seq == 5) {
        step.push_back({seq, piece(begin, count)});
      } else {
        step.push_back({seq, piece(random.below(500), 1 + random.below(3))});
      }
    }
    (void)device->run(step);
    begin += count;
  }
  for (size_t i = kFirst; i < kLength; ++i) {
    std::vector<Chunk> step;
    const int last_seq = static_cast<int>(6 + random.below(kNumSeqs - 6));
    for (int seq = 5; seq <= last_seq; ++seq) {
      step.push_back({seq, seq == 5 ? piece(i, 1) : piece(random.below(1000), 1)});
    }
    if (last_seq != kNumSeqs - 1 && i % 2 == 0) {
      step.push_back({kNumSeqs - 1, piece(random.below(1000), 1)});
    }
    const TensorView logits = device->run(step);
    ASSERT_EQ(row_of(logits, 0), want[i - kFirst]) << "token " << i;
  }
}

// Shards of one random matrix are made apart from each other, on the device too.
TEST(DeviceRandom, PartsOfAMatrixAreItsRowsAndColumns) {
  std::string why;
  const Ops* ops = cuda_ops(&why);
  if (ops == nullptr) GTEST_SKIP() << why;
  ThreadPool pool(1);
  OpContext ctx{.pool = &pool, .scratch = {}};
  const OpLimits limits{.max_tokens = 64,
                        .max_logit_rows = 64,
                        .max_cols = 512,
                        .max_heads = 8,
                        .max_head_dim = 64,
                        .max_context = 64};
  const Status opened = ops->open(ctx, limits);
  ASSERT_TRUE(opened.ok()) << opened.message();
  const auto rows_of = [&](const RandomMatrix& matrix) {
    const auto weight = ops->pack_random(ctx, matrix, WeightRole::kVocabulary);
    EXPECT_TRUE(weight.ok()) << weight.status().message();
    std::vector<uint16_t> bits(static_cast<size_t>(matrix.rows * matrix.cols));
    ops->memory->copy_out(bits.data(), weight->payload, bits.size() * sizeof(uint16_t));
    return bits;
  };
  const auto whole = rows_of({.rows = 64, .cols = 512, .seed = 11, .whole_cols = 512});
  const auto part =
      rows_of({.rows = 48, .cols = 128, .seed = 11 + 16, .first_col = 256, .whole_cols = 512});
  for (size_t row = 0; row < 48; ++row) {
    for (size_t col = 0; col < 128; ++col) {
      ASSERT_EQ(part[row * 128 + col], whole[(row + 16) * 512 + col + 256]) << row << " " << col;
    }
  }
}

}  // namespace
}  // namespace slipstream
