#include "text/output_stream.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/utf8.h"

namespace slipstream {
namespace {

// Feeds `text` cut into pieces of `piece_bytes`, as far as the matcher wants it.
std::string run(StopMatcher& matcher, std::string_view text, size_t piece_bytes) {
  std::string out;
  for (size_t at = 0; at < text.size() && !matcher.stopped(); at += piece_bytes) {
    out += matcher.push(text.substr(at, piece_bytes));
  }
  if (!matcher.stopped()) out += matcher.flush();
  return out;
}

// The definition: the match that ends first, of those the longest.
std::string by_search(std::string_view text, const std::vector<std::string>& stops, bool include) {
  for (size_t end = 1; end <= text.size(); ++end) {
    size_t longest = 0;
    for (const std::string& stop : stops) {
      if (!stop.empty() && text.substr(0, end).ends_with(stop)) {
        longest = std::max(longest, stop.size());
      }
    }
    if (longest > 0) return std::string(text.substr(0, include ? end : end - longest));
  }
  return std::string(text);
}

TEST(StopMatcher, HoldsBackOnlyWhatMayBecomeAStopString) {
  StopMatcher matcher({"</s>"});
  EXPECT_EQ(matcher.push("ab<"), "ab");
  EXPECT_EQ(matcher.push("/"), "");
  EXPECT_EQ(matcher.push("x"), "</x");
  EXPECT_EQ(matcher.push("<</"), "<");
  EXPECT_EQ(matcher.held_bytes(), 2u);
  EXPECT_EQ(matcher.push("s>tail"), "");
  EXPECT_TRUE(matcher.stopped());
  EXPECT_EQ(matcher.push("more"), "");
}

TEST(StopMatcher, StopAtPositionZeroGivesNoText) {
  StopMatcher matcher({"ab"});
  EXPECT_EQ(matcher.push("abc"), "");
  EXPECT_EQ(matcher.stop_idx(), std::optional<size_t>(0));
}

TEST(StopMatcher, HeldTextIsFlushedAtTheEnd) {
  StopMatcher matcher({"END"});
  EXPECT_EQ(matcher.push("the EN"), "the ");
  EXPECT_EQ(matcher.flush(), "EN");
  EXPECT_FALSE(matcher.stopped());
}

TEST(StopMatcher, EmptyAndInvalidStopStringsNeverMatch) {
  StopMatcher matcher({"", "\x80"});
  EXPECT_EQ(matcher.push("a\xC2\x80"), "a\xC2\x80");
  EXPECT_FALSE(matcher.stopped());
}

TEST(StopMatcher, EqualsTheDefinitionHoweverTheTextIsCut) {
  uint64_t state = 3;
  const auto next = [&](uint32_t bound) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<uint32_t>(state >> 33) % bound;
  };
  const auto word = [&](uint32_t max_size) {
    std::string out;
    for (uint32_t i = next(max_size) + 1; i > 0; --i) out.push_back("ab"[next(2)]);
    return out;
  };
  for (int round = 0; round < 5000; ++round) {
    std::vector<std::string> stops;
    for (uint32_t i = next(4); i > 0; --i) stops.push_back(word(5));
    const std::string text = word(30);
    const bool include = next(2) == 0;
    for (const size_t piece_bytes : {1u, 2u, 3u, 7u, 64u}) {
      StopMatcher matcher(stops, include);
      ASSERT_EQ(run(matcher, text, piece_bytes), by_search(text, stops, include)) << text;
    }
  }
}

TEST(OutputStream, StopsAcrossTokensAndCodePoints) {
  const auto tokenizer = Tokenizer::from_json(
      R"({"decoder":{"type":"Sequence","decoders":[{"type":"ByteFallback"},{"type":"Fuse"}]},)"
      R"("model":{"type":"BPE","byte_fallback":true,"vocab":{"a":0,"b":1,"<0xC3>":2,"<0xA9>":3,)"
      R"("<0xA8>":4},"merges":[]}})",
      "test");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  OutputStream stream(*tokenizer.value(), {.stop = {"b\xC3\xA9"}});
  std::string text;
  for (const int32_t id : {0, 1, 2, 4, 1, 2}) {
    text += stream.push(id);
    EXPECT_TRUE(utf8_valid(text));
  }
  EXPECT_EQ(text, "ab\xC3\xA8");
  EXPECT_EQ(stream.push(3), "");
  EXPECT_TRUE(stream.stopped());
  EXPECT_EQ(stream.flush(), "");

  OutputStream unfinished(*tokenizer.value(), {.stop = {"b\xC3\xA9"}});
  EXPECT_EQ(unfinished.push(1), "");
  EXPECT_EQ(unfinished.push(2), "");
  EXPECT_EQ(unfinished.flush(), "b\xEF\xBF\xBD");
}

}  // namespace
}  // namespace slipstream
