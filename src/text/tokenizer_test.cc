// Rules of the tokenizer that need no file beside the ones written here.
#include "text/tokenizer.h"

#include <gtest/gtest.h>

#include <string>

#include "base/strings.h"
#include "base/utf8.h"
#include "text/byte_level_for_test.h"
#include "text/tokenize_lines.h"

namespace slipstream {
namespace {

using Ids = std::vector<int32_t>;
using TokenizerPtr = std::shared_ptr<const Tokenizer>;

TokenizerPtr load_json(const std::string& json) {
  Result<TokenizerPtr> tokenizer = Tokenizer::from_json(json, "test.json");
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  return tokenizer.ok() ? tokenizer.value() : nullptr;
}

std::string load_error(const std::string& json) {
  const Result<TokenizerPtr> tokenizer = Tokenizer::from_json(json, "test.json");
  return tokenizer.ok() ? "" : tokenizer.status().message();
}

Ids encode(const TokenizerPtr& tokenizer, std::string_view text, EncodeOptions options = {}) {
  Result<Ids> ids = tokenizer->encode(text, options);
  EXPECT_TRUE(ids.ok()) << ids.status().message();
  return ids.ok() ? ids.value() : Ids();
}

const char* const kSentencePiece = R"({
  "added_tokens":[{"id":0,"content":"<unk>","special":true},{"id":1,"content":"<s>","special":true}],
  "normalizer":{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"▁"},
    {"type":"Replace","pattern":{"String":" "},"content":"▁"}]},
  "post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>"}},
    {"Sequence":{"id":"A"}}],"special_tokens":{"<s>":{"id":"<s>","ids":[1],"tokens":["<s>"]}}},
  "decoder":{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},
    {"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]},
  "model":{"type":"BPE","unk_token":"<unk>","fuse_unk":true,"byte_fallback":true,
    "vocab":{"<unk>":0,"<s>":1,"▁":2,"a":3,"b":4,"▁a":5,"ab":6,"<0xC3>":7,"<0xA9>":8},
    "merges":["▁ a","a b"]}})";

TEST(Bpe, LowestRankMergesFirstThenLeftmost) {
  const auto tokenizer =
      load_json(byte_level_json(R"(,"ab":256,"bc":257,"aa":258)", R"("b c","a b","a a")", ""));
  EXPECT_EQ(encode(tokenizer, "abc"), (Ids{'a', 257}));
  EXPECT_EQ(encode(tokenizer, "aaa"), (Ids{258, 'a'}));
  EXPECT_EQ(encode(tokenizer, "aaab"), (Ids{258, 256}));
}

TEST(Bpe, MergesAsPairsAndAsStringsAreTheSame) {
  const auto strings = load_json(byte_level_json(R"(,"ab":256)", R"("a b")", ""));
  const auto pairs = load_json(byte_level_json(R"(,"ab":256)", R"(["a","b"])", ""));
  EXPECT_EQ(encode(strings, "xab"), (Ids{'x', 256}));
  EXPECT_EQ(encode(pairs, "xab"), (Ids{'x', 256}));
}

TEST(Bpe, LongPiecesMergeAsShortOnesDo) {
  const auto tokenizer =
      load_json(byte_level_json(R"(,"ab":256,"abab":257)", R"("a b","ab ab")", ""));
  for (const size_t repeats : {3u, 20u, 30u, 200u, 201u}) {
    std::string text;
    for (size_t i = 0; i < repeats; ++i) text += "ab";
    Ids expected(repeats / 2, 257);
    if (repeats % 2 == 1) expected.push_back(256);
    EXPECT_EQ(encode(tokenizer, text), expected) << repeats;
  }
}

TEST(Bpe, IgnoreMergesTakesWholePiecesFirst) {
  const std::string vocab = R"(,"ab":256,"abc":257)";
  EXPECT_EQ(encode(load_json(byte_level_json(vocab, R"("a b")", "")), "abc"), (Ids{256, 'c'}));
  EXPECT_EQ(
      encode(load_json(byte_level_json(vocab, R"("a b")", "", R"("ignore_merges":true,)")), "abc"),
      (Ids{257}));
}

