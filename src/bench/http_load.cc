#include "bench/http_load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <deque>
#include <memory>
#include <string_view>

#include "base/clock.h"
#include "base/strings.h"

namespace slipstream {
namespace {

constexpr int64_t kNsPerMs = 1'000'000;
constexpr size_t kMaxLineBytes = 1u << 20;

// Takes the bytes of one HTTP response apart: status, then the lines of its chunked or plain body.
class ResponseReader {
 public:
  // Calls on_line(line) for every line of the body. False: the response is malformed.
  template <typename OnLine>
  bool feed(std::string_view bytes, OnLine&& on_line) {
    for (const char c : bytes) {
      if (!step(c, on_line)) return false;
    }
    return true;
  }
  int status() const { return status_; }
  bool complete() const { return state_ == State::kDone; }
  const std::string& tail() const { return line_; }  // an unfinished last line

 private:
  enum class State : uint8_t { kHead, kChunkSize, kChunkData, kChunkEnd, kTrailer, kPlain, kDone };

  template <typename OnLine>
  bool step(char c, OnLine&& on_line) {
    switch (state_) {
      case State::kHead:
        if (c != '\n') {
          if (c != '\r') head_line_ += c;
          return head_line_.size() < kMaxLineBytes;
        }
        if (head_line_.empty()) {
          if (chunked_) {
            state_ = State::kChunkSize;
          } else {
            left_ = content_length_;
            state_ = left_ == 0 ? State::kDone : State::kPlain;
          }
          return status_ > 0;
        }
        read_head_line();
        head_line_.clear();
        return true;
      case State::kChunkSize:
        if (c != '\n') {
          if (c != '\r') head_line_ += c;
          return head_line_.size() < 32;
        }
        left_ = -1;
        std::from_chars(head_line_.data(), head_line_.data() + head_line_.size(), left_, 16);
        head_line_.clear();
        if (left_ < 0) return false;
        state_ = left_ == 0 ? State::kTrailer : State::kChunkData;
        return true;
      case State::kChunkData:
        take(c, on_line);
        if (--left_ == 0) state_ = State::kChunkEnd;
        return line_.size() < kMaxLineBytes;
      case State::kChunkEnd:
        if (c == '\n') state_ = State::kChunkSize;
        return c == '\r' || c == '\n';
      case State::kTrailer:
        if (c == '\n') state_ = State::kDone;
        return true;
      case State::kPlain:
        take(c, on_line);
        if (--left_ == 0) state_ = State::kDone;
        return line_.size() < kMaxLineBytes;
      case State::kDone:
        return false;
    }
    return false;
  }
  template <typename OnLine>
  void take(char c, OnLine&& on_line) {
    if (c != '\n') {
      line_ += c;
      return;
    }
    on_line(std::string_view(line_));
    line_.clear();
  }
  void read_head_line() {
    if (status_ == 0) {
      if (head_line_.size() > 12) {
        std::from_chars(head_line_.data() + 9, head_line_.data() + 12, status_);
      }
      return;
    }
    std::transform(head_line_.begin(), head_line_.end(), head_line_.begin(),
                   [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
    if (starts_with(head_line_, "transfer-encoding:")) {
      chunked_ = head_line_.find("chunked") != std::string::npos;
    }
    constexpr std::string_view kLength = "content-length:";
    if (starts_with(head_line_, kLength)) {
      const size_t digits = head_line_.find_first_of("0123456789");
      if (digits != std::string::npos) {
        std::from_chars(head_line_.data() + digits, head_line_.data() + head_line_.size(),
                        content_length_);
      }
    }
  }

  State state_ = State::kHead;
  int status_ = 0;
  bool chunked_ = false;
  int64_t content_length_ = 0;
  int64_t left_ = 0;
  std::string head_line_;
  std::string line_;
};

int64_t int_after(std::string_view text, std::string_view key) {
  const size_t at = text.find(key);
  if (at == std::string_view::npos) return -1;
  int64_t value = -1;
  std::from_chars(text.data() + at + key.size(), text.data() + text.size(), value);
  return value;
}

struct Connection {
  int fd = -1;
  size_t request_idx = 0;
  std::string out;
  size_t sent = 0;
  ResponseReader reader;
  bool done_seen = false;
};

class Load {
 public:
  Load(const HttpTarget& target, const std::vector<LoadRequest>& requests,
       const LoadOptions& options)
      : target_(target), requests_(requests), options_(options), times_(requests.size()) {}
  ~Load() {
    for (const auto& connection : connections_) {
      if (connection && connection->fd >= 0) ::close(connection->fd);
    }
    for (const int fd : idle_) ::close(fd);
    if (epoll_ >= 0) ::close(epoll_);
  }

  Result<std::vector<StreamTimes>> run();

 private:
  Result<int> open_socket() const;
  Status hold_idle();
  Status start(size_t request_idx);
  void on_ready(Connection& connection, uint32_t events);
  void write_some(Connection& connection);
  bool read_some(Connection& connection);
  void on_line(Connection& connection, std::string_view line, int64_t now_ns);
  void finish(Connection& connection, std::string error);

  const HttpTarget& target_;
  const std::vector<LoadRequest>& requests_;
  const LoadOptions& options_;
  std::vector<StreamTimes> times_;
  int epoll_ = -1;
  std::vector<int> idle_;
  std::vector<std::unique_ptr<Connection>> connections_;
  std::vector<size_t> free_;  // indices into connections_
  int64_t num_in_flight_ = 0;
};

Result<int> Load::open_socket() const {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return failed(str("socket: ", strerror(errno)));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(target_.port));
  ::inet_pton(AF_INET, target_.host.c_str(), &address.sin_addr);
  if (::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    const std::string why = strerror(errno);
    ::close(fd);
    return failed(str("cannot connect to ", target_.host, ":", target_.port, ": ", why));
  }
  const int on = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  ::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) | O_NONBLOCK);
  return fd;
}

Status Load::hold_idle() {
  for (int64_t i = 0; i < options_.num_idle_connections; ++i) {
    SLIPSTREAM_ASSIGN_OR_RETURN(const int fd, open_socket());
    idle_.push_back(fd);
  }
  return {};
}

Status Load::start(size_t request_idx) {
  auto connection = std::make_unique<Connection>();
  SLIPSTREAM_ASSIGN_OR_RETURN(connection->fd, open_socket());
  connection->request_idx = request_idx;
  const std::string& body = requests_[request_idx].body;
  connection->out = str(
      "POST ", target_.path, " HTTP/1.1\r\nhost: ", target_.host, ":", target_.port,
      "\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: ", body.size(),
      target_.api_key.empty() ? "" : "\r\nauthorization: Bearer " + target_.api_key, "\r\n\r\n",
      body);
  size_t place = connections_.size();
  if (free_.empty()) {
    connections_.emplace_back();
  } else {
    place = free_.back();
    free_.pop_back();
  }
  epoll_event event{};
  event.events = EPOLLIN | EPOLLRDHUP;
  event.data.u64 = place;
  ::epoll_ctl(epoll_, EPOLL_CTL_ADD, connection->fd, &event);
  connections_[place] = std::move(connection);
  ++num_in_flight_;
  times_[request_idx].sent_ns = steady_now_ns();
  write_some(*connections_[place]);
  return {};
}

void Load::write_some(Connection& connection) {
  while (connection.sent < connection.out.size()) {
    const ssize_t count = ::send(connection.fd, connection.out.data() + connection.sent,
                                 connection.out.size() - connection.sent, MSG_NOSIGNAL);
    if (count > 0) {
      connection.sent += static_cast<size_t>(count);
      continue;
    }
    if (errno == EAGAIN) {
      // Bodies are small: the kernel takes them within one wake-up of the other side.
      epoll_event event{};
      event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP;
      for (size_t i = 0; i < connections_.size(); ++i) {
        if (connections_[i].get() == &connection) event.data.u64 = i;
      }
      ::epoll_ctl(epoll_, EPOLL_CTL_MOD, connection.fd, &event);
    }
    return;
  }
}

void Load::on_line(Connection& connection, std::string_view line, int64_t now_ns) {
  StreamTimes& times = times_[connection.request_idx];
  if (!starts_with(line, "data: ")) return;
  line.remove_prefix(6);
  if (line == "[DONE]") {
    connection.done_seen = true;
    return;
  }
  if (starts_with(line, "{\"error\"")) {
    times.error = std::string(line.substr(0, 300));
    return;
  }
  const int64_t tokens = int_after(line, "\"completion_tokens\":");
  if (tokens >= 0) times.completion_tokens = tokens;
  if (line.find("\"choices\":[]") == std::string_view::npos) times.event_ns.push_back(now_ns);
}

// False: the response is over.
bool Load::read_some(Connection& connection) {
  std::array<char, 16384> buffer;
  for (;;) {
    const ssize_t count = ::recv(connection.fd, buffer.data(), buffer.size(), 0);
    if (count > 0) {
      const int64_t now_ns = steady_now_ns();
      const bool fine =
          connection.reader.feed({buffer.data(), static_cast<size_t>(count)},
                                 [&](std::string_view line) { on_line(connection, line, now_ns); });
      if (!fine && !connection.reader.complete()) {
        finish(connection, "a malformed response");
        return false;
      }
      if (connection.reader.complete()) {
        finish(connection, "");
        return false;
      }
      if (static_cast<size_t>(count) < buffer.size()) return true;
      continue;
    }
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) return true;
    finish(connection, count == 0 ? "the server closed the connection early" : strerror(errno));
    return false;
  }
}

