#include "base/log.h"

#include <unistd.h>

#include <array>
#include <atomic>

#include "base/json_escape.h"
#include "base/time_text.h"

namespace slipstream {
namespace {

// The one process-wide setting: which lines reach stderr. Written once at start.
std::atomic<int> log_level{static_cast<int>(LogLevel::kWarn)};
std::atomic<int> current_format{static_cast<int>(LogFormat::kText)};

constexpr std::array<const char*, 4> kNames = {"debug", "info", "warn", "error"};

}  // namespace

void set_log(LogLevel level, LogFormat format) {
  log_level = static_cast<int>(level);
  current_format = static_cast<int>(format);
}

bool log_enabled(LogLevel level) { return static_cast<int>(level) >= log_level.load(); }

LogFormat log_format() { return static_cast<LogFormat>(current_format.load()); }

void log_line(LogLevel level, std::string_view topic, std::string_view text) {
  if (!log_enabled(level) || level == LogLevel::kOff) return;
  const char* name = kNames[static_cast<size_t>(level)];
  std::string line;
  if (log_format() == LogFormat::kJson) {
    line = str("{\"time\":\"", utc_now(TimeDigits::kMilliseconds), "\",\"level\":\"", name,
               "\",\"topic\":\"");
    append_json_escaped(line, topic);
    line += "\",\"text\":\"";
    append_json_escaped(line, text);
    line += "\"}\n";
  } else {
    line = str(utc_now(TimeDigits::kMilliseconds), " ", name, " ", topic, " ", text, "\n");
  }
  // A log line that cannot be written is dropped: logging never stops the engine.
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace slipstream