TEST(SentencePieceBpe, PrefixByteFallbackAndFusedUnknown) {
  const auto tokenizer = load_json(kSentencePiece);
  EXPECT_EQ(encode(tokenizer, "ab a"), (Ids{1, 5, 4, 5}));
  EXPECT_EQ(encode(tokenizer, "\xC3\xA9"), (Ids{1, 2, 7, 8}));
  EXPECT_EQ(encode(tokenizer, "xyz"), (Ids{1, 2, 0}));
  EXPECT_EQ(encode(tokenizer, "ab", {.add_special = false}), (Ids{5, 4}));
  EXPECT_EQ(tokenizer->decode(Ids{1, 5, 4, 5}), "ab a");
  EXPECT_EQ(tokenizer->decode(Ids{5, 4}, {.at_text_start = false}), " ab");
}

TEST(AddedTokens, SpecialTextIsOrdinaryUnlessParsed) {
  const auto tokenizer =
      load_json(byte_level_json("", "", R"({"id":256,"content":"<|x|>","special":true})"));
  EXPECT_EQ(encode(tokenizer, "a<|x|>b"), (Ids{'a', 256, 'b'}));
  EXPECT_EQ(encode(tokenizer, "<|x|>", {.parse_special = false}), (Ids{'<', '|', 'x', '|', '>'}));
  EXPECT_EQ(tokenizer->decode(Ids{'a', 256, 'b'}), "ab");
  EXPECT_EQ(tokenizer->decode(Ids{'a', 256, 'b'}, {.skip_special = false}), "a<|x|>b");
}

TEST(AddedTokens, SpecialTokensInPlainRangesAreOrdinaryTextAndOthersAreNot) {
  const auto tokenizer = load_json(
      byte_level_json(R"(,"<x>":256)", "", R"({"id":256,"content":"<x>","special":true})"));
  const std::string text = "<x>a<x>b<x>";
  const std::vector<TextRange> found = tokenizer->find_special("a<x>b<x><x>");
  ASSERT_EQ(found.size(), 2u);
  EXPECT_EQ(found[0].begin, 1u);
  EXPECT_EQ(found[0].end, 4u);
  EXPECT_EQ(found[1].end, 11u);
  const std::vector<TextRange> middle = {{4, 7}};
  EXPECT_EQ(encode(tokenizer, text, {.plain_ranges = middle}),
            (Ids{256, 'a', '<', 'x', '>', 'b', 256}));
  // Part of a token is enough: half of it was written by someone else.
  const std::vector<TextRange> edges = {{2, 3}, {9, 10}};
  EXPECT_EQ(encode(tokenizer, text, {.plain_ranges = edges}),
            (Ids{'<', 'x', '>', 'a', 256, 'b', '<', 'x', '>'}));
}

TEST(AddedTokens, TextThatOnlyNormalizationMakesSpecialIsFound) {
  const auto tokenizer =
      load_json(R"({"added_tokens":[{"id":1,"content":"<x>","special":true,"normalized":true}],)"
                R"("normalizer":{"type":"Lowercase"},)"
                R"("model":{"type":"BPE","vocab":{"a":0,"<x>":1,"<":2,"x":3,">":4},"merges":[]}})");
  ASSERT_EQ(tokenizer->find_special("a<X>").size(), 1u);
  const std::vector<TextRange> all = {{0, 4}};
  EXPECT_EQ(encode(tokenizer, "a<X>", {.plain_ranges = all}), (Ids{0, 2, 3, 4}));
  EXPECT_EQ(encode(tokenizer, "a<X>"), (Ids{0, 1}));
}

