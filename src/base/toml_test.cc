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

TEST(Toml, EveryKeyAndElementHasItsLine) {
  const Result<TomlDocument> parsed = parse_toml_with_lines(
      "a = 1\n[t.u]\nb = ['x',\n 'y']\n[[rows]]\nn = 1\n[[rows]]\nn = 2\n", "t.toml");
  ASSERT_TRUE(parsed.ok()) << parsed.status().message();
  const std::map<std::string, int>& lines = parsed->lines;
  EXPECT_EQ(lines.at("a"), 1);
  EXPECT_EQ(lines.at("t.u.b"), 3);
  EXPECT_EQ(lines.at("t.u.b[1]"), 4);
  EXPECT_EQ(lines.at("rows[0].n"), 6);
  EXPECT_EQ(lines.at("rows[1].n"), 8);
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
