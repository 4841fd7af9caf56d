// ConfigChecker: a TOML document against rules, and every problem with its file and line.
//
// Knows tables, keys and types; what the values mean is for whoever calls it.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/toml.h"

namespace slipstream {

enum class ValueKind : uint8_t { kText, kWhole, kNumber, kFlag, kTexts, kWholes, kTable, kTables };

struct KeyRule {
  const char* name;
  ValueKind kind;
  bool is_required;
  const char* example;  // the fix when it is missing or of another type
};

class ConfigChecker {
 public:
  ConfigChecker(const TomlDocument& document, std::string file)
      : document_(document), file_(std::move(file)) {}

  // Unknown, missing and mistyped keys of the table at `path` ("" is the document).
  void check_table(const Json& table, const std::string& path, std::span<const KeyRule> rules);
  // At the line of `path`, or of what holds it.
  void report(const std::string& path, const std::string& problem);
  bool ok() const { return problems_.empty(); }
  // "FILE:LINE: problem", by line.
  std::vector<std::string> problems() const;

  // Values that may be of another type, which check_table() has reported: empty then.
  static std::string text(const Json& table, std::string_view key);
  static std::vector<std::string> texts(const Json& table, std::string_view key);
  static const Json& table(const Json& table, std::string_view key);
  static const Json& tables(const Json& table, std::string_view key);
  static double number(const Json& table, std::string_view key, double fallback);

 private:
  int line_of(std::string path) const;

  struct Problem {
    int line = 0;
    std::string text;
  };
  const TomlDocument& document_;
  std::string file_;
  std::vector<Problem> problems_;
};

// "a, b, c"
std::string list_text(const std::vector<std::string>& names);

}  // namespace slipstream
