// What each family reads from GGUF: the golden models, written as GGUF the way its converters do,
// give the logits of their Hugging Face folders; impossible keys are refused by name.
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "loader/checkpoint.h"
#include "loader/model_files_for_test.h"
#include "model/chunk_runner.h"
#include "model/families/families.h"
#include "model/test_ops.h"

namespace slipstream {
namespace {

const std::string kGoldenRoot = SLIPSTREAM_SOURCE_DIR "/tests/golden/models/";

std::string of_layer(std::string pattern, int layer_idx) {
  const size_t mark = pattern.find("%d");
  return mark == std::string::npos ? pattern : pattern.replace(mark, 2, std::to_string(layer_idx));
}

// Writes what `source` holds under Hugging Face's names as float32 under GGUF's.
class Converter {
 public:
  Converter(const Checkpoint& source, const ModelDescription& model)
      : source_(source),
        config_(model.config),
        hf_(model.names),
        gguf_(model.family->gguf_names()) {}

  GgufBuilder convert() {
    write_keys();
    write_rope_keys();
    const int64_t hidden = config_.hidden_size;
    const int64_t inner = config_.intermediate_size;
    const int64_t q_width = int64_t{config_.num_attention_heads} * config_.head_dim;
    const int64_t kv_width = int64_t{config_.num_key_value_heads} * config_.head_dim;
    tensor(hf_.embed, gguf_.embed, config_.vocab_size, hidden);
    tensor(hf_.lm_head, gguf_.lm_head, config_.vocab_size, hidden);
    tensor(hf_.final_norm, gguf_.final_norm, 1, hidden);
    for (layer_idx_ = 0; layer_idx_ < config_.num_hidden_layers; ++layer_idx_) {
      tensor(hf_.attn_norm, gguf_.attn_norm, 1, hidden);
      tensor(hf_.q, gguf_.q, q_width, hidden);
      tensor(hf_.k, gguf_.k, kv_width, hidden);
      tensor(hf_.v, gguf_.v, kv_width, hidden);
      tensor(hf_.o, gguf_.o, hidden, q_width);
      tensor(hf_.q_bias, gguf_.q_bias, 1, q_width);
      tensor(hf_.k_bias, gguf_.k_bias, 1, kv_width);
      tensor(hf_.v_bias, gguf_.v_bias, 1, kv_width);
      tensor(hf_.o_bias, gguf_.o_bias, 1, hidden);
      tensor(hf_.q_norm, gguf_.q_norm, 1, config_.head_dim);
      tensor(hf_.k_norm, gguf_.k_norm, 1, config_.head_dim);
      tensor(hf_.mlp_norm, gguf_.mlp_norm, 1, hidden);
      tensor(hf_.gate, gguf_.gate, inner, hidden);
      tensor(hf_.up, gguf_.up, inner, hidden);
      tensor(hf_.down, gguf_.down, hidden, inner);
      tensor(hf_.gate_bias, gguf_.gate_bias, 1, inner);
      tensor(hf_.up_bias, gguf_.up_bias, 1, inner);
      tensor(hf_.down_bias, gguf_.down_bias, 1, hidden);
    }
    return builder_;
  }

 private:
  void u32(const std::string& name, int64_t value) {
    builder_.u32(config_.family + "." + name, static_cast<uint32_t>(value));
  }
  void f32(const std::string& name, double value) {
    builder_.key(config_.family + "." + name, kGgufF32, raw(static_cast<float>(value)));
  }

  void write_keys() {
    builder_.text_key("general.architecture", config_.family);
    u32("embedding_length", config_.hidden_size);
    u32("feed_forward_length", config_.intermediate_size);
    u32("block_count", config_.num_hidden_layers);
    u32("context_length", config_.max_position_embeddings);
    u32("attention.head_count", config_.num_attention_heads);
    u32("attention.head_count_kv", config_.num_key_value_heads);
    u32("attention.key_length", config_.head_dim);
    u32("attention.value_length", config_.head_dim);
    u32("rope.dimension_count", config_.head_dim);
    f32("attention.layer_norm_rms_epsilon", config_.rms_norm_eps);
    f32("rope.freq_base", config_.rope.theta);
  }

