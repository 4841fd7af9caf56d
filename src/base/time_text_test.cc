// Rules of times in text: one meaning for each, and none for what is not a time.
#include "base/time_text.h"

#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <utility>

namespace slipstream {
namespace {

constexpr int64_t kFirstOfMarch = 1'772'323'200'000;  // 2026-03-01T00:00:00Z

TEST(TimeText, DatesTimesAndUnixSecondsMeanTheSameMoments) {
  for (const char* text : {"2026-03-01", "2026-03-01T00:00", "2026-03-01 00:00:00",
                           "2026-03-01T00:00:00Z", "2026-03-01T00:00:00.000z",
                           "2026-03-01T02:30:00+02:30", "2026-02-28T21:00-0300", "1772323200"}) {
    const Result<int64_t> ms = parse_unix_ms(text);
    ASSERT_TRUE(ms.ok()) << text;
    EXPECT_EQ(ms.value(), kFirstOfMarch) << text;
  }
  EXPECT_EQ(parse_unix_ms("2026-03-01T12:30:05.25").value(), kFirstOfMarch + 45'005'250);
  EXPECT_EQ(parse_unix_ms("2026-03-01T00:00:00.0019999").value(), kFirstOfMarch + 1);
  EXPECT_EQ(parse_unix_ms("1970-01-01").value(), 0);
  EXPECT_EQ(parse_unix_ms("2024-02-29").value(), 1'709'164'800'000);
}

TEST(TimeText, WhatIsNoTimeIsRefusedAndShown) {
  for (const char* text :
       {"", "now", "2026-3-1", "2026-13-01", "2026-02-29", "2026-03-01T", "2026-03-01T24:00",
        "2026-03-01T12", "2026-03-01T12:60", "2026-03-01T12:30:61", "2026-03-01T12:30:00.",
        "2026-03-01T12:30:00+2", "2026-03-01T12:30:00ZZ", "2026-03-01 ", "-5", "1772323200000",
        "99999999999999999999999", "1.5"}) {
    const Result<int64_t> ms = parse_unix_ms(text);
    ASSERT_FALSE(ms.ok()) << text;
    EXPECT_NE(ms.status().message().find(text), std::string::npos);
  }
}

TEST(TimeText, NowIsReadBackAsTheMomentItWasWritten) {
  for (const auto& [digits, size] :
       {std::pair(TimeDigits::kSeconds, 20u), std::pair(TimeDigits::kMilliseconds, 24u)}) {
    const int64_t resolution_ms = digits == TimeDigits::kSeconds ? 1000 : 1;
    const auto unix_ms = [] {
      return std::chrono::duration_cast<std::chrono::milliseconds>(
                 std::chrono::system_clock::now().time_since_epoch())
          .count();
    };
    const int64_t before = unix_ms();
    const std::string text = utc_now(digits);
    const int64_t after = unix_ms();
    EXPECT_EQ(text.size(), size) << text;
    const Result<int64_t> read = parse_unix_ms(text);
    ASSERT_TRUE(read.ok()) << text;
    EXPECT_GE(read.value(), before - resolution_ms + 1);
    EXPECT_LE(read.value(), after);
  }
}

}  // namespace
}  // namespace slipstream
