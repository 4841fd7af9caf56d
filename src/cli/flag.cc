#include "cli/flag.h"

#include <charconv>
#include <cmath>
#include <utility>

#include "base/strings.h"

namespace slipstream {
namespace {

std::string shown(const std::string& name, const std::string& value) {
  return str("--", name, " ", quote(value));
}

std::string join(const std::vector<std::string>& items) {
  std::string text;
  for (const std::string& item : items) text += (text.empty() ? "" : ", ") + item;
  return text;
}

template <typename T>
Result<T> parse_all(const std::string& text, const char* what) {
  T value{};
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error == std::errc::result_out_of_range) return bad_usage("out of range");
  if (error != std::errc{} || stop != end) return bad_usage(str("not ", what));
  return value;
}

}  // namespace

Result<int64_t> parse_int(const std::string& text) {
  return parse_all<int64_t>(text, "a whole number");
}

Result<double> parse_number(const std::string& text) {
  Result<double> value = parse_all<double>(text, "a number");
  if (value.ok() && !std::isfinite(value.value())) return bad_usage("not a finite number");
  return value;
}

Flag switch_flag(FlagText text, std::function<void()> store) {
  return {std::move(text), [store = std::move(store)](const std::string&) {
            store();
            return Status();
          }};
}

Positional text_positional(std::string name, std::string help, bool required,
                           std::function<void(const std::string&)> store) {
  return {std::move(name), std::move(help), required,
          [store = std::move(store)](const std::string& value) {
            store(value);
            return Status();
          }};
}

Flag text_flag(FlagText text, std::function<void(const std::string&)> store) {
  return {std::move(text), [store = std::move(store)](const std::string& value) {
            store(value);
            return Status();
          }};
}

Flag int_flag(FlagText text, FlagRange range, std::function<void(int64_t)> store) {
  const std::string name = text.name;
  auto set = [name, range, store = std::move(store)](const std::string& value) -> Status {
    const Result<int64_t> number = parse_int(value);
    if (!number.ok()) return number.status().in(shown(name, value));
    if (number.value() < range.min || number.value() > range.max) {
      return bad_usage(str(shown(name, value), ": must be from ", range.min, " to ", range.max));
    }
    store(number.value());
    return {};
  };
  return {std::move(text), std::move(set)};
}

Flag seed_flag(FlagText text, std::function<void(uint64_t)> store) {
  const std::string name = text.name;
  auto set = [name, store = std::move(store)](const std::string& value) -> Status {
    const Result<uint64_t> number = parse_all<uint64_t>(value, "a whole number from 0 to 2^64 - 1");
    if (!number.ok()) return number.status().in(shown(name, value));
    store(number.value());
    return {};
  };
  return {std::move(text), std::move(set)};
}

Flag number_flag(FlagText text, FlagNumberRange range, std::function<void(double)> store) {
  const std::string name = text.name;
  auto set = [name, range, store = std::move(store)](const std::string& value) -> Status {
    const Result<double> number = parse_number(value);
    if (!number.ok()) return number.status().in(shown(name, value));
    const double x = number.value();
    if (x < range.min || x > range.max || (range.min_excluded && x <= range.min)) {
      return bad_usage(str(shown(name, value), ": must be ",
                           range.min_excluded ? "above " : "from ", range.min,
                           range.min_excluded ? " and at most " : " to ", range.max));
    }
    store(x);
    return {};
  };
  return {std::move(text), std::move(set)};
}

Flag choice_flag(FlagText text, std::vector<std::string> choices,
                 std::function<void(const std::string&)> store, std::string unavailable) {
  const std::string name = text.name;
  auto set = [name, choices = std::move(choices), store = std::move(store),
              unavailable = std::move(unavailable)](const std::string& value) -> Status {
    for (const std::string& choice : choices) {
      if (value == choice) {
        store(value);
        return {};
      }
    }
    return bad_usage(str(shown(name, value), ": ",
                         unavailable.empty() ? "not a choice" : unavailable,
                         "; available: ", join(choices)));
  };
  return {std::move(text), std::move(set)};
}

}  // namespace slipstream
