#include "server/worker_pool.h"

#include <exception>
#include <utility>

#include "base/log.h"

namespace slipstream {

WorkerPool::WorkerPool(EventLoop& loop, Options options) : loop_(loop), options_(options) {
  for (int i = 0; i < options_.num_threads; ++i) threads_.emplace_back([this] { run(); });
}

WorkerPool::~WorkerPool() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

bool WorkerPool::submit(std::function<void()> work, std::function<void()> then) {
  {
    const std::lock_guard lock(mutex_);
    if (tasks_.size() >= options_.max_queued) return false;
    tasks_.push_back({std::move(work), std::move(then)});
  }
  changed_.notify_one();
  return true;
}

void WorkerPool::run() {
  for (;;) {
    Task task;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return stopping_ || !tasks_.empty(); });
      if (stopping_) return;
      task = std::move(tasks_.front());
      tasks_.pop_front();
    }
    try {
      task.work();
    } catch (const std::exception& error) {
      log_error("http", "work on a large request failed: ", error.what());
    }
    loop_.post(std::move(task.then));
  }
}

}  // namespace slipstream
