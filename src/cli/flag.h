// Flag: one command-line flag as data. A command's table of flags yields its help, its parser and
// the keys a --config file may use.
//
// Owns names, help texts and the conversion of a value's text. Does not parse a command line:
// main.cc does, with CLI11.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/status.h"

namespace slipstream {

struct FlagText {
  std::string name;          // "max-model-len": without dashes
  std::string short_name;    // "t", or empty
  std::string value;         // what follows it, with its unit: "TOKENS"; empty: a switch
  std::string default_text;  // as help prints it; empty: none
  std::string help;
};

struct Flag {
  FlagText text;
  // Stores the value or says what is wrong with it. A switch gets "true".
  std::function<Status(const std::string& value)> set;
  bool repeats = false;

  bool is_switch() const { return text.value.empty(); }
};

struct Positional {
  std::string name;  // "MODEL"
  std::string help;
  bool required = false;
  std::function<Status(const std::string& value)> set;
  bool repeats = false;
};

Positional text_positional(std::string name, std::string help, bool required,
                           std::function<void(const std::string&)> store);
Flag switch_flag(FlagText text, std::function<void()> store);
Flag text_flag(FlagText text, std::function<void(const std::string&)> store);
// Whole numbers from `min` to `max`; the message gives both.
struct FlagRange {
  int64_t min = 0;
  int64_t max = INT32_MAX;
};
Flag int_flag(FlagText text, FlagRange range, std::function<void(int64_t)> store);
// Any whole number of 64 bits, not negative: what a drawn seed may be.
Flag seed_flag(FlagText text, std::function<void(uint64_t)> store);
struct FlagNumberRange {
  double min = 0.0;
  double max = 1.0;
  bool min_excluded = false;
};
Flag number_flag(FlagText text, FlagNumberRange range, std::function<void(double)> store);
// One of `choices`; the message lists them. `unavailable` says why other values are refused.
Flag choice_flag(FlagText text, std::vector<std::string> choices,
                 std::function<void(const std::string&)> store, std::string unavailable = "");

// Decimal text of a whole number that fits; nothing before or after it.
Result<int64_t> parse_int(const std::string& text);
Result<double> parse_number(const std::string& text);

}  // namespace slipstream
