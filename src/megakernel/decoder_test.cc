// The persistent kernel against the forward pass, on the same weights and pages. Skipped without a
// GPU.
#include "megakernel/decoder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "base/random.h"
#include "base/strings.h"
#include "loader/hf_config.h"
#include "model/chunk_runner.h"
#include "model/families/families.h"

namespace slipstream {
namespace {

constexpr int64_t kSecond = 1'000'000'000;

struct Shape {
  std::string name;
  std::string architecture;
  int hidden_size, intermediate_size, num_layers, num_heads, num_kv_heads, head_dim, vocab_size;
  DType weight_dtype = DType::kBF16;
};

std::string config_of(const Shape& shape) {
  const std::string type = shape.architecture == "Qwen2ForCausalLM"   ? "qwen2"
                           : shape.architecture == "Qwen3ForCausalLM" ? "qwen3"
                                                                      : "llama";
  return str(R"({"architectures":[")", shape.architecture, R"("],"model_type":")", type,
             R"(","hidden_size":)", shape.hidden_size, R"(,"head_dim":)", shape.head_dim,
             R"(,"intermediate_size":)", shape.intermediate_size, R"(,"num_hidden_layers":)",
             shape.num_layers, R"(,"num_attention_heads":)", shape.num_heads,
             R"(,"num_key_value_heads":)", shape.num_kv_heads, R"(,"vocab_size":)",
             shape.vocab_size,
             R"(,"rms_norm_eps":1e-5,"rope_theta":10000.0,"max_position_embeddings":8192,)",
             R"("tie_word_embeddings":false,"hidden_act":"silu"})");
}

class DevicePersistentDecoder : public testing::TestWithParam<Shape> {
 protected:
  void SetUp() override {
    std::string why;
    cuda_ = cuda_ops(&why);
    if (cuda_ == nullptr) GTEST_SKIP() << why;
  }
  std::unique_ptr<ChunkRunner> open() const {
    const auto config = HfConfig::from_text(config_of(GetParam()), "", "config");
    EXPECT_TRUE(config.ok());
    const auto model = describe_config(config.value());
    EXPECT_TRUE(model.ok()) << model.status().message();
    auto runner = ChunkRunner::random(model.value(), QuantType::kBF16, 3, *cuda_,
                                      {.num_seqs = 2,
                                       .max_tokens = 1024,
                                       .max_context = 4096,
                                       .kv_dtype = DType::kBF16,
                                       .weight_dtype = GetParam().weight_dtype});
    EXPECT_TRUE(runner.ok()) << runner.status().message();
    return runner.ok() ? std::move(runner).value() : nullptr;
  }
  std::unique_ptr<PersistentDecoder> decoder_of(ChunkRunner& runner) const {
    const auto program =
        PersistentDecoder::plan(runner.spec(), runner.weights(), runner.kv().spec(), runner.ops());
    EXPECT_TRUE(program.ok()) << program.status().message();
    if (!program.ok()) return nullptr;
    auto decoder = PersistentDecoder::open({.spec = runner.spec(),
                                            .weights = runner.weights(),
                                            .rope = runner.rope(),
                                            .kv = runner.kv(),
                                            .ops = runner.ops(),
                                            .ctx = runner.ctx()},
                                           program.value(), 4096);
    EXPECT_TRUE(decoder.ok()) << decoder.status().message();
    return decoder.ok() ? std::move(decoder).value() : nullptr;
  }
  std::vector<int32_t> prompt(int count, uint64_t seed) const {
    SplitMix64 random(seed);
    std::vector<int32_t> ids(static_cast<size_t>(count));
    for (int32_t& id : ids) {
      id = static_cast<int32_t>(random.below(static_cast<uint64_t>(GetParam().vocab_size)));
    }
    return ids;
  }
  // Tokens after `last`, the sequence's last, which is not in the pages.
  static std::vector<int32_t> decode(ChunkRunner& runner, PersistentDecoder& decoder, int seq_idx,
                                     int32_t last, int32_t count) {
    const std::vector<int32_t> blocks = runner.block_table(seq_idx);
    const Status started = decoder.start({.token_id = last,
                                          .position = runner.num_tokens(seq_idx),
                                          .block_table = blocks,
                                          .max_tokens = count});
    EXPECT_TRUE(started.ok()) << started.message();
    const std::span<const int32_t> tokens = decoder.wait(count, 5 * kSecond);
    if (!decoder.ended()) {
      ADD_FAILURE() << "no end after " << tokens.size() << " tokens";
      decoder.abort();
      (void)decoder.wait(count, 5 * kSecond);
      return {};
    }
    runner.add_computed(seq_idx, std::ssize(tokens));
    return {tokens.begin(), tokens.end()};
  }
  const Ops* cuda_ = nullptr;
};

