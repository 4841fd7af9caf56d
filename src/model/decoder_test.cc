// The forward pass against golden values, and against itself: a row's result never depends on how
// the work was cut into steps.
#include "model/decoder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "base/random.h"
#include "loader/hf_config.h"
#include "model/check_golden.h"
#include "model/chunk_runner.h"
#include "model/test_ops.h"

namespace slipstream {
namespace {

const char* const kGoldenRoot = SLIPSTREAM_SOURCE_DIR "/tests/golden/models";

std::vector<std::string> golden_models() {
  auto folders = golden_folders(kGoldenRoot);
  EXPECT_TRUE(folders.ok()) << folders.status().message();
  return folders.ok() ? folders.value() : std::vector<std::string>();
}

std::unique_ptr<ChunkRunner> open(const std::string& path, const Ops& ops,
                                  const ChunkRunnerOptions& options) {
  auto runner = ChunkRunner::open(path, ops, options);
  EXPECT_TRUE(runner.ok()) << runner.status().message();
  return runner.ok() ? std::move(runner).value() : nullptr;
}

std::vector<int32_t> random_tokens(uint64_t seed, int64_t count, int64_t vocab_size) {
  SplitMix64 random(seed);
  std::vector<int32_t> ids;
  while (std::ssize(ids) < count) {
    ids.push_back(static_cast<int32_t>(random.below(static_cast<uint64_t>(vocab_size))));
  }
  return ids;
}

using Rows = std::vector<std::vector<float>>;

void append_rows(TensorView logits, int64_t begin, int64_t count, Rows& rows) {
  for (int64_t row = begin; row < begin + count; ++row) {
    rows.emplace_back(logits.f32_row(row), logits.f32_row(row) + logits.dim(1));
  }
}

// The first row whose bytes differ, or -1.
int64_t first_difference(const Rows& a, const Rows& b) {
  if (a.size() != b.size()) return 0;
  for (size_t row = 0; row < a.size(); ++row) {
    if (std::memcmp(a[row].data(), b[row].data(), a[row].size() * sizeof(float)) != 0) {
      return static_cast<int64_t>(row);
    }
  }
  return -1;
}

std::vector<int32_t> slice(const std::vector<int32_t>& ids, int64_t begin, int64_t count) {
  return {ids.begin() + begin, ids.begin() + begin + count};
}

// All logits of `ids`, computed in chunks of the given sizes, repeated until the end.
Rows run_in_chunks(ChunkRunner& runner, const std::vector<int32_t>& ids,
                   const std::vector<int64_t>& sizes) {
  runner.truncate(0, 0);
  Rows rows;
  int64_t done = 0;
  for (size_t i = 0; done < std::ssize(ids); ++i) {
    const int64_t count = std::min(sizes[i % sizes.size()], std::ssize(ids) - done);
    append_rows(runner.run(0, slice(ids, done, count)), 0, count, rows);
    done += count;
  }
  return rows;
}

TEST(Golden, EveryModelMatchesOnEveryInstructionSet) {
  for (const Ops* ops : available_ops()) {
    for (const std::string& folder : golden_models()) {
      SCOPED_TRACE(std::string(ops->name) + " " + folder);
      const auto report = check_golden(folder, *ops);
      ASSERT_TRUE(report.ok()) << report.status().message();
      EXPECT_LE(report->max_abs_error, report->tolerance);
      EXPECT_EQ(report->num_greedy_equal, report->num_greedy);
      EXPECT_GT(report->num_logits, 0);
      RecordProperty(std::string(ops->name) + "_" + report->name,
                     std::to_string(report->max_abs_error));
    }
  }
}

TEST(Golden, AFolderWithoutValuesIsNamed) {
  const auto report = check_golden(SLIPSTREAM_SOURCE_DIR "/src", *available_ops().front());
  ASSERT_FALSE(report.ok());
  EXPECT_NE(report.status().message().find("golden.json"), std::string::npos);
  EXPECT_FALSE(golden_folders(SLIPSTREAM_SOURCE_DIR "/src").ok());
}

// House rule: on the CPU a row's result never depends on M, chunking, prefill or decode.
TEST(Determinism, ChunksAndSingleTokensEqualOneShotBitForBit) {
  for (const Ops* ops : available_ops()) {
    for (const DType kv_dtype : {DType::kF32, DType::kF16}) {
      for (const std::string& folder : golden_models()) {
        SCOPED_TRACE(std::string(ops->name) + " " + dtype_name(kv_dtype) + " " + folder);
        const auto runner = open(folder, *ops, {.max_tokens = 80, .kv_dtype = kv_dtype});
        ASSERT_NE(runner, nullptr);
        const auto ids = random_tokens(7, 75, runner->model().config.vocab_size);
        const Rows at_once = run_in_chunks(*runner, ids, {75});
        EXPECT_EQ(first_difference(run_in_chunks(*runner, ids, {1}), at_once), -1);
        EXPECT_EQ(first_difference(run_in_chunks(*runner, ids, {5, 1, 33, 2}), at_once), -1);
      }
    }
  }
}

// The same across the partitions in which attention reduces K and V.
TEST(Determinism, PartitionsOfAttentionDoNotShowInChunks) {
  for (const Ops* ops : available_ops()) {
    SCOPED_TRACE(ops->name);
    const auto runner =
        open(std::string(kGoldenRoot) + "/llama3", *ops, {.max_tokens = 512, .max_context = 512});
    ASSERT_NE(runner, nullptr);
    const int64_t count = kAttentionPartition + 40;
    const auto ids = random_tokens(3, count, runner->model().config.vocab_size);
    const Rows at_once = run_in_chunks(*runner, ids, {count});
    EXPECT_EQ(first_difference(run_in_chunks(*runner, ids, {64}), at_once), -1);
    EXPECT_EQ(first_difference(run_in_chunks(*runner, ids, {kAttentionPartition - 1, 1}), at_once),
              -1);
  }
}

TEST(Determinism, NeighboursInABatchDoNotShow) {
  for (const Ops* ops : available_ops()) {
    for (const std::string& folder : golden_models()) {
      SCOPED_TRACE(std::string(ops->name) + " " + folder);
      constexpr int kNumSeqs = 5;
      const auto alone = open(folder, *ops, {.max_tokens = 64, .max_context = 64});
      const auto batched =
          open(folder, *ops, {.num_seqs = kNumSeqs, .max_tokens = 256, .max_context = 64});
      ASSERT_NE(alone, nullptr);
      ASSERT_NE(batched, nullptr);
      std::vector<std::vector<int32_t>> ids;
      std::vector<Rows> rows(kNumSeqs);
      for (int seq = 0; seq < kNumSeqs; ++seq) {
        ids.push_back(random_tokens(static_cast<uint64_t>(seq), 9 + 11 * seq,
                                    alone->model().config.vocab_size));
      }
      // Ragged steps: whole prompts, chunks and single tokens side by side.
      SplitMix64 random(1);
      for (bool more = true; more;) {
        std::vector<Chunk> chunks;
        for (int seq = 0; seq < kNumSeqs; ++seq) {
          const int64_t left = std::ssize(ids[seq]) - batched->num_tokens(seq);
          if (left == 0) continue;
          const int64_t most =
              random.below(3) == 0 ? 1 : 1 + static_cast<int64_t>(random.below(20));
          chunks.push_back({seq, slice(ids[seq], batched->num_tokens(seq), std::min(left, most))});
        }
        more = !chunks.empty();
        if (!more) break;
        const TensorView logits = batched->run(chunks);
        int64_t row = 0;
        for (const Chunk& chunk : chunks) {
          append_rows(logits, row, std::ssize(chunk.token_ids), rows[chunk.seq_idx]);
          row += std::ssize(chunk.token_ids);
        }
      }
      for (int seq = 0; seq < kNumSeqs; ++seq) {
        EXPECT_EQ(first_difference(run_in_chunks(*alone, ids[seq], {64}), rows[seq]), -1) << seq;
      }
    }
  }
}

TEST(Determinism, TheNumberOfThreadsDoesNotShow) {
  for (const Ops* ops : available_ops()) {
    for (const char* name : {"/llama3", "/qwen2"}) {
      SCOPED_TRACE(std::string(ops->name) + name);
      const auto one = open(kGoldenRoot + std::string(name), *ops, {.max_tokens = 40});
      const auto three =
          open(kGoldenRoot + std::string(name), *ops, {.num_threads = 3, .max_tokens = 40});
      ASSERT_NE(one, nullptr);
      ASSERT_NE(three, nullptr);
      const auto ids = random_tokens(11, 40, one->model().config.vocab_size);
      EXPECT_EQ(
          first_difference(run_in_chunks(*three, ids, {35, 1}), run_in_chunks(*one, ids, {35, 1})),
          -1);
    }
  }
}

// A step computes logits only where they are wanted; which rows those are does not show.
TEST(Determinism, TheChoiceOfLogitRowsDoesNotShow) {
  for (const Ops* ops : available_ops()) {
    SCOPED_TRACE(ops->name);
    const auto runner = open(kGoldenRoot + std::string("/qwen3"), *ops,
                             {.num_seqs = 3, .max_tokens = 64, .max_context = 64});
    ASSERT_NE(runner, nullptr);
    std::vector<Chunk> chunks;
    for (int seq = 0; seq < 3; ++seq) chunks.push_back({seq, random_tokens(9, 5 + 7 * seq, 96)});
    Rows all;
    append_rows(runner->run(chunks), 0, 5 + 12 + 19, all);
    for (int seq = 0; seq < 3; ++seq) runner->truncate(seq, 0);
    Rows last;
    append_rows(runner->run(chunks, LogitRows::kLastOfChunk), 0, 3, last);
    EXPECT_EQ(first_difference(last, {all[4], all[16], all[35]}), -1);
  }
}

ModelDescription small_model() {
  auto config = HfConfig::from_text(R"({"model_type": "qwen3", "hidden_size": 64,
      "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
      "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 100, "rms_norm_eps": 1e-6,
      "max_position_embeddings": 64, "tie_word_embeddings": true})",
                                    "", "config.json");
  EXPECT_TRUE(config.ok()) << config.status().message();
  auto model = describe_config(config.value());
  EXPECT_TRUE(model.ok()) << model.status().message();
  return std::move(model).value();
}

