// AccessLog: one line for every request, never with a prompt, an answer or a key.
//
// Lines are handed to a thread of its own through a bounded queue: when whoever reads the log
// stalls, lines are dropped and counted and serving goes on. Everything a client wrote is escaped.
// record() is for the network thread; num_dropped() for any.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <string>
#include <thread>

#include "base/log.h"

namespace slipstream {

// What a call that generates adds to the line of its request: see ResponseWriter::note().
struct CallRecord {
  std::string model;
  int64_t input_tokens = 0;
  int64_t cached_tokens = 0;
  int64_t output_tokens = 0;
  double ttft_ms = 0.0;       // 0: no token came
  double decode_tok_s = 0.0;  // 0: fewer than two tokens
  std::string finish;         // "stop", "length", "abort", "error", "deadline"
  std::string user;           // the client's own label
};

struct AccessLogLine {
  std::string request_id;
  std::string key_label;  // empty: no key
  std::string method;
  std::string route;  // the route's pattern, or the path where none matched
  int status = 0;     // 499: the client left first
  int64_t body_bytes = 0;
  double duration_ms = 0.0;
  bool has_call = false;
  CallRecord call;
};

// One line without its newline.
std::string format_access_line(const AccessLogLine& line, LogFormat format);

class AccessLog {
 public:
  struct Options {
    int fd = 2;
    LogFormat format = LogFormat::kText;
    size_t max_queued_lines = 4096;
  };

  explicit AccessLog(Options options);
  // Writes what is queued unless the reader is stalled.
  ~AccessLog();
  AccessLog(const AccessLog&) = delete;
  AccessLog& operator=(const AccessLog&) = delete;

  void record(const AccessLogLine& line);
  int64_t num_dropped() const;

 private:
  void write_lines();

  const Options options_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::string> lines_;
  int64_t num_dropped_ = 0;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace slipstream
