#include "cli/interrupts.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <utility>

#include "base/check.h"

namespace slipstream {

Interrupts::Interrupts(std::function<void()> on_first) : on_first_(std::move(on_first)) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  SLIPSTREAM_CHECK(pthread_sigmask(SIG_BLOCK, &set, nullptr) == 0, "cannot block SIGINT");
  signal_fd_ = signalfd(-1, &set, SFD_CLOEXEC);
  stop_fd_ = eventfd(0, EFD_CLOEXEC);
  SLIPSTREAM_CHECK(signal_fd_ >= 0 && stop_fd_ >= 0, "cannot watch for SIGINT");
  thread_ = std::thread([this] { watch(); });
}

Interrupts::~Interrupts() {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(stop_fd_, &one, sizeof(one));
  thread_.join();
  ::close(signal_fd_);
  ::close(stop_fd_);
}

void Interrupts::watch() {
  std::array<pollfd, 2> watched = {{{signal_fd_, POLLIN, 0}, {stop_fd_, POLLIN, 0}}};
  for (;;) {
    if (::poll(watched.data(), watched.size(), -1) < 0) continue;  // EINTR
    if (watched[1].revents != 0) return;
    signalfd_siginfo info{};
    if (::read(signal_fd_, &info, sizeof(info)) != sizeof(info)) continue;
    if (count_.fetch_add(1) > 0) ::_exit(130);
    on_first_();
  }
}

}  // namespace slipstream
