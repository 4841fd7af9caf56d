#include "server/access_log.h"

#include <limits.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <utility>

#include "base/json_escape.h"
#include "base/strings.h"
#include "base/time_text.h"

namespace slipstream {
namespace {

constexpr size_t kMaxShownBytes = 128;  // of a label or path that a client chose: whole ids
constexpr int kStallMs = 200;           // how often a stalled reader is asked again

std::string one_decimal(double value) {
  std::array<char, 48> text{};
  std::snprintf(text.data(), text.size(), "%.1f", std::isfinite(value) ? value : 0.0);
  return text.data();
}

// Builds `key=value` pairs or JSON members; client text is escaped in both.
class Fields {
 public:
  explicit Fields(LogFormat format) : is_json_(format == LogFormat::kJson) {}

  void label(const char* name, const std::string& value) {
    if (value.empty()) return;
    begin(name);
    if (is_json_) {
      out_ += '"';
      append_json_escaped(out_, std::string_view(value).substr(0, kMaxShownBytes));
      out_ += '"';
    } else if (is_plain(value)) {
      out_ += value;
    } else {
      out_ += quote(value, kMaxShownBytes);
    }
  }
  void number(const char* name, const std::string& value) {
    begin(name);
    out_ += value;
  }
  std::string take() { return is_json_ ? "{" + out_ + "}" : std::move(out_); }

 private:
  void begin(const char* name) {
    if (!out_.empty()) out_ += is_json_ ? "," : " ";
    out_ += is_json_ ? str("\"", name, "\":") : str(name, "=");
  }
  // Needs no quotes to stay one field of one line.
  static bool is_plain(const std::string& value) {
    if (value.size() > kMaxShownBytes) return false;
    for (const char c : value) {
      if (c <= ' ' || c > '~' || c == '"' || c == '\'' || c == '=' || c == '\\') return false;
    }
    return true;
  }

  bool is_json_;
  std::string out_;
};

// Bytes written; 0: the reader took none within `kStallMs`; negative: it never will.
ssize_t write_some(int fd, std::string_view text) {
  pollfd watched{fd, POLLOUT, 0};
  if (::poll(&watched, 1, kStallMs) == 0) return 0;
  // A pipe that polls writable takes this much without blocking.
  const ssize_t written = ::write(fd, text.data(), std::min<size_t>(text.size(), PIPE_BUF));
  return written < 0 && (errno == EINTR || errno == EAGAIN) ? 0 : written;
}

}  // namespace

std::string format_access_line(const AccessLogLine& line, LogFormat format) {
  Fields fields(format);
  if (format == LogFormat::kJson) {
    fields.label("time", utc_now(TimeDigits::kMilliseconds));
    fields.label("topic", "request");
  }
  fields.label("id", line.request_id);
  fields.label("key", line.key_label);
  fields.label("method", line.method);
  fields.label("route", line.route);
  fields.number("status", std::to_string(line.status));
  if (line.has_call) {
    const CallRecord& call = line.call;
    fields.label("model", call.model);
    fields.number("in", std::to_string(call.input_tokens));
    fields.number("cached", std::to_string(call.cached_tokens));
    fields.number("out", std::to_string(call.output_tokens));
    fields.number("ttft_ms", one_decimal(call.ttft_ms));
    fields.number("tok_s", one_decimal(call.decode_tok_s));
    fields.label("finish", call.finish);
    fields.label("user", call.user);
  }
  fields.number("bytes", std::to_string(line.body_bytes));
  fields.number("ms", one_decimal(line.duration_ms));
  const std::string text = fields.take();
  return format == LogFormat::kJson
             ? text
             : str(utc_now(TimeDigits::kMilliseconds), " info request ", text);
}

AccessLog::AccessLog(Options options) : options_(options), thread_([this] { write_lines(); }) {}

AccessLog::~AccessLog() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

void AccessLog::record(const AccessLogLine& line) {
  std::string text = format_access_line(line, options_.format) + "\n";
  {
    const std::lock_guard lock(mutex_);
    if (lines_.size() >= options_.max_queued_lines) {
      ++num_dropped_;
      return;
    }
    lines_.push_back(std::move(text));
    if (lines_.size() > 1) return;  // the writer is awake, or about to be
  }
  changed_.notify_one();
}

int64_t AccessLog::num_dropped() const {
  const std::lock_guard lock(mutex_);
  return num_dropped_;
}

void AccessLog::write_lines() {
  for (;;) {
    std::deque<std::string> batch;
    bool stopping = false;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return stopping_ || !lines_.empty(); });
      batch.swap(lines_);
      stopping = stopping_;
    }
    std::string text;
    for (const std::string& line : batch) text += line;
    std::string_view rest = text;
    while (!rest.empty()) {
      const ssize_t written = write_some(options_.fd, rest);
      if (written > 0) {
        rest.remove_prefix(static_cast<size_t>(written));
        continue;
      }
      const std::lock_guard lock(mutex_);
      if (written < 0) {
        num_dropped_ += static_cast<int64_t>(std::count(rest.begin(), rest.end(), '\n'));
        break;
      }
      if (stopping_) return;  // still stalled
    }
    if (stopping) return;
  }
}

}  // namespace slipstream
