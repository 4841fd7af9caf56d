// Rules of the base layer: what JSON, UTF-8, Philox and the pool promise to every layer above.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "base/checked_math.h"
#include "base/json.h"
#include "base/json_escape.h"
#include "base/mmap_file.h"
#include "base/random.h"
#include "base/strings.h"
#include "base/thread_pool.h"
#include "base/utf8.h"

namespace slipstream {
namespace {

TEST(Json, RefusesDuplicateKeysAndNamesThem) {
  const auto parsed = parse_json(R"({"a": 1, "b": {"c": 1, "c": 2}})", "test.json");
  ASSERT_FALSE(parsed.ok());
  EXPECT_NE(parsed.status().message().find("'c'"), std::string::npos);
  EXPECT_TRUE(parse_json(R"({"a": {"c": 1}, "b": {"c": 2}})", "test.json").ok());
}

TEST(Json, DepthIsBoundedBeforeParsing) {
  const std::string deep(1'000'000, '[');
  EXPECT_FALSE(parse_json(deep, "deep").ok());
  EXPECT_TRUE(parse_json(std::string(128, '[') + std::string(128, ']'), "edge").ok());
  EXPECT_FALSE(parse_json(std::string(129, '[') + std::string(129, ']'), "over").ok());
  // Brackets inside strings are text.
  EXPECT_TRUE(parse_json("\"" + std::string(500, '[') + "\"", "text").ok());
}

TEST(Json, ZeroByteIsNoEnd) {
  for (const std::string_view text : {std::string_view("{}\0", 3), std::string_view("{}\0}", 4),
                                      std::string_view("{\"a\":\"\0\"}", 9)}) {
    EXPECT_FALSE(parse_json(text, "t").ok());
  }
}

// Quadratic time would be an hour here.
TEST(Json, ManyObjectsAndManyKeysTakeLinearTime) {
  std::string objects = "[{}";
  std::string keys = "{\"first\":1";
  for (int i = 0; i < 1'000'000; ++i) objects += ",{}";
  for (int i = 0; i < 500'000; ++i) keys += str(",\"k", i, "\":", i);
  EXPECT_EQ(parse_json(objects + "]", "t").value().size(), 1'000'001u);
  const Json object = parse_json(keys + "}", "t").value();
  EXPECT_EQ(object.size(), 500'001u);
  EXPECT_EQ(object.begin().key(), "first");
  EXPECT_FALSE(parse_json(keys + ",\"k7\":1}", "t").ok());
}

TEST(Json, ValuesAreBuiltInTheirPlaces) {
  const char* text = R"({"a":[1,-2,3.5,"x",true,null,[],{}],"b":{"c":{"d":[[{"e":1}],2]},"f":3}})";
  EXPECT_EQ(dump_json(parse_json(text, "t").value()), text);
  for (const char* bare : {"1", "\"x\"", "null", "[]", "{}"}) {
    EXPECT_EQ(dump_json(parse_json(bare, "t").value()), bare);
  }
  for (const char* bad : {"", "[", "{\"a\":", "{\"a\"}", "[1,]", "[1 2]", "1e999", "{}x", "tru"}) {
    const auto parsed = parse_json(bad, "doc");
    ASSERT_FALSE(parsed.ok()) << bad;
    EXPECT_EQ(parsed.status().message().find("doc: not valid JSON: "), 0u);
  }
}

TEST(Json, SizeIsBounded) {
  JsonLimits limits;
  limits.max_bytes = 10;
  EXPECT_FALSE(parse_json("\"01234567890\"", "big", limits).ok());
}

TEST(Json, GettersNameTheKeyAndTheType) {
  const Json object = parse_json(R"({"n": "three", "big": 18446744073709551615})", "t").value();
  const auto number = json_int(object, "n", 0);
  ASSERT_FALSE(number.ok());
  EXPECT_EQ(number.status().message(), "n: expected an integer, got string");
  EXPECT_FALSE(json_int(object, "big", 0).ok());
  EXPECT_EQ(json_int(object, "absent", 7).value(), 7);
}

TEST(Json, DumpSurvivesInvalidUtf8) { EXPECT_EQ(dump_json(Json("a\xFF")), "\"a\xEF\xBF\xBD\""); }

TEST(JsonEscape, MatchesTheLibraryOnEveryByte) {
  for (int byte = 0; byte < 128; ++byte) {
    const std::string text(1, static_cast<char>(byte));
    std::string escaped;
    append_json_escaped(escaped, text);
    const auto back = parse_json("\"" + escaped + "\"", "escaped");
    ASSERT_TRUE(back.ok()) << byte;
    EXPECT_EQ(back.value().get<std::string>(), text);
  }
}

TEST(Utf8, RejectsOverlongSurrogatesAndTooLarge) {
  EXPECT_TRUE(utf8_valid("a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80"));
  EXPECT_FALSE(utf8_valid("\xC0\xAF"));          // overlong
  EXPECT_FALSE(utf8_valid("\xED\xA0\x80"));      // surrogate
  EXPECT_FALSE(utf8_valid("\xF4\x90\x80\x80"));  // above U+10FFFF
  EXPECT_FALSE(utf8_valid("\x80"));
  EXPECT_TRUE(utf8_decode("\xE2\x82", 0).truncated);
}

TEST(Utf8, AppendInvertsDecodeForEveryScalarValue) {
  for (uint32_t code_point = 0; code_point <= 0x10FFFF; ++code_point) {
    if (code_point >= 0xD800 && code_point <= 0xDFFF) continue;
    std::string text;
    utf8_append(text, code_point);
    const Utf8Step step = utf8_decode(text, 0);
    ASSERT_TRUE(step.valid && step.code_point == code_point && step.length == text.size());
  }
}

TEST(CheckedMath, SaysWhenItWouldWrap) {
  EXPECT_FALSE(checked_mul(1ull << 33, 1ull << 33).has_value());
  EXPECT_FALSE(checked_add(UINT64_MAX, 1).has_value());
  EXPECT_FALSE(checked_align_up(UINT64_MAX, 32).has_value());
  EXPECT_EQ(checked_align_up(33, 32).value(), 64u);
}

// Known answers of the authors' Random123 distribution (kat_vectors, philox4x32 10 rounds).
TEST(Philox, MatchesTheKnownAnswers) {
  EXPECT_EQ(philox4x32_10({0, 0, 0, 0}, 0),
            (PhiloxWords{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u}));
  EXPECT_EQ(philox4x32_10({0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu}, UINT64_MAX),
            (PhiloxWords{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu}));
  EXPECT_EQ(
      philox4x32_10({0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}, 0x299f31d0a4093822ull),
      (PhiloxWords{0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u}));
}

TEST(Philox, UniformIsOpenAtBothEnds) {
  EXPECT_GT(uniform_open(0), 0.0f);
  EXPECT_LT(uniform_open(UINT32_MAX), 1.0f);
}

TEST(ThreadPool, RunsEveryTaskExactlyOnce) {
  for (int num_threads : {1, 2, 4}) {
    ThreadPool pool(num_threads);
    for (int64_t num_tasks : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> counts(static_cast<size_t>(num_tasks));
      pool.run(num_tasks, [&](int64_t task, int thread) {
        ASSERT_LT(thread, num_threads);
        counts[static_cast<size_t>(task)]++;
      });
      for (const auto& count : counts) EXPECT_EQ(count.load(), 1);
    }
  }
}

TEST(ThreadPool, ManyShortLoopsKeepTheirOwnResults) {
  ThreadPool pool(2);
  for (int round = 0; round < 20000; ++round) {
    std::array<int64_t, 3> out{};
    pool.run(3, [&](int64_t task, int) { out[static_cast<size_t>(task)] = task + round; });
    ASSERT_EQ(out[0] + out[1] + out[2], 3 + 3 * round);
  }
}

TEST(ThreadPool, LoopsAndEndsInEveryStateOfItsWorkers) {
  for (int round = 0; round < 200; ++round) {
    ThreadPool pool(4);
    // Workers start, spin, sleep or wake when the next loop, or the end, comes.
    for (int loop = 0; loop < round % 3; ++loop) {
      std::vector<int64_t> out(64);
      pool.run(64, [&](int64_t task, int) { out[static_cast<size_t>(task)] = task + loop; });
      for (int64_t task = 0; task < 64; ++task) {
        ASSERT_EQ(out[static_cast<size_t>(task)], task + loop);
      }
      if (round % 5 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
}

TEST(Strings, QuoteEscapesWhatAFileContained) {
  EXPECT_EQ(quote("a\n\x01z"), "'a\\x0a\\x01z'");
  EXPECT_EQ(quote("abcdef", 3), "'abc...'");
}

TEST(MmapFile, M20_MissingAndEmptyFilesNameThePath) {
  const auto missing = MmapFile::open("/nonexistent/file.gguf");
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.status().code(), StatusCode::kBadUsage);
  EXPECT_NE(missing.status().message().find("/nonexistent/file.gguf"), std::string::npos);
  EXPECT_FALSE(MmapFile::open("/").ok());
}

}  // namespace
}  // namespace slipstream
