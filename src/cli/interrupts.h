// Interrupts: Ctrl-C as an event instead of a death. The first SIGINT calls a function, the second
// ends the process at once with exit code 130.
#pragma once

#include <atomic>
#include <functional>
#include <thread>

namespace slipstream {

class Interrupts {
 public:
  // Blocks SIGINT in this thread and in those it starts from now on, so construct it before the
  // engine. `on_first` runs on a thread of this object; it must not throw and not block.
  explicit Interrupts(std::function<void()> on_first);
  ~Interrupts();
  Interrupts(const Interrupts&) = delete;
  Interrupts& operator=(const Interrupts&) = delete;

  // Whether a SIGINT came since construction or the last reset().
  bool interrupted() const { return count_.load() > 0; }
  // The next SIGINT is a first one again.
  void reset() { count_ = 0; }

 private:
  void watch();

  std::function<void()> on_first_;
  std::atomic<int> count_{0};
  int signal_fd_ = -1;
  int stop_fd_ = -1;
  std::thread thread_;
};

}  // namespace slipstream