void Load::finish(Connection& connection, std::string error) {
  StreamTimes& times = times_[connection.request_idx];
  times.ended_ns = steady_now_ns();
  if (times.error.empty()) times.error = std::move(error);
  if (times.error.empty() && connection.reader.status() != 200) {
    times.error =
        str("HTTP ", connection.reader.status(), " ", connection.reader.tail().substr(0, 200));
  }
  if (times.error.empty() && !connection.done_seen) times.error = "a stream without [DONE]";
  times.ok = times.error.empty();
  ::close(connection.fd);
  connection.fd = -1;
  --num_in_flight_;
}

void Load::on_ready(Connection& connection, uint32_t events) {
  if ((events & EPOLLOUT) != 0) write_some(connection);
  if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) read_some(connection);
}

Result<std::vector<StreamTimes>> Load::run() {
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) == 0) {
    files.rlim_cur = files.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &files);
  }
  epoll_ = ::epoll_create1(EPOLL_CLOEXEC);
  if (epoll_ < 0) return failed(str("epoll: ", strerror(errno)));
  SLIPSTREAM_RETURN_IF_ERROR(hold_idle());
  const int64_t start_ns = steady_now_ns();
  const int64_t give_up_ns = start_ns + options_.timeout_ms * kNsPerMs;
  size_t next = 0;
  std::array<epoll_event, 512> events;
  while (next < requests_.size() || num_in_flight_ > 0) {
    const int64_t now_ns = steady_now_ns();
    if (now_ns > give_up_ns) return failed("the run outlasted its time limit");
    while (next < requests_.size() && num_in_flight_ < options_.max_concurrency &&
           start_ns + requests_[next].send_at_ns <= steady_now_ns()) {
      SLIPSTREAM_RETURN_IF_ERROR(start(next++));
    }
    int wait_ms = 100;
    if (next < requests_.size() && num_in_flight_ < options_.max_concurrency) {
      const int64_t until_ns = start_ns + requests_[next].send_at_ns - steady_now_ns();
      wait_ms = static_cast<int>(std::clamp<int64_t>(until_ns / kNsPerMs, 0, 100));
    }
    const int count = ::epoll_wait(epoll_, events.data(), static_cast<int>(events.size()), wait_ms);
    for (int i = 0; i < count; ++i) {
      const epoll_event& event = events[static_cast<size_t>(i)];
      Connection& connection = *connections_[event.data.u64];
      if (connection.fd < 0) continue;
      on_ready(connection, event.events);
      if (connection.fd < 0) free_.push_back(event.data.u64);
    }
  }
  return std::move(times_);
}

}  // namespace

