// WorkerPool: work too long for the network thread, such as tokenising a large prompt.
//
// Owns a few threads and a bounded queue. submit() is for the network thread.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "server/http.h"

namespace slipstream {

class WorkerPool {
 public:
  struct Options {
    int num_threads = 2;
    size_t max_queued = 256;
  };

  WorkerPool(EventLoop& loop, Options options);
  // Ends after the work that runs now; queued work is dropped.
  ~WorkerPool();
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  // Runs `work` on a worker, then `then` on the network thread, also when `work` threw. False: the
  // queue is full and neither will run. What only the network thread may destroy, such as a
  // ResponseWriter, belongs into `then`: `work` is destroyed on the worker.
  bool submit(std::function<void()> work, std::function<void()> then);

 private:
  struct Task {
    std::function<void()> work;
    std::function<void()> then;
  };

  void run();

  EventLoop& loop_;
  const Options options_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Task> tasks_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace slipstream