  void write_rope_keys() {
    const RopeConfig& rope = config_.rope;
    if (rope.scaling == RopeScaling::kNone) return;
    if (rope.scaling == RopeScaling::kLlama3) {  // as a table of divisors
      RopeConfig plain = rope;
      plain.scaling = RopeScaling::kNone;
      const std::vector<float> base = rope_frequencies(plain).inv_freq;
      const std::vector<float> scaled = rope_frequencies(rope).inv_freq;
      std::string factors;
      for (size_t i = 0; i < base.size(); ++i) factors += raw(base[i] / scaled[i]);
      builder_.tensor("rope_freqs.weight", {base.size()}, 0, factors);
      return;
    }
    const bool yarn = rope.scaling == RopeScaling::kYarn;
    builder_.text_key(config_.family + ".rope.scaling.type", yarn ? "yarn" : "linear");
    f32("rope.scaling.factor", rope.factor);
    u32("rope.scaling.original_context_length", rope.original_max_position_embeddings);
  }

  // A vector has one row. Tensors that the model lacks are left out.
  void tensor(const std::string& hf_pattern, const std::string& gguf_pattern, int64_t rows,
              int64_t cols) {
    const std::string name = of_layer(hf_pattern, layer_idx_);
    const TensorInfo* info = source_.find(name);
    if (info == nullptr) return;
    std::vector<float> values(static_cast<size_t>(rows * cols));
    if (info->shape.size() == 1) {
      values = source_.vector(name, cols).value();
    } else {
      const SourceMatrix matrix = source_.matrix(name, rows, cols).value();
      for (int64_t row = 0; row < rows; ++row) dequantize_row(matrix, row, &values[row * cols]);
    }
    // Rows of q and k, and elements of their biases, are interleaved for llama.
    const bool rotated = gguf_pattern == gguf_.q || gguf_pattern == gguf_.k ||
                         gguf_pattern == gguf_.q_bias || gguf_pattern == gguf_.k_bias;
    if (rotated && config_.family == "llama") {
      values = interleave(values, info->shape.size() == 1 ? 1 : cols);
    }
    std::string bytes;
    for (const float value : values) bytes += raw(value);
    std::vector<uint64_t> dims = {static_cast<uint64_t>(cols)};
    if (info->shape.size() == 2) dims.push_back(static_cast<uint64_t>(rows));
    builder_.tensor(of_layer(gguf_pattern, layer_idx_), dims, 0, bytes);
  }

  std::vector<float> interleave(const std::vector<float>& values, int64_t cols) const {
    std::vector<float> result;
    const int64_t half = config_.head_dim / 2;
    const int64_t head_size = config_.head_dim * cols;
    for (int64_t head = 0; head < std::ssize(values) / head_size; ++head) {
      for (int64_t row = 0; row < config_.head_dim; ++row) {
        const int64_t from = head * head_size + (row / 2 + (row % 2) * half) * cols;
        result.insert(result.end(), values.begin() + from, values.begin() + from + cols);
      }
    }
    return result;
  }

