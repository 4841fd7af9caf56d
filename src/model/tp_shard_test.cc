// Shards of a model: together they are the model, and what they compute together is what it does.
#include "model/tp_shard.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/random.h"
#include "base/strings.h"
#include "comm/host_group.h"
#include "loader/hf_config.h"
#include "loader/model_files_for_test.h"
#include "model/chunk_runner.h"
#include "model/test_ops.h"

namespace slipstream {
namespace {

// Every index of [0, total) lies in `copies` of the ranges, which are given by rank.
void expect_cover(const std::vector<IndexRange>& ranges, int64_t total, int copies) {
  std::vector<int> times(static_cast<size_t>(total), 0);
  int64_t last_begin = 0;
  for (const IndexRange& range : ranges) {
    EXPECT_GT(range.count, 0);
    EXPECT_GE(range.begin, last_begin);
    ASSERT_LE(range.end(), total);
    last_begin = range.begin;
    for (int64_t i = range.begin; i < range.end(); ++i) ++times[static_cast<size_t>(i)];
  }
  for (const int count : times) ASSERT_EQ(count, copies);
}

DecoderSpec spec_of(int num_heads, int num_kv_heads, int64_t intermediate_size,
                    int64_t vocab_size) {
  DecoderSpec spec;
  spec.hidden_size = 64;
  spec.vocab_size = vocab_size;
  spec.layers.resize(3);
  for (LayerSpec& layer : spec.layers) {
    layer.attention.num_heads = num_heads;
    layer.attention.num_kv_heads = num_kv_heads;
    layer.attention.head_dim = 16;
    layer.mlp.intermediate_size = intermediate_size;
  }
  return spec;
}

TEST(TpRanges, CoverEveryHeadAndRowOnceOrRefuse) {
  int num_accepted = 0;
  for (int world_size = 1; world_size <= 8; ++world_size) {
    for (const auto& [heads, kv_heads] :
         {std::pair{840, 840}, {840, 1}, {840, 2}, {840, 4}, {840, 8}, {16, 4}, {14, 2}, {7, 1}}) {
      for (const int64_t intermediate : {840, 96, 77}) {
        const DecoderSpec spec = spec_of(heads, kv_heads, intermediate, 1000);
        const LayerSpec& layer = spec.layers.front();
        const bool divides = heads % world_size == 0 && intermediate % world_size == 0 &&
                             std::max(kv_heads, world_size) % std::min(kv_heads, world_size) == 0;
        std::vector<IndexRange> q_heads, kv, mlp;
        for (int rank = 0; rank < world_size; ++rank) {
          const TpShard shard{rank, world_size};
          const auto local = shard_spec(spec, shard);
          ASSERT_EQ(local.ok(), divides) << heads << " " << kv_heads << " " << world_size;
          if (!divides) continue;
          const AttentionSpec& attention = local->layers.back().attention;
          q_heads.push_back(head_range(layer.attention, shard));
          kv.push_back(kv_head_range(layer.attention, shard));
          mlp.push_back(mlp_range(layer.mlp, shard));
          EXPECT_EQ(attention.num_heads, q_heads.back().count);
          EXPECT_EQ(attention.num_kv_heads, kv.back().count);
          EXPECT_EQ(local->layers.back().mlp.intermediate_size, mlp.back().count);
          EXPECT_EQ(local->vocab_size, spec.vocab_size);
          // The first and last of a device's heads read KV heads that it has.
          const int64_t group = heads / kv_heads;
          EXPECT_EQ(q_heads.back().begin / group, kv.back().begin);
          EXPECT_EQ((q_heads.back().end() - 1) / group, kv.back().end() - 1);
        }
        if (!divides) continue;
        ++num_accepted;
        expect_cover(q_heads, heads, 1);
        expect_cover(mlp, intermediate, 1);
        expect_cover(kv, kv_heads, std::max(1, world_size / kv_heads));
      }
    }
  }
  EXPECT_GT(num_accepted, 50);
}

TEST(TpRanges, CoverVocabulariesOfEverySize) {
  for (int world_size = 1; world_size <= 8; ++world_size) {
    for (const int64_t vocab_size : {8, 9, 63, 96, 100, 511, 512, 513, 32001, 151936, 128256}) {
      const std::vector<IndexRange> ranges = vocab_ranges(vocab_size, world_size);
      ASSERT_EQ(std::ssize(ranges), world_size);
      expect_cover(ranges, vocab_size, 1);
      for (const IndexRange& range : ranges) {
        EXPECT_LT(std::abs(range.count - vocab_size / world_size), 64 + 1);
        EXPECT_EQ(range.begin % (vocab_size >= 512 ? 64 : 1), 0);
      }
    }
  }
}

TEST(TpRanges, WhatDoesNotDivideIsNamedInOneLine) {
  const auto message = [](const DecoderSpec& spec, int world_size) {
    const auto local = shard_spec(spec, {0, world_size});
    EXPECT_FALSE(local.ok());
    EXPECT_EQ(local.status().code(), StatusCode::kBadUsage);
    EXPECT_EQ(local.status().message().find('\n'), std::string::npos);
    return local.status().message();
  };
  EXPECT_NE(message(spec_of(14, 2, 64, 100), 4).find("14 heads"), std::string::npos);
  EXPECT_NE(message(spec_of(24, 3, 64, 100), 4).find("3 KV heads"), std::string::npos);
  EXPECT_NE(message(spec_of(24, 6, 64, 100), 4).find("6 KV heads"), std::string::npos);
  EXPECT_NE(message(spec_of(8, 8, 66, 100), 4).find("intermediate_size of 66"), std::string::npos);
  EXPECT_NE(message(spec_of(8, 8, 64, 3), 4).find("vocabulary of 3"), std::string::npos);
  DecoderSpec uneven = spec_of(8, 8, 64, 100);
  uneven.layers[1].attention.num_heads = 6;
  EXPECT_NE(message(uneven, 4).find("layer 1"), std::string::npos);
}

ModelDescription model_of(const std::string& type, const std::string& rest) {
  const auto config = HfConfig::from_text(
      str(R"({"model_type":")", type, R"(","hidden_size":128,"num_hidden_layers":2,)",
          R"("intermediate_size":256,"rms_norm_eps":1e-5,"max_position_embeddings":256,)", rest,
          "}"),
      "", "config.json");
  EXPECT_TRUE(config.ok()) << config.status().message();
  auto model = describe_config(config.value());
  EXPECT_TRUE(model.ok()) << model.status().message();
  return std::move(model).value();
}

struct Case {
  const char* name;
  const char* type;
  const char* rest;
};
const Case kCases[] = {
    {"llama", "llama", R"("num_attention_heads":16,"num_key_value_heads":4,"head_dim":32,
      "vocab_size":301,"tie_word_embeddings":false)"},
    {"llama_with_biases", "llama", R"("num_attention_heads":16,"num_key_value_heads":8,
      "head_dim":32,"vocab_size":301,"attention_bias":true,"mlp_bias":true)"},
    {"qwen2", "qwen2", R"("num_attention_heads":8,"num_key_value_heads":2,"vocab_size":600,
      "tie_word_embeddings":true)"},
    {"qwen3", "qwen3", R"("num_attention_heads":8,"num_key_value_heads":4,"head_dim":32,
      "vocab_size":640,"tie_word_embeddings":true)"},
};

using OpenRunner =
    std::function<Result<std::unique_ptr<ChunkRunner>>(std::unique_ptr<Communicator>)>;
using Logits = std::vector<float>;  // of all rows of all steps

// Prompts, decodes and a mix of both.
Logits run_steps(ChunkRunner& runner) {
  SplitMix64 random(5);
  const auto vocab_size = static_cast<uint64_t>(runner.model().spec.vocab_size);
  const auto ids = [&](int count) {
    std::vector<int32_t> tokens(static_cast<size_t>(count));
    for (int32_t& token : tokens) token = static_cast<int32_t>(random.below(vocab_size));
    return tokens;
  };
  const std::vector<std::vector<Chunk>> steps = {{{0, ids(20)}, {1, ids(7)}},
                                                 {{0, ids(1)}, {1, ids(1)}},
                                                 {{1, ids(9)}, {0, ids(1)}},
                                                 {{0, ids(1)}},
                                                 {{0, ids(1)}, {1, ids(1)}}};
  Logits all;
  for (const std::vector<Chunk>& step : steps) {
    const TensorView logits = runner.run(step);
    all.insert(all.end(), logits.f32_row(0), logits.f32_row(0) + logits.num_elements());
  }
  return all;
}

Logits run_alone(const OpenRunner& open) {
  const auto runner = open(std::make_unique<SoloCommunicator>());
  EXPECT_TRUE(runner.ok()) << runner.status().message();
  return runner.ok() ? run_steps(*runner.value()) : Logits();
}

// The logits of every rank, each computed in a thread of its own.
std::vector<Logits> run_sharded(const OpenRunner& open, int world_size) {
  std::vector<std::unique_ptr<ChunkRunner>> runners;
  for (auto& comm : make_host_group(world_size)) {
    auto runner = open(std::move(comm));
    EXPECT_TRUE(runner.ok()) << runner.status().message();
    if (!runner.ok()) return {};
    runners.push_back(std::move(runner).value());
  }
  std::vector<Logits> logits(static_cast<size_t>(world_size));
  std::vector<std::jthread> threads;
  for (size_t rank = 0; rank < runners.size(); ++rank) {
    threads.emplace_back([&, rank] { logits[rank] = run_steps(*runners[rank]); });
  }
  threads.clear();  // joins
  return logits;
}

double relative_error(const Logits& want, const Logits& got) {
  if (want.empty() || want.size() != got.size()) return NAN;
  double difference = 0.0;
  double size = 0.0;
  for (size_t i = 0; i < want.size(); ++i) {
    difference += std::pow(double{want[i]} - got[i], 2);
    size += std::pow(double{want[i]}, 2);
  }
  return std::sqrt(difference / size);
}

// Shards of `world_size` give the model's logits within the tolerance: the same bits on every rank
// and in every run.
void expect_the_same(const OpenRunner& open, int world_size, double tolerance) {
  const Logits want = run_alone(open);
  const std::vector<Logits> got = run_sharded(open, world_size);
  ASSERT_EQ(std::ssize(got), world_size);
  EXPECT_LE(relative_error(want, got.front()), tolerance);
  for (const Logits& rank : got) EXPECT_EQ(rank, got.front());
  EXPECT_EQ(run_sharded(open, world_size), got);
}

// Products of quantised weights take activations in 16 bits, so sums in another order show there.
double tolerance_of(QuantType type) { return type == QuantType::kF32 ? 2e-6 : 2e-4; }

constexpr ChunkRunnerOptions kOptions{.num_seqs = 2, .max_tokens = 32, .max_context = 64};

TEST(TpForward, ShardsOfARandomModelGiveItsLogits) {
  for (const Ops* ops : {available_ops().front(), available_ops().back()}) {
    for (const Case& each : kCases) {
      const ModelDescription model = model_of(each.type, each.rest);
      for (const QuantType type : {QuantType::kF32, QuantType::kQ8_0}) {
        for (const int world_size : {2, 4, 8}) {
          // An eighth of qwen2's columns is half a block.
          if (world_size == 8 && type == QuantType::kQ8_0) continue;
          SCOPED_TRACE(
              str(ops->name, " ", each.name, " ", quant_format(type).name, " world ", world_size));
          const OpenRunner open = [&](std::unique_ptr<Communicator> comm) {
            return ChunkRunner::random(model, type, 3, *ops, kOptions, std::move(comm));
          };
          expect_the_same(open, world_size, tolerance_of(type));
        }
      }
    }
  }
}

TEST(TpForward, ShardsOfACheckpointGiveItsLogits) {
  for (const char* name : {"llama", "llama3", "llama_bias", "mistral", "qwen2", "qwen3"}) {
    for (const int world_size : {2, 4}) {
      SCOPED_TRACE(str(name, " world ", world_size));
      const OpenRunner open = [&](std::unique_ptr<Communicator> comm) {
        return ChunkRunner::open(str(SLIPSTREAM_SOURCE_DIR "/tests/golden/models/", name),
                                 *available_ops().back(), kOptions, std::move(comm));
      };
      expect_the_same(open, world_size, tolerance_of(QuantType::kF32));
    }
  }
}

// A llama of one layer with 4 heads of 64 and random matrices of `type`.
std::string gguf_model(QuantType type) {
  constexpr int64_t kHidden = 256;
  GgufBuilder builder;
  builder.text_key("general.architecture", "llama");
  const auto key = [&](const char* name, uint32_t value) {
    builder.u32(str("llama.", name), value);
  };
  key("embedding_length", kHidden);
  key("feed_forward_length", 512);
  key("block_count", 1);
  key("context_length", 64);
  key("attention.head_count", 4);
  key("attention.head_count_kv", 2);
  builder.key("llama.attention.layer_norm_rms_epsilon", kGgufF32, raw(1e-5f));
  SplitMix64 random(1);
  const QuantFormat& format = quant_format(type);
  const auto matrix = [&](const std::string& name, int64_t rows, int64_t cols) {
    std::string bytes;
    std::vector<float> values(static_cast<size_t>(format.block_elements));
    std::string block(static_cast<size_t>(format.block_bytes), '\0');
    for (int64_t i = 0; i < rows * cols / format.block_elements; ++i) {
      for (float& value : values) value = random.symmetric() * 0.1f;
      // Zeros where a format cannot be written: enough to be refused.
      if (format.quantize_block != nullptr) {
        format.quantize_block(values.data(), reinterpret_cast<std::byte*>(block.data()));
      }
      bytes += block;
    }
    builder.tensor(name, {static_cast<uint64_t>(cols), static_cast<uint64_t>(rows)},
                   static_cast<uint32_t>(format.ggml_type), bytes);
  };
  const auto norm = [&](const std::string& name) {
    std::string bytes;
    for (int64_t i = 0; i < kHidden; ++i) bytes += raw(1.0f + random.symmetric());
    builder.tensor(name, {static_cast<uint64_t>(kHidden)}, 0, bytes);
  };
  matrix("token_embd.weight", 200, kHidden);
  norm("output_norm.weight");
  matrix("output.weight", 200, kHidden);
  norm("blk.0.attn_norm.weight");
  norm("blk.0.ffn_norm.weight");
  matrix("blk.0.attn_q.weight", 256, kHidden);
  matrix("blk.0.attn_k.weight", 128, kHidden);
  matrix("blk.0.attn_v.weight", 128, kHidden);
  matrix("blk.0.attn_output.weight", kHidden, 256);
  matrix("blk.0.ffn_gate.weight", 512, kHidden);
  matrix("blk.0.ffn_up.weight", 512, kHidden);
  matrix("blk.0.ffn_down.weight", kHidden, 512);
  return builder.text();
}

TEST(TpForward, ShardsOfBlockFormatsAreWholeBlocks) {
  const TempFolder folder;
  for (const QuantType type : {QuantType::kQ8_0, QuantType::kQ4_0}) {
    const std::string path = folder.write("m.gguf", gguf_model(type));
    for (const int world_size : {2, 4}) {
      const OpenRunner open = [&](std::unique_ptr<Communicator> comm) {
        return ChunkRunner::open(path, *available_ops().back(), kOptions, std::move(comm));
      };
      expect_the_same(open, world_size, tolerance_of(type));
    }
  }
}

TEST(TpForward, BlocksThatWouldBeCutAreRefusedInOneLine) {
  const TempFolder folder;
  const std::string path = folder.write("m.gguf", gguf_model(QuantType::kQ4_K));
  auto members = make_host_group(4);
  const auto runner =
      ChunkRunner::open(path, *available_ops().back(), kOptions, std::move(members.back()));
  ASSERT_FALSE(runner.ok());
  EXPECT_EQ(runner.status().code(), StatusCode::kInvalidModel);
  for (const char* word : {"blk.0.attn_output", "blk.0.ffn_down", "Q4_K", "256", "128"}) {
    EXPECT_NE(runner.status().message().find(word), std::string::npos) << runner.status().message();
  }
  const ModelDescription model = model_of(kCases[0].type, R"("num_attention_heads":8,
      "num_key_value_heads":8,"head_dim":16,"vocab_size":100)");
  members = make_host_group(8);
  const auto random = ChunkRunner::random(model, QuantType::kQ8_0, 1, *available_ops().back(),
                                          kOptions, std::move(members.back()));
  ASSERT_FALSE(random.ok());
  EXPECT_NE(random.status().message().find("Q8_0"), std::string::npos);
}

TEST(TpFigures, ParametersAreTheModelsAndBytesTheDevices) {
  for (const Case& each : kCases) {
    const ModelDescription model = model_of(each.type, each.rest);
    const Ops& ops = *available_ops().front();
    const auto whole = ChunkRunner::random(model, QuantType::kF32, 3, ops, kOptions);
    ASSERT_TRUE(whole.ok());
    int64_t bytes = 0;
    for (auto& comm : make_host_group(2)) {
      const auto part =
          ChunkRunner::random(model, QuantType::kF32, 3, ops, kOptions, std::move(comm));
      ASSERT_TRUE(part.ok());
      EXPECT_EQ(part.value()->weights().num_parameters, whole.value()->weights().num_parameters);
      bytes += part.value()->weights().bytes_per_token;
    }
    // Norms and a row of the embedding are on both.
    EXPECT_GE(bytes, whole.value()->weights().bytes_per_token);
    EXPECT_LE(bytes, whole.value()->weights().bytes_per_token + 16 * 128 * 4);
  }
}

}  // namespace
}  // namespace slipstream