Result<HttpTarget> parse_target(const std::string& url, const std::string& path) {
  const Status error = bad_usage(
      str("--url ", quote(url), ": give http://ADDRESS:PORT, an IPv4 address or localhost"));
  constexpr std::string_view kScheme = "http://";
  if (!starts_with(url, kScheme)) return error;
  std::string rest = url.substr(kScheme.size());
  if (ends_with(rest, "/")) rest.pop_back();
  const size_t colon = rest.find(':');
  HttpTarget target;
  target.host = rest.substr(0, colon);
  target.path = path;
  target.port = 80;
  if (colon != std::string::npos) {
    const std::string port = rest.substr(colon + 1);
    const auto [end, ec] = std::from_chars(port.data(), port.data() + port.size(), target.port);
    if (ec != std::errc() || end != port.data() + port.size()) return error;
  }
  if (target.host == "localhost") target.host = "127.0.0.1";
  in_addr address{};
  if (::inet_pton(AF_INET, target.host.c_str(), &address) != 1) return error;
  if (target.port < 1 || target.port > 65535) return error;
  return target;
}

Result<std::vector<StreamTimes>> run_load(const HttpTarget& target,
                                          const std::vector<LoadRequest>& requests,
                                          const LoadOptions& options) {
  return Load(target, requests, options).run();
}

}  // namespace slipstream