  const Checkpoint& source_;
  const ModelConfig& config_;
  const WeightNames& hf_;
  WeightNames gguf_;
  int layer_idx_ = 0;
  GgufBuilder builder_;
};

std::unique_ptr<ChunkRunner> open(const std::string& path) {
  auto runner = ChunkRunner::open(path, *available_ops().front(), {.max_tokens = 64});
  EXPECT_TRUE(runner.ok()) << runner.status().message();
  return runner.ok() ? std::move(runner).value() : nullptr;
}

class GgufGolden : public testing::TestWithParam<const char*> {};

TEST_P(GgufGolden, GivesTheLogitsOfTheFolder) {
  const std::string source = kGoldenRoot + GetParam();
  const auto checkpoint = Checkpoint::open(source);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  const auto model = describe_model(*checkpoint.value());
  ASSERT_TRUE(model.ok()) << model.status().message();
  const TempFolder folder;
  const std::string path =
      folder.write("m.gguf", Converter(*checkpoint.value(), model.value()).convert().text());

  const auto expected = open(source);
  const auto actual = open(path);
  ASSERT_NE(expected, nullptr);
  ASSERT_NE(actual, nullptr);
  EXPECT_EQ(actual->model().config.rope.interleaved, model->config.family == "llama");
  EXPECT_EQ(actual->weights().num_parameters, expected->weights().num_parameters);
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < 60; ++i) ids.push_back((i * 37 + 5) % 80);
  const TensorView expected_logits = expected->run(0, ids);
  const TensorView actual_logits = actual->run(0, ids);
  for (int64_t row = 0; row < expected_logits.dim(0); ++row) {
    for (int64_t i = 0; i < expected_logits.dim(1); ++i) {
      ASSERT_NEAR(actual_logits.f32_row(row)[i], expected_logits.f32_row(row)[i], 2e-4)
          << "row " << row << " logit " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, GgufGolden,
                         testing::Values("llama", "llama3", "llama_bias", "qwen2", "qwen3"));

// A header that is right but for one key.
class GgufKeys : public testing::Test {
 protected:
  Status describe(const std::string& changed_key, uint32_t value) {
    GgufBuilder builder;
    builder.text_key("general.architecture", architecture_);
    for (const auto& [name, usual] :
         std::vector<std::pair<std::string, uint32_t>>{{"embedding_length", 64},
                                                       {"feed_forward_length", 96},
                                                       {"block_count", 2},
                                                       {"context_length", 128},
                                                       {"attention.head_count", 4},
                                                       {"attention.head_count_kv", 2}}) {
      const uint32_t written = name == changed_key ? value : usual;
      if (written != kLeaveOut) builder.u32("llama." + name, written);
    }
    for (const char* name : {"attention.key_length", "attention.value_length",
                             "rope.dimension_count", "rope.freq_base", "expert_count",
                             "rope.scaling.type", "attention.layer_norm_rms_epsilon"}) {
      if (name == changed_key) builder.u32(std::string("llama.") + name, value);
    }
    builder.tensor("token_embd.weight", {64, 10}, 0, std::string(64 * 10 * 4, '\0'));
    const auto checkpoint = Checkpoint::open(folder_.write("m.gguf", builder.text()));
    if (!checkpoint.ok()) return checkpoint.status();
    return describe_model(*checkpoint.value()).status();
  }

  static constexpr uint32_t kLeaveOut = 0xFFFFFFFF;
  std::string architecture_ = "llama";
  TempFolder folder_;
};

TEST_F(GgufKeys, TheUnchangedHeaderIsAccepted) {
  const Status status = describe("none", 0);
  EXPECT_TRUE(status.ok()) << status.message();
}

TEST_F(GgufKeys, ImpossibleAndUnsupportedValuesNameTheirKey) {
  const std::vector<std::pair<std::string, uint32_t>> cases = {
      {"embedding_length", 0},
      {"embedding_length", 63},
      {"embedding_length", 0xFFFFFFF0},
      {"embedding_length", kLeaveOut},
      {"feed_forward_length", 0},
      {"block_count", 0},
      {"block_count", 1'000'000'000},
      {"block_count", kLeaveOut},
      {"context_length", 0},
      {"attention.head_count", 0},
      {"attention.head_count", 5},
      {"attention.head_count", kLeaveOut},
      {"attention.head_count_kv", 0},
      {"attention.head_count_kv", 3},
      {"attention.key_length", 0},
      {"attention.value_length", 32},
      {"rope.dimension_count", 15},
      {"rope.dimension_count", 64},
      {"rope.freq_base", 0},
      {"rope.scaling.type", 3},
      {"attention.layer_norm_rms_epsilon", 7},
      {"expert_count", 8},
  };
  for (const auto& [key, value] : cases) {
    SCOPED_TRACE(key + " = " + std::to_string(value));
    const Status status = describe(key, value);
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.code(), StatusCode::kInvalidModel);
    EXPECT_NE(status.message().find("llama." + key), std::string::npos) << status.message();
    EXPECT_NE(status.message().find("m.gguf"), std::string::npos) << status.message();
  }
}

TEST_F(GgufKeys, AnUnknownArchitectureNamesTheKnownOnes) {
  architecture_ = "mamba";
  const Status status = describe("none", 0);
  ASSERT_FALSE(status.ok());
  EXPECT_NE(status.message().find("mamba"), std::string::npos);
  EXPECT_NE(status.message().find("qwen3"), std::string::npos);
}

}  // namespace
}  // namespace slipstream
