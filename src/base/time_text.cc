#include "base/time_text.h"

#include <array>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <optional>

#include "base/strings.h"

namespace slipstream {
namespace {

constexpr int64_t kMaxUnixSeconds = 253'402'300'799;  // the end of the year 9999

// Takes what it expects from the front of a text, or nothing.
class Reader {
 public:
  explicit Reader(std::string_view text) : text_(text) {}

  bool at_end() const { return text_.empty(); }
  bool take(std::string_view any_of) {
    if (text_.empty() || any_of.find(text_.front()) == std::string_view::npos) return false;
    text_.remove_prefix(1);
    return true;
  }
  std::optional<int> digits(size_t count) {
    int value = 0;
    if (text_.size() < count) return std::nullopt;
    for (size_t idx = 0; idx < count; ++idx) {
      if (text_[idx] < '0' || text_[idx] > '9') return std::nullopt;
      value = value * 10 + (text_[idx] - '0');
    }
    text_.remove_prefix(count);
    return value;
  }
  // Digits after a decimal point, as thousandths; more than three are cut.
  std::optional<int> thousandths() {
    int value = 0;
    int num_digits = 0;
    while (const std::optional<int> digit = digits(1)) {
      if (num_digits < 3) value = value * 10 + *digit;
      ++num_digits;
    }
    if (num_digits == 0) return std::nullopt;
    for (; num_digits < 3; ++num_digits) value *= 10;
    return value;
  }

 private:
  std::string_view text_;
};

std::optional<int64_t> parse_date(Reader& in) {
  const auto year = in.digits(4);
  if (!year || !in.take("-")) return std::nullopt;
  const auto month = in.digits(2);
  if (!month || !in.take("-")) return std::nullopt;
  const auto day = in.digits(2);
  if (!day) return std::nullopt;
  const std::chrono::year_month_day date{std::chrono::year{*year},
                                         std::chrono::month{static_cast<unsigned>(*month)},
                                         std::chrono::day{static_cast<unsigned>(*day)}};
  if (!date.ok()) return std::nullopt;
  return int64_t{std::chrono::sys_days{date}.time_since_epoch().count()} * 86'400'000;
}

std::optional<int64_t> parse_clock(Reader& in) {
  const auto hour = in.digits(2);
  if (!hour || *hour > 23 || !in.take(":")) return std::nullopt;
  const auto minute = in.digits(2);
  if (!minute || *minute > 59) return std::nullopt;
  int64_t ms = (int64_t{*hour} * 60 + *minute) * 60'000;
  if (!in.take(":")) return ms;
  const auto second = in.digits(2);
  if (!second || *second > 59) return std::nullopt;
  ms += int64_t{*second} * 1'000;
  if (!in.take(".")) return ms;
  const auto rest = in.thousandths();
  if (!rest) return std::nullopt;
  return ms + *rest;
}

// Milliseconds to subtract.
std::optional<int64_t> parse_zone(Reader& in) {
  if (in.at_end()) return 0;
  if (in.take("Zz")) return 0;
  const bool is_east = in.take("+");
  if (!is_east && !in.take("-")) return std::nullopt;
  const auto hours = in.digits(2);
  if (!hours || *hours > 23) return std::nullopt;
  in.take(":");
  const auto minutes = in.digits(2);
  if (!minutes || *minutes > 59) return std::nullopt;
  const int64_t ms = (int64_t{*hours} * 60 + *minutes) * 60'000;
  return is_east ? ms : -ms;
}

std::optional<int64_t> parse_iso(std::string_view text) {
  Reader in(text);
  const auto date_ms = parse_date(in);
  if (!date_ms) return std::nullopt;
  if (in.at_end()) return date_ms;
  if (!in.take("Tt ")) return std::nullopt;
  const auto clock_ms = parse_clock(in);
  if (!clock_ms) return std::nullopt;
  const auto zone_ms = parse_zone(in);
  if (!zone_ms || !in.at_end()) return std::nullopt;
  return *date_ms + *clock_ms - *zone_ms;
}

}  // namespace

Result<int64_t> parse_unix_ms(std::string_view text) {
  if (!text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos) {
    int64_t seconds = 0;
    for (const char c : text) {
      seconds = seconds * 10 + (c - '0');
      if (seconds > kMaxUnixSeconds) {
        return bad_usage(str(quote(text), " lies beyond the year 9999; seconds are expected"));
      }
    }
    return seconds * 1'000;
  }
  const std::optional<int64_t> ms = parse_iso(text);
  if (!ms) {
    return bad_usage(
        str(quote(text), " is not a time; write 2026-03-01, 2026-03-01T12:30:00Z or Unix seconds"));
  }
  return *ms;
}

std::string utc_now(TimeDigits digits) {
  std::timespec now{};
  std::timespec_get(&now, TIME_UTC);
  std::tm utc{};
  gmtime_r(&now.tv_sec, &utc);
  std::array<char, 40> text{};
  std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%S", &utc);
  std::array<char, 16> fraction{};
  if (digits == TimeDigits::kMilliseconds) {
    std::snprintf(fraction.data(), fraction.size(), ".%03d",
                  static_cast<int>(now.tv_nsec / 1'000'000));
  }
  return str(text.data(), fraction.data(), "Z");
}

}  // namespace slipstream
