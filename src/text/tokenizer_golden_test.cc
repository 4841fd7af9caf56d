// Ids and texts of published tokenizers: every case of the shared goldens, and the smollm rule.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/mmap_file.h"
#include "base/strings.h"
#include "base/temp_folder_for_test.h"
#include "text/known_patterns.h"
#include "text/pretokenize.h"
#include "text/tokenizer.h"

namespace slipstream {
namespace {

namespace fs = std::filesystem;

const std::string kShared = SLIPSTREAM_SOURCE_DIR "/../shared";

// `source` unpacked as `name` in `folder`.
std::string gunzip(const TempFolder& folder, const std::string& source, const std::string& name) {
  const std::string out = (folder / name).string();
  EXPECT_EQ(std::system(str("gzip -dc '", source, "' > '", out, "'").c_str()), 0) << source;
  return out;
}

Json read_json(const std::string& path) {
  std::ifstream file(path);
  return Json::parse(file);
}

void expect_golden(const std::string& name, const std::string& path) {
  const Json golden = read_json(kShared + "/tokenizers/golden.json");
  const auto tokenizer = Tokenizer::load(path);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  const Json& expected = golden["encodings"][name];
  ASSERT_EQ(expected.size(), golden["tests"].size());
  for (size_t idx = 0; idx < expected.size(); ++idx) {
    const std::string text = golden["tests"][idx].get<std::string>();
    const auto ids = expected[idx]["ids"].get<std::vector<int32_t>>();
    EXPECT_EQ(tokenizer.value()->encode(text, {.add_special = false}).value(), ids) << text;
    EXPECT_EQ(tokenizer.value()->encode(text).value(),
              expected[idx]["ids_special"].get<std::vector<int32_t>>())
        << text;
    EXPECT_EQ(tokenizer.value()->decode(ids, {.skip_special = false}),
              expected[idx]["decoded"].get<std::string>());
  }
}

TEST(Golden, HuggingFaceFolders) {
  if (!fs::exists(kShared + "/tokenizers/golden.json")) GTEST_SKIP() << "../shared is not there";
  for (const std::string name : {"llama3", "qwen3"}) {
    const TempFolder folder;
    gunzip(folder, kShared + "/tokenizers/" + name + "/tokenizer.json.gz", "tokenizer.json");
    expect_golden(name, folder.path());
  }
  for (const std::string name : {"stories260K", "babyllama105"}) {
    expect_golden(name, kShared + "/models/" + name + "/hf");
  }
}

// Encodes every text of ggml-vocab-`name`.gguf.inp; the ids stand in its .out, a line each.
void expect_ggml_ids(const std::string& name, const Tokenizer& tokenizer) {
  const std::string separator = "\n__ggml_vocab_test__\n";
  const std::string base = kShared + "/tokenizers/ggml-vocab-" + name + ".gguf";
  const std::string texts = read_text_file(base + ".inp", 1 << 20).value();
  std::ifstream expected(base + ".out");
  size_t num_cases = 0;
  for (size_t at = 0; at <= texts.size(); ++num_cases) {
    const size_t end = std::min(texts.find(separator, at), texts.size());
    const std::string text = texts.substr(at, end - at);
    at = end == texts.size() ? end + 1 : end + separator.size();
    std::string line;
    std::getline(expected, line);  // the last text is empty, and so is its line
    std::string ids;
    const auto encoded = tokenizer.encode(text, {.add_special = false});
    ASSERT_TRUE(encoded.ok()) << encoded.status().message();
    for (const int32_t id : encoded.value()) ids += str(" ", id);
    EXPECT_EQ(ids, line) << name << ": " << text;
  }
  EXPECT_EQ(num_cases, 47u);
}

TEST(Golden, GgufVocabularies) {
  if (!fs::exists(kShared + "/tokenizers/golden.json")) GTEST_SKIP() << "../shared is not there";
  for (const std::string name : {"gpt-2", "llama-bpe", "llama-spm", "qwen2"}) {
    const std::string base = kShared + "/tokenizers/ggml-vocab-" + name + ".gguf";
    const TempFolder folder;
    const auto tokenizer = Tokenizer::load(gunzip(folder, base + ".gz", "vocab.gguf"));
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
    expect_ggml_ids(name, *tokenizer.value());
  }
}

TEST(Golden, VocabJsonWithMergesTxt) {
  const std::string source = kShared + "/tokenizers/gpt2/";
  if (!fs::exists(source)) GTEST_SKIP() << "../shared is not there";
  const TempFolder folder;
  gunzip(folder, source + "merges.txt.gz", "merges.txt");
  const std::string vocab = gunzip(folder, source + "vocab.json.gz", "vocab.json");
  for (const std::string& path : {folder.path(), vocab}) {
    const auto tokenizer = Tokenizer::load(path);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
    EXPECT_EQ(tokenizer.value()->vocab_size(), 50257);
    expect_ggml_ids("gpt-2", *tokenizer.value());
  }
}

TEST(Golden, SentencePieceModel) {
  const std::string path = kShared + "/tokenizers/llama2/tokenizer.model";
  if (!fs::exists(path)) GTEST_SKIP() << "../shared is not there";
  const auto tokenizer = Tokenizer::load(path);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  EXPECT_EQ(tokenizer.value()->vocab_size(), 32000);
  expect_ggml_ids("llama-spm", *tokenizer.value());
  EXPECT_EQ(tokenizer.value()->encode("").value(), std::vector<int32_t>{1});
}

TEST(Golden, SmollmSplitsDigitsSinglyThenAsGpt2) {
  const Json golden = read_json(SLIPSTREAM_SOURCE_DIR "/tests/golden/smollm_pre.json");
  const GgufPreTokenizer* rule = find_gguf_pre_tokenizer("smollm");
  ASSERT_NE(rule, nullptr);
  PreTokenizer pre_tokenizer;
  for (const std::string_view pattern : rule->patterns) {
    Result<Regex> regex = Regex::compile(pattern);
    ASSERT_TRUE(regex.ok());
    ASSERT_TRUE(
        pre_tokenizer.add(SplitStep{.pattern = Pattern::regex(std::move(regex).value())}).ok());
  }
  for (const Json& item : golden["cases"]) {
    const std::string text = item["text"].get<std::string>();
    Pieces pieces;
    ASSERT_TRUE(pre_tokenizer.split(text, true, false, pieces).ok());
    std::vector<std::string> found;
    for (const TextRange& range : pieces.ranges) {
      if (range.end > range.begin)
        found.push_back(text.substr(range.begin, range.end - range.begin));
    }
    EXPECT_EQ(found, item["pieces"].get<std::vector<std::string>>()) << text;
  }
}

}  // namespace
}  // namespace slipstream
