// TraceWriter: what each thread did when, as Chrome trace JSON (Perfetto and chrome://tracing).
//
//   TraceLane* lane = trace == nullptr ? nullptr : trace->add_lane("engine");   // once per thread
//   { TraceRange range(lane, "forward"); range.arg("tokens", num_tokens); ... }
//
// Owns the file and the thread that writes it. A lane belongs to one thread; its ring is bounded,
// so a thread never waits for the disk: what does not fit is dropped and counted. Tracing that is
// off is a null lane: one pointer test a range. Lanes end with their writer, which must outlive
// every thread that holds one.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_set>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/status.h"

namespace slipstream {

struct TraceEvent {
  struct Arg {
    const char* name = nullptr;  // a literal; null ends the list
    int64_t value = 0;
  };
  const char* name = "";  // a literal, or kept by the lane: it is read after the range ended
  int64_t begin_ns = 0;   // steady clock
  int64_t end_ns = 0;
  std::array<Arg, 3> args{};
};

// A ring of events with one thread that adds and one, the writer's, that takes.
class TraceLane {
 public:
  TraceLane(std::string name, int lane_idx, size_t capacity)
      : name_(std::move(name)), lane_idx_(lane_idx), ring_(capacity) {}

  void add(const TraceEvent& event) {
    const uint64_t head = head_.load(std::memory_order_relaxed);
    if (head - tail_.load(std::memory_order_acquire) == ring_.size()) {
      num_dropped_.fetch_add(1, std::memory_order_relaxed);
      return;
    }
    ring_[head % ring_.size()] = event;
    head_.store(head + 1, std::memory_order_release);
  }

  // `name` for as long as the lane lives.
  const char* keep(const std::string& name) { return names_.insert(name).first->c_str(); }

 private:
  friend class TraceWriter;
  const std::string name_;
  const int lane_idx_;
  std::vector<TraceEvent> ring_;
  alignas(64) std::atomic<uint64_t> head_{0};
  alignas(64) std::atomic<uint64_t> tail_{0};
  std::atomic<int64_t> num_dropped_{0};
  std::unordered_set<std::string> names_;  // what is in it never moves
  bool named_ = false;                     // the writer's: the file knows the name
};

// What lies between construction and destruction, on a lane that may be null.
class TraceRange {
 public:
  TraceRange(TraceLane* lane, const char* name) : lane_(lane) {
    if (lane_ == nullptr) return;
    event_.name = name;
    event_.begin_ns = steady_now_ns();
  }
  TraceRange(const TraceRange&) = delete;
  TraceRange& operator=(const TraceRange&) = delete;
  ~TraceRange() {
    if (lane_ == nullptr) return;
    event_.end_ns = steady_now_ns();
    lane_->add(event_);
  }
  // At most three; `name` is a literal.
  void arg(const char* name, int64_t value) {
    if (lane_ == nullptr || num_args_ == event_.args.size()) return;
    event_.args[num_args_++] = {name, value};
  }

 private:
  TraceLane* lane_;
  TraceEvent event_;
  size_t num_args_ = 0;
};

struct TraceLimits {
  int64_t max_file_bytes = int64_t{1} << 30;  // then ranges are dropped
  size_t lane_capacity = 16'384;              // ranges a thread may be ahead of the file
  int64_t flush_interval_ms = 100;
};

class TraceWriter {
 public:
  // Creates or replaces the file.
  static Result<std::unique_ptr<TraceWriter>> open(const std::string& path,
                                                   TraceLimits limits = {});
  // Writes what the lanes still hold and ends the document. A process that is killed leaves a file
  // without its last bracket, which the viewers accept.
  ~TraceWriter();
  TraceWriter(const TraceWriter&) = delete;
  TraceWriter& operator=(const TraceWriter&) = delete;

  // From any thread. Two lanes of one name stay apart.
  TraceLane* add_lane(const std::string& name);
  // Ranges that are not in the file: a full ring, the size limit, a failed write.
  int64_t num_dropped() const;

 private:
  TraceWriter(int fd, std::string path, TraceLimits limits);
  void work();
  void drain();
  void append_range(const TraceLane& lane, const TraceEvent& event);
  void append_name(int lane_idx, std::string_view kind, std::string_view name);
  void write_out();
  void stop_accepting(const std::string& why);

  const int fd_;
  const std::string path_;
  const TraceLimits limits_;
  const int64_t start_ns_ = steady_now_ns();
  // The writing thread's:
  std::string buffer_;
  int64_t buffered_ranges_ = 0;
  int64_t file_bytes_ = 0;
  bool accepting_ = true;  // until the file is as long as it may be, or could not be written
  bool failed_ = false;    // the last write did not reach the file

  std::atomic<int64_t> num_lost_{0};  // taken from a ring but not in the file
  mutable std::mutex mutex_;          // guards lanes_ and stop_
  std::condition_variable wake_;
  std::vector<std::unique_ptr<TraceLane>> lanes_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace slipstream
