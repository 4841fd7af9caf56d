#include "base/trace.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>

#include "base/json_escape.h"
#include "base/log.h"
#include "base/strings.h"
#include "base/write_all.h"

namespace slipstream {
namespace {

constexpr size_t kWriteBytes = 256 << 10;

// Viewers take microseconds; three digits more keep the nanoseconds.
void append_us(std::string& out, int64_t ns) {
  const std::string fraction = std::to_string(ns % 1000);
  out += std::to_string(ns / 1000);
  out += '.';
  out.append(3 - fraction.size(), '0');
  out += fraction;
}

}  // namespace

Result<std::unique_ptr<TraceWriter>> TraceWriter::open(const std::string& path,
                                                       TraceLimits limits) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) {
    return failed(str("trace file ", quote(path), ": ", std::strerror(errno),
                      "; name one in a folder that exists and may be written"));
  }
  return std::unique_ptr<TraceWriter>(new TraceWriter(fd, path, limits));
}

TraceWriter::TraceWriter(int fd, std::string path, TraceLimits limits)
    : fd_(fd), path_(std::move(path)), limits_(limits) {
  buffer_ =
      "[\n{\"ph\":\"M\",\"pid\":1,\"tid\":0,\"name\":\"process_name\","
      "\"args\":{\"name\":\"slipstream\"}}";
  thread_ = std::thread([this] { work(); });
}

TraceWriter::~TraceWriter() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_one();
  thread_.join();
  ::close(fd_);
}

TraceLane* TraceWriter::add_lane(const std::string& name) {
  const std::lock_guard lock(mutex_);
  const int lane_idx = static_cast<int>(lanes_.size()) + 1;
  lanes_.push_back(std::make_unique<TraceLane>(name, lane_idx, limits_.lane_capacity));
  return lanes_.back().get();
}

int64_t TraceWriter::num_dropped() const {
  const std::lock_guard lock(mutex_);
  int64_t sum = num_lost_.load();
  for (const auto& lane : lanes_) sum += lane->num_dropped_.load(std::memory_order_relaxed);
  return sum;
}

void TraceWriter::work() {
  std::unique_lock lock(mutex_);
  while (!stop_) {
    wake_.wait_for(lock, std::chrono::milliseconds(limits_.flush_interval_ms));
    lock.unlock();
    drain();
    lock.lock();
  }
  lock.unlock();
  drain();
  const int64_t num_missing = num_dropped();
  if (num_missing > 0) {
    log_warn("trace", "file=", quote(path_), " ranges that are not in it: ", num_missing);
  }
  if (!failed_) write_all(fd_, "\n]\n");
}

void TraceWriter::drain() {
  std::vector<TraceLane*> lanes;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& lane : lanes_) lanes.push_back(lane.get());
  }
  for (TraceLane* lane : lanes) {
    if (!std::exchange(lane->named_, true)) {
      append_name(lane->lane_idx_, "thread_name", lane->name_);
    }
    uint64_t tail = lane->tail_.load(std::memory_order_relaxed);
    const uint64_t head = lane->head_.load(std::memory_order_acquire);
    for (; tail != head; ++tail) {
      append_range(*lane, lane->ring_[tail % lane->ring_.size()]);
      lane->tail_.store(tail + 1, std::memory_order_release);
      if (buffer_.size() >= kWriteBytes) write_out();
    }
  }
  write_out();
}

void TraceWriter::append_range(const TraceLane& lane, const TraceEvent& event) {
  const auto num_bytes = file_bytes_ + static_cast<int64_t>(buffer_.size());
  if (accepting_ && num_bytes > limits_.max_file_bytes) {
    stop_accepting(str("it reached ", num_bytes, " bytes"));
  }
  if (!accepting_) {
    ++num_lost_;
    return;
  }
  ++buffered_ranges_;
  buffer_ += ",\n{\"ph\":\"X\",\"pid\":1,\"tid\":";
  buffer_ += std::to_string(lane.lane_idx_);
  buffer_ += ",\"name\":\"";
  append_json_escaped(buffer_, event.name);
  buffer_ += "\",\"ts\":";
  append_us(buffer_, std::max<int64_t>(event.begin_ns - start_ns_, 0));
  buffer_ += ",\"dur\":";
  append_us(buffer_, std::max<int64_t>(event.end_ns - event.begin_ns, 0));
  if (event.args[0].name != nullptr) {
    buffer_ += ",\"args\":{";
    for (const TraceEvent::Arg& arg : event.args) {
      if (arg.name == nullptr) break;
      if (buffer_.back() != '{') buffer_ += ',';
      buffer_ += '"';
      append_json_escaped(buffer_, arg.name);
      buffer_ += "\":";
      buffer_ += std::to_string(arg.value);
    }
    buffer_ += '}';
  }
  buffer_ += '}';
}

void TraceWriter::append_name(int lane_idx, std::string_view kind, std::string_view name) {
  buffer_ += str(",\n{\"ph\":\"M\",\"pid\":1,\"tid\":", lane_idx, ",\"name\":\"", kind,
                 "\",\"args\":{\"name\":\"");
  append_json_escaped(buffer_, name);
  buffer_ += "\"}}";
}

void TraceWriter::write_out() {
  if (!failed_ && !write_all(fd_, buffer_)) {
    failed_ = true;
    stop_accepting(std::strerror(errno));
  }
  if (failed_) num_lost_ += buffered_ranges_;
  file_bytes_ += static_cast<int64_t>(buffer_.size());
  buffered_ranges_ = 0;
  buffer_.clear();
}

void TraceWriter::stop_accepting(const std::string& why) {
  accepting_ = false;
  log_warn("trace", "file=", quote(path_), " ends here: ", why);
}

}  // namespace slipstream
