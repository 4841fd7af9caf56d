#include "server/crash_notice.h"

#include <signal.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <utility>

#include "base/check.h"

namespace slipstream {
namespace {

constexpr uint64_t kCrash = 1;
constexpr uint64_t kStop = 1 << 20;

// What the signal handler can reach. Written by the one CrashNotice.
std::atomic<int> watched_fd{-1};

void on_abort(int) {
  // Only what is safe in a signal handler. A second abort, of the notice itself, does not wait.
  const int fd = watched_fd.exchange(-1);
  if (fd < 0) return;
  if (::write(fd, &kCrash, sizeof(kCrash)) != sizeof(kCrash)) return;
  timespec left{1, 0};
  while (::nanosleep(&left, &left) != 0) {
  }
}

}  // namespace

CrashNotice::CrashNotice(std::function<void()> on_crash) : on_crash_(std::move(on_crash)) {
  crash_fd_ = ::eventfd(0, EFD_CLOEXEC);
  SLIPSTREAM_CHECK(crash_fd_ >= 0, "cannot make an eventfd");
  SLIPSTREAM_CHECK(watched_fd.exchange(crash_fd_) < 0, "one CrashNotice at a time");
  struct sigaction action{};
  action.sa_handler = on_abort;
  ::sigaction(SIGABRT, &action, nullptr);
  thread_ = std::thread([this] {
    uint64_t told = 0;
    while (::read(crash_fd_, &told, sizeof(told)) != sizeof(told)) {
    }
    if (told < kStop) on_crash_();
  });
}

CrashNotice::~CrashNotice() {
  watched_fd = -1;
  ::signal(SIGABRT, SIG_DFL);
  [[maybe_unused]] const ssize_t written = ::write(crash_fd_, &kStop, sizeof(kStop));
  thread_.join();
  ::close(crash_fd_);
}

}  // namespace slipstream