TEST(AddedTokens, LeftmostLongestStripAndWholeWord) {
  const auto tokenizer = load_json(byte_level_json(
      "", "",
      R"({"id":256,"content":"<a>"},{"id":257,"content":"<a><b>","normalized":false},)"
      R"({"id":258,"content":"[M]","lstrip":true,"rstrip":true,"normalized":false},)"
      R"({"id":259,"content":"cat","single_word":true,"normalized":false})"));
  EXPECT_EQ(encode(tokenizer, "<a><b>"), (Ids{257}));
  EXPECT_EQ(encode(tokenizer, "<a>"), (Ids{256}));
  EXPECT_EQ(encode(tokenizer, "x  [M] \ny"), (Ids{'x', 258, 'y'}));
  EXPECT_EQ(encode(tokenizer, "cat"), (Ids{259}));
  EXPECT_EQ(encode(tokenizer, "cats"), (Ids{'c', 'a', 't', 's'}));
}

TEST(Normalizer, CanonicalCompositionFollowsUnicode12) {
  std::string json = byte_level_json("", "", "");
  json.insert(1, R"("normalizer":{"type":"NFC"},)");
  const auto tokenizer = load_json(json);
  EXPECT_EQ(encode(tokenizer, "e\xCC\x81"), (Ids{0xC3, 0xA9}));
  // U+1ADA, a combining mark assigned later, keeps its place between marks.
  EXPECT_EQ(tokenizer->decode(encode(tokenizer, "a\xE1\xAB\x9A\xCC\xA3")), "a\xE1\xAB\x9A\xCC\xA3");
}

TEST(PreTokenizer, SplitBehaviors) {
  const auto with = [](const std::string& behavior, const std::string& invert) {
    // Merges join anything within a piece, so ids show where pieces end.
    return load_json(
        R"({"pre_tokenizer":{"type":"Split","pattern":{"String":"-"},"behavior":")" + behavior +
        R"(","invert":)" + invert +
        R"(},"decoder":{"type":"Fuse"},"model":{"type":"BPE","vocab":{"a":0,"-":1,"a-":2,"-a":3,"--":4},)"
        R"("merges":["- -","- a","a -"]}})");
  };
  EXPECT_EQ(encode(with("Isolated", "false"), "a--a"), (Ids{0, 1, 1, 0}));
  EXPECT_EQ(encode(with("Removed", "false"), "a--a"), (Ids{0, 0}));
  EXPECT_EQ(encode(with("Removed", "true"), "a--a"), (Ids{1, 1}));
  EXPECT_EQ(encode(with("MergedWithPrevious", "false"), "a--a"), (Ids{2, 1, 0}));
  EXPECT_EQ(encode(with("MergedWithNext", "false"), "a--a"), (Ids{0, 1, 3}));
  EXPECT_EQ(encode(with("Contiguous", "false"), "a--a"), (Ids{0, 4, 0}));
}

TEST(PreTokenizer, HostilePatternIsAnErrorNotAHang) {
  const std::string head = R"({"pre_tokenizer":{"type":"Split","pattern":{"Regex":")";
  const std::string tail = R"("},"behavior":"Isolated","invert":false},"decoder":{"type":"Fuse"},)"
                           R"("model":{"type":"BPE","vocab":{"a":0,"b":1},"merges":[]}})";
  const std::string text = std::string(20000, 'a') + "b";
  for (const char* pattern : {"(a+)+$", "(a*)*c", "(a|a)*c", "(?=(a*a*a*a*c))[ab]"}) {
    const auto tokenizer = load_json(head + pattern + tail);
    ASSERT_NE(tokenizer, nullptr);
    const auto ids = tokenizer->encode(text);
    EXPECT_FALSE(ids.ok()) << pattern;
    EXPECT_NE(ids.status().message().find("pattern"), std::string::npos) << pattern;
  }
  EXPECT_NE(load_error(head + "(((" + tail), "");
}

TEST(PreTokenizer, UnknownPatternsMatchAcrossTheSearchWindow) {
  const auto tokenizer = load_json(
      R"({"pre_tokenizer":{"type":"Split","pattern":{"Regex":"a+b"},"behavior":"Removed",)"
      R"("invert":false},"decoder":{"type":"Fuse"},)"
      R"("model":{"type":"BPE","vocab":{"a":0,"b":1,"c":2},"merges":[]}})");
  EXPECT_EQ(encode(tokenizer, "c" + std::string(50000, 'a') + "bc"), (Ids{2, 2}));
}

