// Lines in, bytes out: the plumbing of commands that read stdin and write stdout.
//
// Unbuffered towards whoever waits: output is flushed before a read that may block, so a program
// that writes a line and waits for its answer gets it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/status.h"

namespace slipstream {

// stdout. A reader that goes away (a closed pipe) is not an error: writing stops quietly and
// closed() says so. Any other failure, such as a full disk, stays in status().
class Output {
 public:
  Output();  // ignores SIGPIPE from here on
  ~Output();
  Output(const Output&) = delete;
  Output& operator=(const Output&) = delete;

  void write(std::string_view text);  // buffered
  void flush();
  void write_now(std::string_view text) {
    write(text);
    flush();
  }

  bool closed() const { return closed_; }
  const Status& status() const { return status_; }

 private:
  std::string buffer_;
  bool closed_ = false;
  Status status_;
};

// Writes to stderr, without a buffer; failures are ignored.
void write_stderr(std::string_view text);

// Reads a file descriptor line by line.
class LineReader {
 public:
  // `flush_before_wait` is flushed before each read that may block; may be null.
  LineReader(int fd, uint64_t max_line_bytes, Output* flush_before_wait)
      : fd_(fd), max_line_bytes_(max_line_bytes), output_(flush_before_wait) {}

  // The next line without its newline, or none at the end.
  Result<std::optional<std::string_view>> next();
  int64_t line_number() const { return line_number_; }  // of the last line, from 1

 private:
  int fd_;
  uint64_t max_line_bytes_;
  Output* output_;
  std::string buffer_;
  size_t start_ = 0;    // of the unread part
  size_t scanned_ = 0;  // no newline before this
  bool at_end_ = false;
  int64_t line_number_ = 0;
};

// All of a file descriptor; refuses more than `max_bytes`.
Result<std::string> read_all(int fd, uint64_t max_bytes, const std::string& what);

// An error that gives the offset of the first byte that is not valid UTF-8.
Status require_utf8(std::string_view text, const std::string& what);

}  // namespace slipstream
