#include "server/auth.h"

#include <gtest/gtest.h>

#include <string>

#include "base/temp_folder_for_test.h"
#include "server/key_usage.h"

namespace slipstream {
namespace {

constexpr int64_t kSecond = 1'000'000'000;

HttpRequest with_header(const std::string& name, const std::string& value) {
  HttpRequest request;
  request.headers = {{name, value}};
  return request;
}

TEST(KeyRing, AKeyIsFoundByEitherHeaderAndByItsWholeTextOnly) {
  KeyRing keys;
  ASSERT_TRUE(keys.add("secret-key-1").ok());
  ASSERT_TRUE(keys.add("secret-key-2", "second").ok());
  const ApiKey* first = keys.find(with_header("authorization", "Bearer secret-key-1"));
  ASSERT_NE(first, nullptr);
  EXPECT_EQ(first->label.substr(0, 4), "key-");
  EXPECT_EQ(first->label.find("secret"), std::string::npos);
  EXPECT_EQ(keys.find(with_header("authorization", "bearer  secret-key-1 ")), first);
  EXPECT_EQ(keys.find(with_header("x-api-key", "secret-key-2"))->label, "second");
  for (const char* wrong : {"", "Bearer", "Bearer ", "Bearer secret-key", "Bearer secret-key-11",
                            "Basic secret-key-1", "secret-key-1", "Bearer secret-key-3"}) {
    EXPECT_EQ(keys.find(with_header("authorization", wrong)), nullptr) << wrong;
  }
  EXPECT_EQ(keys.find(HttpRequest{}), nullptr);
}

TEST(KeyRing, AFileHasOneKeyALineWithAnOptionalLabel) {
  const TempFolder folder;
  KeyRing keys;
  const std::string path = folder.write(
      "keys", "# people\n\nalice:key-of-alice\r\n  key-of-nobody  \nbob:with:colons\n");
  ASSERT_TRUE(keys.add_file(path).ok()) << keys.add_file(path).message();
  EXPECT_EQ(keys.find(with_header("x-api-key", "key-of-alice"))->label, "alice");
  EXPECT_NE(keys.find(with_header("x-api-key", "key-of-nobody")), nullptr);
  EXPECT_EQ(keys.find(with_header("x-api-key", "with:colons"))->label, "bob");
}

TEST(KeyRing, AWrongFileIsRefusedByLineAndNeverShowsAKey) {
  const TempFolder folder;
  for (const char* text : {"alice:", "bad label:long-enough", "k:one-key-twice\none-key-twice",
                           "key with spaces", "", "# only comments\n"}) {
    KeyRing keys;
    const Status status = keys.add_file(folder.write("keys", text));
    ASSERT_FALSE(status.ok()) << text;
    EXPECT_EQ(status.exit_code(), 2);
    EXPECT_NE(status.message().find("keys"), std::string::npos);
    EXPECT_EQ(status.message().find("one-key"), std::string::npos);
  }
  KeyRing keys;
  EXPECT_FALSE(keys.add_file(folder.path() + "/absent").ok());
}

TEST(TokenBucket, HoldsAMinuteAndRefillsEvenly) {
  TokenBucket bucket(60.0);
  for (int i = 0; i < 60; ++i) EXPECT_EQ(bucket.take(1.0, kSecond), 0);
  EXPECT_EQ(bucket.take(1.0, kSecond), 1);
  EXPECT_EQ(bucket.take(10.0, kSecond), 10);
  EXPECT_EQ(bucket.take(1.0, 2 * kSecond), 0);
  EXPECT_EQ(bucket.take(1.0, 2 * kSecond), 1);
  EXPECT_DOUBLE_EQ(bucket.level(3600 * kSecond), 60.0);
  bucket.charge(100.0, 3600 * kSecond);
  EXPECT_EQ(bucket.take(1.0, 3600 * kSecond), 41) << "overdrawn";
}

TEST(TokenBucket, MoreThanItHoldsPassesWhenItIsFull) {
  TokenBucket bucket(10.0);
  EXPECT_EQ(bucket.take(25.0, kSecond), 0);
  EXPECT_EQ(bucket.take(1.0, kSecond), 96);
}

TEST(KeyUsage, EachKeyHasItsOwnRatesAndSlots) {
  KeyUsage usage({.requests_per_minute = 2, .tokens_per_minute = 100, .max_concurrent = 1});
  const ApiKey a, b;
  EXPECT_FALSE(usage.admit(&a, kSecond).has_value());
  const auto busy = usage.admit(&a, kSecond);
  ASSERT_TRUE(busy.has_value());
  EXPECT_EQ(busy->status, 429);
  EXPECT_FALSE(usage.admit(&b, kSecond).has_value());
  usage.finish(&a);
  EXPECT_FALSE(usage.admit(&a, kSecond).has_value());
  usage.finish(&a);
  const auto too_many = usage.admit(&a, kSecond);
  ASSERT_TRUE(too_many.has_value());
  EXPECT_EQ(too_many->retry_after_s, 30);
  EXPECT_EQ(usage.num_running(&a), 0);
  EXPECT_EQ(usage.num_running(&b), 1);
}

TEST(KeyUsage, TokensThatWereUsedAreWaitedForAndShown) {
  KeyUsage usage({.tokens_per_minute = 60});
  EXPECT_FALSE(usage.admit(nullptr, kSecond).has_value());
  usage.charge_tokens(nullptr, 90, kSecond);
  HttpHeaders headers;
  usage.append_headers(nullptr, kSecond, headers);
  const HttpHeaders expected = {{"x-ratelimit-limit-tokens", "60"},
                                {"x-ratelimit-remaining-tokens", "0"},
                                {"x-ratelimit-reset-tokens", "90s"}};
  EXPECT_EQ(headers, expected);
  const auto refusal = usage.admit(nullptr, kSecond);
  ASSERT_TRUE(refusal.has_value());
  EXPECT_EQ(refusal->retry_after_s, 31);
  EXPECT_FALSE(usage.admit(nullptr, 33 * kSecond).has_value());
}

}  // namespace
}  // namespace slipstream
