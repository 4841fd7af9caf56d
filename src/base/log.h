// One-line logs, key=value, to stderr.
//
//   log_info("load", "model=", name, " bytes=", n);   ->   I load model=x bytes=3
//
// Thread-safe: a line is written with one write call. The level is set once at start. Never throws:
// a line that there is no memory for is dropped, because it may be about just that.
#pragma once

#include <new>
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
void log_at(LogLevel level, std::string_view topic, const Args&... args) noexcept {
  if (!log_enabled(level)) return;
  try {
    log_line(level, topic, str(args...));
  } catch (const std::bad_alloc&) {
  }
}

template <typename... Args>
void log_debug(std::string_view topic, const Args&... args) noexcept {
  log_at(LogLevel::kDebug, topic, args...);
}
template <typename... Args>
void log_info(std::string_view topic, const Args&... args) noexcept {
  log_at(LogLevel::kInfo, topic, args...);
}
template <typename... Args>
void log_warn(std::string_view topic, const Args&... args) noexcept {
  log_at(LogLevel::kWarn, topic, args...);
}
template <typename... Args>
void log_error(std::string_view topic, const Args&... args) noexcept {
  log_at(LogLevel::kError, topic, args...);
}

}  // namespace slipstream
