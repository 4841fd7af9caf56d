#include "bench/http_probe.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <array>
#include <charconv>

#include "base/strings.h"

namespace slipstream {
namespace {

class Socket {
 public:
  Socket() : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {}
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  ~Socket() {
    if (fd_ >= 0) ::close(fd_);
  }
  int fd() const { return fd_; }

 private:
  int fd_;
};

sockaddr_in loopback(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(port));
  return address;
}

Status system_error(const char* what) { return failed(str(what, ": ", ::strerror(errno))); }

}  // namespace

Result<int> http_status_of(int port, const std::string& route, int limit_ms) {
  const Socket socket;
  const timeval limit{limit_ms / 1000, static_cast<suseconds_t>(limit_ms % 1000) * 1000};
  ::setsockopt(socket.fd(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
  ::setsockopt(socket.fd(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
  const sockaddr_in address = loopback(port);
  if (::connect(socket.fd(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return system_error("connect");
  }
  const std::string request =
      str("GET ", route, " HTTP/1.1\r\nHost: 127.0.0.1:", port, "\r\nConnection: close\r\n\r\n");
  if (::send(socket.fd(), request.data(), request.size(), MSG_NOSIGNAL) < 0) {
    return system_error("send");
  }
  // "HTTP/1.1 200 OK": the digits stand at a fixed place.
  constexpr size_t kCodeAt = 9;
  constexpr size_t kCodeEnd = 12;
  std::array<char, kCodeEnd> head{};
  if (::recv(socket.fd(), head.data(), head.size(), MSG_WAITALL) !=
      static_cast<ssize_t>(head.size())) {
    return failed("no answer");
  }
  int status = 0;
  std::from_chars(head.data() + kCodeAt, head.data() + kCodeEnd, status);
  if (status == 0) return failed("what answers does not speak HTTP");
  return status;
}

Result<int> free_port() {
  const Socket socket;
  sockaddr_in address = loopback(0);
  socklen_t length = sizeof(address);
  if (::bind(socket.fd(), reinterpret_cast<const sockaddr*>(&address), length) != 0 ||
      ::getsockname(socket.fd(), reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    return system_error("no free port");
  }
  return ntohs(address.sin_port);
}

}  // namespace slipstream
