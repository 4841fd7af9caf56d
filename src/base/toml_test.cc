#include "base/toml.h"

#include <gtest/gtest.h>

namespace slipstream {
namespace {

TEST(Toml, BecomesJsonOfTheSameTypes) {
  const Result<Json> parsed = parse_toml(
      "text = 'a'\nwhole = 3\nreal = 0.5\non = true\nlist = ['x', 'y']\n[table]\nday = "
      "2026-01-02\n",
      "t.toml");
  ASSERT_TRUE(parsed.ok()) << parsed.status().message();
  // Keys come in the order of their names.
  EXPECT_EQ(parsed.value(), (Json{{"list", {"x", "y"}},
                                  {"on", true},
                                  {"real", 0.5},
                                  {"table", {{"day", "2026-01-02"}}},
                                  {"text", "a"},
                                  {"whole", 3}}));
}

TEST(Toml, ErrorNamesFileAndLine) {
  const Result<Json> parsed = parse_toml("a = 1\nb = \n", "t.toml");
  ASSERT_FALSE(parsed.ok());
  EXPECT_EQ(parsed.status().code(), StatusCode::kBadUsage);
  EXPECT_NE(parsed.status().message().find("t.toml: line 2"), std::string::npos)
      << parsed.status().message();
}

TEST(Toml, DeepNestingIsRefused) {
  EXPECT_FALSE(
      parse_toml("a = " + std::string(100'000, '[') + std::string(100'000, ']'), "t").ok());
}

}  // namespace
}  // namespace slipstream