INSTANTIATE_TEST_SUITE_P(
    Shapes, DevicePersistentDecoder,
    testing::Values(
        Shape{"even", "LlamaForCausalLM", 2048, 8192, 2, 32, 8, 64, 8192},
        Shape{"smollm2", "LlamaForCausalLM", 576, 1536, 3, 9, 3, 64, 4099},
        Shape{"qwen2", "Qwen2ForCausalLM", 1536, 8960, 2, 12, 2, 128, 8192},
        Shape{"qwen3", "Qwen3ForCausalLM", 1024, 3072, 3, 16, 8, 128, 8192},
        Shape{"eight_billion", "LlamaForCausalLM", 4096, 14336, 2, 32, 8, 128, 8192},
        Shape{"heads_of_96", "LlamaForCausalLM", 3072, 12288, 2, 32, 16, 96, 8192},
        Shape{"eight_billion_fp8", "LlamaForCausalLM", 4096, 14336, 2, 32, 8, 128, 8192,
              DType::kF8E4M3},
        Shape{"heads_of_96_fp8", "LlamaForCausalLM", 3072, 12288, 2, 32, 16, 96, 8192,
              DType::kF8E4M3},
        Shape{"even_int4", "LlamaForCausalLM", 2048, 8192, 2, 32, 8, 64, 8192, DType::kI4},
        Shape{"qwen2_int4", "Qwen2ForCausalLM", 1536, 8960, 2, 12, 2, 128, 8192, DType::kI4},
        Shape{"eight_billion_int4", "LlamaForCausalLM", 4096, 14336, 2, 32, 8, 128, 8192,
              DType::kI4},
        Shape{"heads_of_96_int4", "LlamaForCausalLM", 3072, 12288, 2, 32, 16, 96, 8192,
              DType::kI4}),
    [](const auto& each) { return each.param.name; });

// The best logit less the chosen token's, for each token, by the forward pass over the same tokens.
std::vector<float> gaps(ChunkRunner& runner, int seq_idx, int32_t last,
                        const std::vector<int32_t>& tokens) {
  std::vector<float> gaps;
  for (const int32_t token : tokens) {
    const TensorView logits = runner.run(seq_idx, {last});
    const float* const row = logits.f32_row(0);
    gaps.push_back(row[argmax_row(logits, 0)] - row[token]);
    last = token;
  }
  return gaps;
}

