// Two tiny trained models, as Hugging Face folder and as GGUF, when the shared folder is there.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/mmap_file.h"
#include "model/chunk_runner.h"
#include "model/test_ops.h"

namespace slipstream {
namespace {

const std::string kModels = SLIPSTREAM_SOURCE_DIR "/../shared/models/";

class RealModels : public testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(kModels)) GTEST_SKIP() << kModels << " is not there";
  }

  static std::unique_ptr<ChunkRunner> open(const std::string& path, const Ops& ops,
                                           DType kv_dtype = DType::kF32) {
    auto runner = ChunkRunner::open(kModels + path, ops,
                                    {.max_tokens = 64, .max_context = 256, .kv_dtype = kv_dtype});
    EXPECT_TRUE(runner.ok()) << runner.status().message();
    return runner.ok() ? std::move(runner).value() : nullptr;
  }

  static std::vector<int32_t> greedy(ChunkRunner& runner, int count) {
    std::vector<int32_t> ids;
    int32_t next = 1;  // bos
    while (std::ssize(ids) < count) {
      next = argmax_row(runner.run(0, {next}), 0);
      ids.push_back(next);
    }
    return ids;
  }

  // Plain SentencePiece pieces; these models' stories hold nothing else but newlines as bytes.
  static std::string text_of(const std::string& tokenizer_path, const std::vector<int32_t>& ids) {
    const auto text = read_text_file(tokenizer_path, 16 << 20);
    EXPECT_TRUE(text.ok()) << text.status().message();
    const auto json = parse_json(text.value(), tokenizer_path);
    EXPECT_TRUE(json.ok()) << json.status().message();
    std::vector<std::string> pieces(4096);
    for (const auto& [piece, id] : json->at("model").at("vocab").items()) {
      pieces.at(id.get<size_t>()) = piece == "<0x0A>" ? "\n" : piece;
    }
    std::string joined;
    for (const int32_t id : ids) joined += pieces.at(static_cast<size_t>(id));
    const std::string space = "\xE2\x96\x81";
    std::string story;
    for (size_t at = 0; at < joined.size();) {
      const bool is_space = joined.compare(at, space.size(), space) == 0;
      story.push_back(is_space ? ' ' : joined[at]);
      at += is_space ? space.size() : 1;
    }
    return story;
  }
};

constexpr const char* kPrompt = "one prompt for all, from the vocabulary's middle";

std::vector<int32_t> prompt_ids(int64_t vocab_size) {
  std::vector<int32_t> ids = {1};
  for (const char* c = kPrompt; *c != '\0'; ++c) {
    ids.push_back(static_cast<int32_t>((static_cast<int64_t>(*c) * 7) % vocab_size));
  }
  return ids;
}

// Largest |difference| of logits over a prompt.
double max_difference(ChunkRunner& a, ChunkRunner& b) {
  const auto ids = prompt_ids(a.model().config.vocab_size);
  const TensorView logits_a = a.run(0, ids);
  const TensorView logits_b = b.run(0, ids);
  double worst = 0.0;
  for (int64_t row = 0; row < logits_a.dim(0); ++row) {
    for (int64_t i = 0; i < logits_a.dim(1); ++i) {
      const double difference = std::abs(logits_a.f32_row(row)[i] - logits_b.f32_row(row)[i]);
      if (!(difference <= worst)) worst = difference;
    }
  }
  return worst;
}

TEST_F(RealModels, StoriesTellsTheKnownStoryFromBosAlone) {
  const auto expected = read_text_file(kModels + "stories260K/greedy_200.txt", 1 << 20);
  ASSERT_TRUE(expected.ok()) << expected.status().message();
  const std::vector<const Ops*> tables = available_ops();
  for (const Ops* ops : tables) {
    for (const char* path : {"stories260K/hf", "stories260K/stories260K.gguf"}) {
      // The reference is slow; FolderAndGgufAgree covers its other half.
      if (ops == tables.front() && tables.size() > 1 && path != std::string("stories260K/hf")) {
        continue;
      }
      SCOPED_TRACE(std::string(ops->name) + " " + path);
      const auto runner = open(path, *ops);
      ASSERT_NE(runner, nullptr);
      const std::string story =
          text_of(kModels + "stories260K/hf/tokenizer.json", greedy(*runner, 200));
      // The file leaves out the leading space that SentencePiece's decoder strips.
      EXPECT_EQ(story.substr(1), expected.value());
    }
  }
}

TEST_F(RealModels, FolderAndGgufAgree) {
  for (const Ops* ops : available_ops()) {
    for (const std::string name : {"stories260K", "babyllama105"}) {
      SCOPED_TRACE(std::string(ops->name) + " " + name);
      const auto folder = open(name + "/hf", *ops);
      const auto gguf = open(name + "/" + name + ".gguf", *ops);
      ASSERT_NE(folder, nullptr);
      ASSERT_NE(gguf, nullptr);
      // The GGUF's q and k rows are permuted, so only the order of sums differs.
      EXPECT_LT(max_difference(*folder, *gguf), 1e-3);
    }
  }
}

// Quantised weights move the logits by what the format's step allows and no more.
TEST_F(RealModels, QuantisedFilesStayNearFloat32) {
  for (const Ops* ops : available_ops()) {
    for (const std::string name : {"stories260K", "babyllama105"}) {
      for (const auto& [suffix, bound] : {std::pair{"-Q8_0", 0.6}, std::pair{"-Q4_0", 6.0}}) {
        SCOPED_TRACE(std::string(ops->name) + " " + name + suffix);
        const auto exact = open(name + "/" + name + ".gguf", *ops);
        const auto quantised = open(name + "/" + name + suffix + ".gguf", *ops);
        ASSERT_NE(exact, nullptr);
        ASSERT_NE(quantised, nullptr);
        const double difference = max_difference(*exact, *quantised);
        EXPECT_LT(difference, bound);
        EXPECT_GT(difference, 0.0);
      }
    }
  }
}

// Fast tables against the reference, on quantised weights as they are used.
TEST_F(RealModels, EveryInstructionSetFollowsTheReference) {
  const std::vector<const Ops*> tables = available_ops();
  for (size_t i = 1; i < tables.size(); ++i) {
    for (const char* path : {"stories260K/stories260K.gguf", "stories260K/stories260K-Q8_0.gguf",
                             "babyllama105/babyllama105-Q4_0.gguf"}) {
      SCOPED_TRACE(std::string(tables[i]->name) + " " + path);
      const auto reference = open(path, *tables[0], DType::kF16);
      const auto fast = open(path, *tables[i], DType::kF16);
      ASSERT_NE(reference, nullptr);
      ASSERT_NE(fast, nullptr);
      EXPECT_LT(max_difference(*reference, *fast), 2e-2);
    }
  }
}

}  // namespace
}  // namespace slipstream