TEST(DummyWeights, EveryWritableFormatGivesFiniteLogitsOfOrdinarySize) {
  const ModelDescription model = small_model();
  for (const Ops* ops : available_ops()) {
    for (const QuantFormat& format : quant_formats()) {
      SCOPED_TRACE(std::string(ops->name) + " " + format.name);
      auto runner = ChunkRunner::random(model, format.type, 1, *ops, {.max_tokens = 32});
      if (format.quantize_block == nullptr) {
        ASSERT_FALSE(runner.ok());
        EXPECT_EQ(runner.status().code(), StatusCode::kBadUsage);
        continue;
      }
      ASSERT_TRUE(runner.ok()) << runner.status().message();
      EXPECT_EQ(runner.value()->weights().format, format.name);
      const TensorView logits = runner.value()->run(0, random_tokens(5, 32, 100));
      for (int64_t row = 0; row < 32; ++row) {
        for (int64_t i = 0; i < 100; ++i) {
          ASSERT_TRUE(std::isfinite(logits.f32_row(row)[i]));
          ASSERT_LT(std::abs(logits.f32_row(row)[i]), 100.0f);
        }
      }
    }
  }
}

TEST(DummyWeights, FollowFromTheSeedAlone) {
  const ModelDescription model = small_model();
  const Ops& ops = *available_ops().front();
  const auto ids = random_tokens(5, 20, 100);
  const auto rows_of_seed = [&](uint64_t seed, int num_threads) {
    auto runner = ChunkRunner::random(model, QuantType::kQ8_0, seed, ops,
                                      {.num_threads = num_threads, .max_tokens = 32});
    EXPECT_TRUE(runner.ok()) << runner.status().message();
    return run_in_chunks(*runner.value(), ids, {20});
  };
  EXPECT_EQ(first_difference(rows_of_seed(1, 1), rows_of_seed(1, 3)), -1);
  EXPECT_NE(first_difference(rows_of_seed(1, 1), rows_of_seed(2, 1)), -1);
}

TEST(Figures, CountParametersAndBytesOfOneToken) {
  const ModelDescription model = small_model();
  auto runner = ChunkRunner::random(model, QuantType::kF32, 1, *available_ops().front(), {});
  ASSERT_TRUE(runner.ok());
  const int64_t layer = 64 * (4 * 32) * 2 + 64 * (2 * 32) * 2 + 3 * 64 * 96 + 2 * 64 + 2 * 32;
  const int64_t parameters = 100 * 64 + 3 * layer + 64;
  EXPECT_EQ(runner.value()->weights().num_parameters, parameters);
  // Tied: the embedding is streamed once, as the LM head.
  EXPECT_EQ(runner.value()->weights().bytes_per_token, parameters * 4);
}

}  // namespace
}  // namespace slipstream