TEST(Unigram, HighestScoringPathWins) {
  const auto tokenizer = load_json(
      R"({"decoder":{"type":"Fuse"},"model":{"type":"Unigram","unk_id":0,"vocab":[["<unk>",0],)"
      R"(["a",-1],["b",-1],["ab",-3],["bc",-1.5],["c",-4]]}})");
  EXPECT_EQ(encode(tokenizer, "abc"), (Ids{1, 4}));
  EXPECT_EQ(encode(tokenizer, "ab"), (Ids{1, 2}));
  EXPECT_EQ(encode(tokenizer, "axxb"), (Ids{1, 0, 2}));
}

TEST(Load, BrokenVocabulariesAreRefusedByName) {
  const auto model = [](const std::string& rest) {
    return str(R"({"decoder":{"type":"Fuse"},"model":{"type":"BPE",)", rest, "}}");
  };
  EXPECT_NE(load_error(model(R"("vocab":{"a":0,"b":2},"merges":[])")).find("no token has id 1"),
            std::string::npos);
  EXPECT_NE(load_error(model(R"("vocab":{"a":0,"b":0},"merges":[])")).find("both"),
            std::string::npos);
  EXPECT_NE(load_error(model(R"("vocab":{"a":0,"b":99999999},"merges":[])")).find("id"),
            std::string::npos);
  EXPECT_NE(load_error(model(R"("vocab":{"a":0,"b":-1},"merges":[])")).find("id"),
            std::string::npos);
  EXPECT_NE(load_error(model(R"("vocab":{"a":0},"merges":["a x"])")).find("no token"),
            std::string::npos);
  EXPECT_NE(load_error(model(R"("vocab":{"a":0},"merges":["a"])")).find("not a pair"),
            std::string::npos);
  EXPECT_NE(
      load_error(model(str("\"vocab\":{\"", std::string(1 << 20, 'a'), "\":0},\"merges\":[]")))
          .find("limit"),
      std::string::npos);
  EXPECT_NE(
      load_error(R"({"pre_tokenizer":{"type":"Nope"},"model":{"type":"BPE","vocab":{"a":0}}})")
          .find("Nope"),
      std::string::npos);
  EXPECT_NE(load_error(std::string(100000, '[')), "");
  EXPECT_NE(load_error(""), "");
  EXPECT_EQ(Tokenizer::from_json("[]", "x").status().code(), StatusCode::kInvalidModel);
}

TEST(SentencePieceModel, BrokenFilesAreRefused) {
  for (const std::string& bytes :
       {std::string(), std::string("\x0a\xff\xff\xff\xff\x0f", 6), std::string("\x0a\x05hello", 7),
        std::string("\x0a", 1), std::string(40, '\xff')}) {
    EXPECT_EQ(Tokenizer::from_sentencepiece(bytes, "x.model").status().code(),
              StatusCode::kInvalidModel);
  }
}

TEST(Load, MissingPathsAndForeignFilesAreErrors) {
  EXPECT_FALSE(Tokenizer::load("no/such/folder").ok());
  EXPECT_FALSE(Tokenizer::load(SLIPSTREAM_SOURCE_DIR "/CMakeLists.txt").ok());
  EXPECT_FALSE(Tokenizer::load(SLIPSTREAM_SOURCE_DIR "/src").ok());
}

TEST(Encode, TextAboveTheByteLimitIsRefused) {
  const auto tokenizer = load_json(byte_level_json("", "", ""));
  EXPECT_TRUE(tokenizer->encode("abc", {.max_bytes = 3}).ok());
  EXPECT_FALSE(tokenizer->encode("abcd", {.max_bytes = 3}).ok());
}

