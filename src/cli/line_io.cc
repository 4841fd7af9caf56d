#include "cli/line_io.h"

#include <errno.h>
#include <signal.h>
#include <unistd.h>

#include <array>
#include <cstring>

#include "base/strings.h"
#include "base/utf8.h"

namespace slipstream {
namespace {

constexpr size_t kFlushBytes = 64u << 10;

// read(2) that is not disturbed by signals; -1 with errno on failure.
ssize_t read_some(int fd, char* data, size_t size) {
  for (;;) {
    const ssize_t count = ::read(fd, data, size);
    if (count >= 0 || errno != EINTR) return count;
  }
}

// 0 when all is written, else errno.
int write_fully(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t count = ::write(fd, text.data(), text.size());
    if (count < 0) {
      if (errno == EINTR) continue;
      return errno;
    }
    text.remove_prefix(static_cast<size_t>(count));
  }
  return 0;
}

}  // namespace

Output::Output() { ::signal(SIGPIPE, SIG_IGN); }

Output::~Output() { flush(); }

void Output::write(std::string_view text) {
  if (closed_) return;
  buffer_ += text;
  if (buffer_.size() >= kFlushBytes) flush();
}

void Output::flush() {
  if (closed_ || buffer_.empty()) return;
  const int error = write_fully(STDOUT_FILENO, buffer_);
  buffer_.clear();
  if (error == 0) return;
  closed_ = true;
  if (error != EPIPE) status_ = failed(str("cannot write to stdout: ", std::strerror(error)));
}

void write_stderr(std::string_view text) { static_cast<void>(write_fully(STDERR_FILENO, text)); }

Result<std::optional<std::string_view>> LineReader::next() {
  for (;;) {
    const size_t newline = buffer_.find('\n', scanned_);
    if (newline != std::string::npos) {
      std::string_view line(buffer_.data() + start_, newline - start_);
      if (ends_with(line, "\r")) line.remove_suffix(1);
      start_ = scanned_ = newline + 1;
      ++line_number_;
      return std::optional(line);
    }
    scanned_ = buffer_.size();
    if (at_end_) {
      if (start_ == buffer_.size()) return std::optional<std::string_view>();
      const std::string_view line(buffer_.data() + start_, buffer_.size() - start_);
      start_ = buffer_.size();
      ++line_number_;
      return std::optional(line);
    }
    if (buffer_.size() - start_ > max_line_bytes_) {
      return bad_usage(
          str("stdin line ", line_number_ + 1, " is longer than ", human_bytes(max_line_bytes_)));
    }
    buffer_.erase(0, start_);
    scanned_ -= start_;
    start_ = 0;
    if (output_ != nullptr) output_->flush();
    const size_t used = buffer_.size();
    buffer_.resize(used + (64u << 10));
    const ssize_t count = read_some(fd_, buffer_.data() + used, buffer_.size() - used);
    buffer_.resize(used + static_cast<size_t>(count > 0 ? count : 0));
    if (count < 0) return failed(str("cannot read stdin: ", std::strerror(errno)));
    if (count == 0) at_end_ = true;
  }
}

Result<std::string> read_all(int fd, uint64_t max_bytes, const std::string& what) {
  std::string text;
  std::array<char, 64u << 10> chunk{};
  for (;;) {
    const ssize_t count = read_some(fd, chunk.data(), chunk.size());
    if (count < 0) return failed(str(what, ": cannot read: ", std::strerror(errno)));
    if (count == 0) return text;
    text.append(chunk.data(), static_cast<size_t>(count));
    if (text.size() > max_bytes) {
      return bad_usage(str(what, ": longer than ", human_bytes(max_bytes)));
    }
  }
}

Status require_utf8(std::string_view text, const std::string& what) {
  for (size_t position = 0; position < text.size();) {
    const Utf8Step step = utf8_decode(text, position);
    if (!step.valid) {
      return bad_usage(str(what, ": not valid UTF-8 at byte ", position, " of ", text.size()));
    }
    position += step.length;
  }
  return {};
}

}  // namespace slipstream
