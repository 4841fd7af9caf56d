#include "engine/side_thread.h"

#include <utility>

#include "base/check.h"

namespace slipstream {

SideThread::SideThread() : thread_([this] { run(); }) {}

SideThread::~SideThread() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void SideThread::start(std::function<void()> job) {
  {
    const std::lock_guard lock(mutex_);
    SLIPSTREAM_CHECK(!job_, "one job at a time");
    job_ = std::move(job);
  }
  changed_.notify_all();
}

void SideThread::wait() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return !job_; });
}

void SideThread::run() noexcept {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stop_ || job_; });
    if (!job_) return;
    lock.unlock();
    job_();  // only the owner changes it, and it waits
    lock.lock();
    job_ = nullptr;
    changed_.notify_all();
  }
}

}  // namespace slipstream
