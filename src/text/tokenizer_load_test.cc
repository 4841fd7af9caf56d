// What Tokenizer::load reads beside the vocabulary file of a folder.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/temp_folder_for_test.h"
#include "text/tokenizer.h"

namespace slipstream {
namespace {

using Ids = std::vector<int32_t>;

// A folder with a vocab.json and merges.txt of three letters.
class VocabFolder : public testing::Test {
 protected:
  VocabFolder() {
    write("vocab.json", R"({"a":0,"b":1,"c":2,"ab":3,"<s>":4})");
    write("merges.txt", "#version: 0.2\na b\n");
  }

  void write(const std::string& name, const std::string& text) { folder_.write(name, text); }
  Result<std::shared_ptr<const Tokenizer>> load() const { return Tokenizer::load(folder_.path()); }
  std::string load_error() const {
    const auto tokenizer = load();
    return tokenizer.ok() ? "" : tokenizer.status().message();
  }

  TempFolder folder_;
};

TEST_F(VocabFolder, MergesFollowTheFile) {
  const auto tokenizer = load();
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  EXPECT_EQ(tokenizer.value()->encode("abcb").value(), (Ids{3, 2, 1}));
}

TEST_F(VocabFolder, AddedTokensComeFromBothFilesAndTheConfigWins) {
  write("added_tokens.json", R"({"<x>": 5, "<y>": 6})");
  write("tokenizer_config.json",
        R"({"eos_token": "<y>", "added_tokens_decoder": {
             "6": {"content": "<y>", "special": true, "lstrip": false, "rstrip": false,
                   "single_word": false, "normalized": false},
             "8": {"content": "<z>", "special": true, "rstrip": true}}})");
  const auto tokenizer = load();
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  EXPECT_EQ(tokenizer.value()->encode("a<x>b<y>c<z> a").value(), (Ids{0, 5, 1, 6, 2, 8, 0}));
  EXPECT_FALSE(tokenizer.value()->is_special(5));
  EXPECT_TRUE(tokenizer.value()->is_special(6));
  EXPECT_TRUE(tokenizer.value()->is_end_of_generation(6));
  EXPECT_EQ(tokenizer.value()->decode(Ids{0, 5, 6, 8}), "a<x>");
  EXPECT_EQ(tokenizer.value()->vocab_size(), 9);
}

TEST_F(VocabFolder, BrokenAddedTokensAreRefusedByName) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"<x>": "5"})", "<x>"}, {R"({"<x>": -1})", "-1"},    {R"({"<x>": 99999999})", "99999999"},
      {R"({"<x>": 0})", "id 0"},  {"[]", "added_tokens.json"}, {"{", "added_tokens.json"}};
  for (const auto& [text, part] : cases) {
    write("added_tokens.json", text);
    EXPECT_NE(load_error().find(part), std::string::npos) << text << ": " << load_error();
  }
  std::filesystem::remove(folder_ / "added_tokens.json");
  for (const char* decoder : {"[]", R"({"x": {"content": "<x>"}})", R"({"5": "<x>"})",
                              R"({"5": {"content": 1}})", R"({"5": {"special": "yes"}})"}) {
    write("tokenizer_config.json", std::string(R"({"added_tokens_decoder": )") + decoder + "}");
    EXPECT_NE(load_error(), "") << decoder;
  }
}

}  // namespace
}  // namespace slipstream
