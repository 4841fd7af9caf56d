// One-line logs, key=value, to stderr.
//
//   log_info("load", "model=", name, " bytes=", n);   ->   I load model=x bytes=3
//
// Thread-safe: a line is written with one write call. The level is set once at start.
#pragma once

#include <string_view>

#include "base/strings.h"

namespace slipstream {

enum class LogLevel : int { kDebug = 0, kInfo = 1, kWarn = 2, kError = 3, kOff = 4 };
enum class LogFormat : int { kText = 0, kJson = 1 };

void set_log(LogLevel level, LogFormat format);
bool log_enabled(LogLevel level);
LogFormat log_format();
void log_line(LogLevel level, std::string_view topic, std::string_view text);

template <typename... Args>
void log_debug(std::string_view topic, const Args&... args) {
  if (log_enabled(LogLevel::kDebug)) log_line(LogLevel::kDebug, topic, str(args...));
}
template <typename... Args>
void log_info(std::string_view topic, const Args&... args) {
  if (log_enabled(LogLevel::kInfo)) log_line(LogLevel::kInfo, topic, str(args...));
}
template <typename... Args>
void log_warn(std::string_view topic, const Args&... args) {
  if (log_enabled(LogLevel::kWarn)) log_line(LogLevel::kWarn, topic, str(args...));
}
template <typename... Args>
void log_error(std::string_view topic, const Args&... args) {
  if (log_enabled(LogLevel::kError)) log_line(LogLevel::kError, topic, str(args...));
}

}  // namespace slipstream