TEST_P(DevicePersistentDecoder, ChoosesTheTokensOfTheForwardPass) {
  const auto runner = open();
  ASSERT_NE(runner, nullptr);
  const auto decoder = decoder_of(*runner);
  ASSERT_NE(decoder, nullptr);
  for (const int length : {1, 15, 16, 17, 130, 700}) {
    const std::vector<int32_t> ids = prompt(length + 1, static_cast<uint64_t>(length));
    const int32_t last = ids.back();
    runner->truncate(0, 0);
    runner->truncate(1, 0);
    for (int seq_idx = 0; seq_idx < 2; ++seq_idx) {
      (void)runner->run(seq_idx, {ids.begin(), ids.end() - 1});
    }
    const std::vector<int32_t> tokens = decode(*runner, *decoder, 0, last, 40);
    ASSERT_EQ(tokens.size(), 40u) << length;
    const std::vector<float> of = gaps(*runner, 1, last, tokens);
    const float worst = *std::max_element(of.begin(), of.end());
    EXPECT_LT(worst, GetParam().weight_dtype != DType::kF8E4M3 ? 0.05f : 0.4f) << length;
    // The forward pass goes on where the kernel has written the pages.
    const TensorView after = runner->run(0, {tokens.back()});
    std::vector<float> kernel_pages(after.f32_row(0), after.f32_row(0) + after.dim(1));
    const TensorView own = runner->run(1, {tokens.back()});
    double difference = 0.0;
    double size = 0.0;
    for (int64_t i = 0; i < own.dim(1); ++i) {
      const double a = own.f32_row(0)[i];
      const double b = kernel_pages[static_cast<size_t>(i)] - a;
      difference += b * b;
      size += a * a;
    }
    EXPECT_LT(std::sqrt(difference / size), GetParam().weight_dtype != DType::kF8E4M3 ? 0.03 : 0.15)
        << length;
    std::printf("length %d: worst gap %.4f, logits off by %.4f\n", length, worst,
                std::sqrt(difference / size));
  }
}

TEST_P(DevicePersistentDecoder, RepeatsItselfBitByBitAndEndsWhereItShould) {
  const auto runner = open();
  ASSERT_NE(runner, nullptr);
  const auto decoder = decoder_of(*runner);
  ASSERT_NE(decoder, nullptr);
  const std::vector<int32_t> ids = prompt(50, 7);
  const int32_t last = ids.back();
  (void)runner->run(0, {ids.begin(), ids.end() - 1});
  const std::vector<int32_t> tokens = decode(*runner, *decoder, 0, last, 300);
  ASSERT_EQ(tokens.size(), 300u);
  for (int repeat = 0; repeat < 5; ++repeat) {
    runner->truncate(0, 49);
    EXPECT_EQ(decode(*runner, *decoder, 0, last, 300), tokens);
  }
  // An end id, and a stop.
  runner->truncate(0, 49);
  const std::vector<int32_t> blocks = runner->block_table(0);
  const std::vector<int32_t> end_ids = {tokens[100]};
  const auto first = std::find(tokens.begin(), tokens.end(), tokens[100]) - tokens.begin();
  ASSERT_TRUE(decoder
                  ->start({.token_id = last,
                           .position = 49,
                           .block_table = blocks,
                           .max_tokens = 300,
                           .end_ids = end_ids})
                  .ok());
  EXPECT_EQ(std::ssize(decoder->wait(300, kSecond)), first + 1);
  EXPECT_TRUE(decoder->ended());
  ASSERT_TRUE(
      decoder->start({.token_id = last, .position = 49, .block_table = blocks, .max_tokens = 3000})
          .ok());
  const auto seen = std::ssize(decoder->wait(5, kSecond));
  decoder->stop();
  const std::span<const int32_t> all = decoder->wait(3000, kSecond);
  EXPECT_TRUE(decoder->ended());
  EXPECT_GE(std::ssize(all), seen);
  EXPECT_LT(std::ssize(all), 300);
  EXPECT_TRUE(std::equal(all.begin(), all.begin() + std::min<int64_t>(300, std::ssize(all)),
                         tokens.begin()));
}

TEST_P(DevicePersistentDecoder, AHangingLaunchIsAborted) {
  const auto runner = open();
  ASSERT_NE(runner, nullptr);
  const auto decoder = decoder_of(*runner);
  ASSERT_NE(decoder, nullptr);
  const std::vector<int32_t> blocks = runner->block_table(0);
  decoder->withhold_token(7);
  ASSERT_TRUE(decoder->start({.token_id = 1, .block_table = blocks, .max_tokens = 100}).ok());
  EXPECT_EQ(std::ssize(decoder->wait(100, kSecond / 5)), 7);
  EXPECT_FALSE(decoder->ended());
  decoder->abort();
  (void)decoder->wait(100, 5 * kSecond);
  EXPECT_TRUE(decoder->ended());
}

}  // namespace
}  // namespace slipstream
