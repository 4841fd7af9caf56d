// CrashNotice: a process that is about to abort, by a failed check or an uncaught exception of any
// thread, tells its clients first. The aborting thread waits up to a second meanwhile; then the
// process ends as it would have.
//
// One at a time: the signal handler needs a place that is known to it. Nothing here helps when
// memory is so damaged that the network thread cannot run.
#pragma once

#include <functional>
#include <thread>

namespace slipstream {

class CrashNotice {
 public:
  // `on_crash` runs on a thread of this object, at most once.
  explicit CrashNotice(std::function<void()> on_crash);
  ~CrashNotice();
  CrashNotice(const CrashNotice&) = delete;
  CrashNotice& operator=(const CrashNotice&) = delete;

 private:
  std::function<void()> on_crash_;
  int crash_fd_ = -1;  // written by the signal handler: 1, or by the destructor: kStop
  std::thread thread_;
};

}  // namespace slipstream