TEST(Encode, InvalidUtf8IsReadAsReplacementCharacters) {
  const auto tokenizer = load_json(byte_level_json("", "", ""));
  EXPECT_EQ(tokenizer->decode(encode(tokenizer, "a\xFF\xE4\xB8z")), "a\xEF\xBF\xBD\xEF\xBF\xBDz");
}

TEST(Encode, DecodeGivesBackEveryValidText) {
  const auto tokenizer =
      load_json(byte_level_json(R"(,"ab":256,"Ġa":257,"åĽ":258)", R"("a b","Ġ a","å Ľ")", ""));
  uint64_t state = 7;
  for (int round = 0; round < 2000; ++round) {
    std::string text;
    for (int i = 0; i < 12; ++i) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      uint32_t code_point = static_cast<uint32_t>(state >> 33) % 0x110000;
      if (i % 3 == 0) code_point = 'a' + code_point % 3;
      if (i % 4 == 0) code_point = ' ';
      if (code_point >= 0xD800 && code_point < 0xE000) code_point = '\n';
      utf8_append(text, code_point);
    }
    ASSERT_EQ(tokenizer->decode(encode(tokenizer, text)), text);
  }
}

TEST(DecodeStream, NeverSplitsACodePoint) {
  const auto tokenizer = load_json(byte_level_json("", "", ""));
  DecodeStream stream(*tokenizer);
  EXPECT_EQ(stream.push(0xF0), "");
  EXPECT_EQ(stream.push(0x9F), "");
  EXPECT_EQ(stream.push(0x98), "");
  EXPECT_EQ(stream.push(0x80), "\xF0\x9F\x98\x80");
  EXPECT_EQ(stream.push(0xE4), "");
  EXPECT_EQ(stream.push('x'), "\xEF\xBF\xBDx");
  EXPECT_EQ(stream.push(0xE4), "");
  EXPECT_EQ(stream.flush(), "\xEF\xBF\xBD");
  EXPECT_EQ(stream.push(0xF5), "\xEF\xBF\xBD");
}

TEST(DecodeStream, PiecesJoinedEqualTheOneShotText) {
  const auto tokenizer = load_json(byte_level_json("", "", ""));
  uint64_t state = 11;
  for (int round = 0; round < 3000; ++round) {
    Ids ids;
    std::string streamed;
    DecodeStream stream(*tokenizer);
    for (int i = 0; i < 10; ++i) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      ids.push_back(static_cast<int32_t>((state >> 40) % 258));
      const std::string piece = stream.push(ids.back());
      ASSERT_TRUE(utf8_valid(piece));
      streamed += piece;
    }
    streamed += stream.flush();
    std::string raw;
    for (const int32_t id : ids) raw += tokenizer->token_bytes(id);
    ASSERT_EQ(streamed, utf8_sanitized(raw));
    ASSERT_EQ(streamed, tokenizer->decode(ids));
  }
}

TEST(TokenizeLines, OneJsonValueInOneOut) {
  const auto tokenizer = load_json(kSentencePiece);
  EXPECT_EQ(tokenize_line(*tokenizer, "\"ab a\"").value(), "[1,5,4,5]");
  EXPECT_EQ(tokenize_line(*tokenizer, "\"\"").value(), "[1]");
  EXPECT_EQ(tokenize_line(*tokenizer, "\"\"", {.add_special = false}).value(), "[]");
  EXPECT_EQ(detokenize_line(*tokenizer, "[1,5,4,7]").value(), "\"ab\xEF\xBF\xBD\"");
  for (const char* bad : {"ab", "[1]", "{}", "", "\"a"}) {
    EXPECT_FALSE(tokenize_line(*tokenizer, bad).ok()) << bad;
  }
  for (const char* bad : {"\"a\"", "[-1]", "[9]", "[1.5]", "[\"a\"]", "[[1]]", "[99999999999]"}) {
    EXPECT_FALSE(detokenize_line(*tokenizer, bad).ok()) << bad;
  }
}

}  // namespace
}  // namespace slipstream
