// Owns the door of the engine: what is thrown inside ends here.
#include "text/jinja/jinja.h"

#include <cstdio>
#include <new>

#include "base/strings.h"
#include "text/jinja/runtime.h"

namespace slipstream::jinja {
namespace {

std::string describe(const Error& error) {
  return error.line > 0
             ? str(error_kind_name(error.kind), ", line ", error.line, ": ", error.message)
             : str(error_kind_name(error.kind), ": ", error.message);
}

// Day of the week, 0 = Sunday, and day of the year of a proleptic Gregorian date.
void fill_calendar(std::tm& time) {
  static constexpr int kDaysBefore[] = {0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334};
  const int year = time.tm_year + 1900;
  const bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
  time.tm_yday = kDaysBefore[time.tm_mon] + time.tm_mday - 1 + (leap && time.tm_mon > 1 ? 1 : 0);
  const int before = year - 1;
  const int days = before * 365 + before / 4 - before / 100 + before / 400 + time.tm_yday;
  time.tm_wday = (days + 1) % 7;  // 1 January of year 1 is a Monday
}

bool is_valid(const std::tm& time) {
  static constexpr int kDays[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
  if (time.tm_year + 1900 < 1 || time.tm_mon < 0 || time.tm_mon > 11) return false;
  const int year = time.tm_year + 1900;
  const bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
  const int days = kDays[time.tm_mon] + (leap && time.tm_mon == 1 ? 1 : 0);
  return time.tm_mday >= 1 && time.tm_mday <= days && time.tm_hour < 24 && time.tm_min < 60 &&
         time.tm_sec < 60;
}

}  // namespace

Result<std::tm> parse_iso_time(std::string_view text) {
  const std::string copy(text);
  unsigned year = 0, month = 0, day = 0, hour = 0, minute = 0, second = 0;
  int date_end = 0;
  int time_end = 0;
  const int num_date = std::sscanf(copy.c_str(), "%4u-%2u-%2u%n", &year, &month, &day, &date_end);
  std::tm time = {};
  const auto end = static_cast<size_t>(date_end);
  bool good = num_date == 3 && date_end == 10;
  if (good && copy.size() > end) {
    const int num_time =
        std::sscanf(copy.c_str() + end, "%*1[T ]%2u:%2u:%2u%n", &hour, &minute, &second, &time_end);
    good = num_time == 3 && time_end == 9;
  }
  time.tm_year = static_cast<int>(year) - 1900;
  time.tm_mon = static_cast<int>(month) - 1;
  time.tm_mday = static_cast<int>(day);
  time.tm_hour = static_cast<int>(hour);
  time.tm_min = static_cast<int>(minute);
  time.tm_sec = static_cast<int>(second);
  time.tm_isdst = -1;
  if (!good || !is_valid(time)) {
    return bad_usage(str("time ", quote(text), " is not like 2026-01-02T03:04:05"));
  }
  fill_calendar(time);
  return time;
}

Result<Template> Template::parse(std::string_view source, const ParseLimits& limits) {
  try {
    return Template(parse_program(source, limits));
  } catch (const Raise& raised) {
    return invalid_model(describe(raised.error));
  } catch (const std::bad_alloc&) {
    return invalid_model("the template needs too much memory");
  }
}

RenderResult Template::render(const Json& variables, const RenderOptions& options) const {
  Interpreter interpreter(*program_, options);
  RenderResult result;
  try {
    result.text = interpreter.run(variables);
  } catch (const Raise& raised) {
    result.error = raised.error;
    if (result.error->line == 0) result.error->line = interpreter.line();
  } catch (const std::bad_alloc&) {
    result.error = {ErrorKind::kLimitError, "the template needs too much memory",
                    interpreter.line()};
  }
  return result;
}

}  // namespace slipstream::jinja
