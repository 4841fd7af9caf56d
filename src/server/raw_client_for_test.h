// RawClient: bytes over a loopback socket, for tests that must say things no HTTP library would.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>

namespace slipstream {

class RawClient {
 public:
  explicit RawClient(int port, int receive_buffer_bytes = 0) {
    fd_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (receive_buffer_bytes > 0) {
      ::setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer_bytes, sizeof(receive_buffer_bytes));
    }
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (::connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
      std::abort();
    }
  }
  RawClient(const RawClient&) = delete;
  RawClient& operator=(const RawClient&) = delete;
  ~RawClient() { close(); }

  // Whether all bytes were taken.
  bool send(std::string_view bytes) const {
    while (!bytes.empty()) {
      const ssize_t sent = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(sent));
    }
    return true;
  }
  // Everything up to the server's close.
  std::string read_all() {
    while (read_more()) {
    }
    return std::exchange(received_, {});
  }
  // Up to and with `end`; what follows stays for later. Shorter when the server closes first.
  std::string read_until(std::string_view end) {
    size_t found = received_.find(end);
    while (found == std::string::npos && read_more()) found = received_.find(end);
    const size_t size = found == std::string::npos ? received_.size() : found + end.size();
    std::string text = received_.substr(0, size);
    received_.erase(0, size);
    return text;
  }
  // One response with a content-length.
  std::string read_response() {
    std::string head = read_until("\r\n\r\n");
    const size_t at = head.find("content-length: ");
    const size_t length = at == std::string::npos ? 0 : std::stoul(head.substr(at + 16));
    while (received_.size() < length && read_more()) {
    }
    head += received_.substr(0, length);
    received_.erase(0, length);
    return head;
  }
  // Whether the server closed; waits for it.
  bool closed_by_server() {
    received_.clear();
    return !read_more();
  }
  void shut_down_send() const { ::shutdown(fd_, SHUT_WR); }
  void reset() {
    const linger now{1, 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    close();
  }
  void close() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }

 private:
  // A silent server fails the test instead of hanging it.
  bool read_more() {
    pollfd watched{fd_, POLLIN, 0};
    if (::poll(&watched, 1, 10'000) <= 0) return false;
    std::array<char, 16384> bytes;
    const ssize_t size = ::recv(fd_, bytes.data(), bytes.size(), 0);
    if (size <= 0) return false;
    received_.append(bytes.data(), static_cast<size_t>(size));
    return true;
  }

  int fd_ = -1;
  std::string received_;
};

inline std::string get_request(const std::string& path, const std::string& more_headers = "") {
  return "GET " + path + " HTTP/1.1\r\nHost: test\r\n" + more_headers + "\r\n";
}

inline std::string post_request(const std::string& path, const std::string& body,
                                const std::string& more_headers = "") {
  return "POST " + path + " HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n" +
         "Content-Length: " + std::to_string(body.size()) + "\r\n" + more_headers + "\r\n" + body;
}

}  // namespace slipstream
