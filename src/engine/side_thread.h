// SideThread: one thread that runs one job at a time beside its owner.
//
// The owner starts a job, goes on, and waits for its end before it touches what the job uses. All
// methods are the owner's.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

namespace slipstream {

class SideThread {
 public:
  SideThread();
  ~SideThread();  // after the job in progress
  SideThread(const SideThread&) = delete;
  SideThread& operator=(const SideThread&) = delete;

  // The last job has been waited for. `job` must not throw.
  void start(std::function<void()> job);
  void wait();

 private:
  void run() noexcept;

  std::mutex mutex_;  // guards the next three
  std::condition_variable changed_;
  std::function<void()> job_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace slipstream
