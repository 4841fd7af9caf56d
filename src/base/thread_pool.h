// A persistent pool for data-parallel loops over a few microseconds of work.
//
// The calling thread takes part as thread 0; the others spin briefly between loops and then sleep.
// Tasks are handed out by an atomic counter, so an uneven task or a stolen core delays one task,
// not one thread's share; and a worker that wakes after the last task was handed out is not waited
// for. Results must not depend on which thread runs a task.
// One caller at a time: the engine thread owns its pool.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace slipstream {

class ThreadPool {
 public:
  // `num_threads` >= 1 counts the caller.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls task(task_idx, thread_idx) for every task_idx in [0, num_tasks) and returns when all are
  // done. Runs on the caller alone when one thread is enough.
  template <typename Task>
  void run(int64_t num_tasks, const Task& task) {
    if (num_tasks <= 1 || workers_.empty()) {
      for (int64_t i = 0; i < num_tasks; ++i) task(i, 0);
      return;
    }
    dispatch(num_tasks, &task, [](const void* context, int64_t task_idx, int thread_idx) {
      (*static_cast<const Task*>(context))(task_idx, thread_idx);
    });
  }

 private:
  using TaskFunction = void (*)(const void* context, int64_t task_idx, int thread_idx);
  void dispatch(int64_t num_tasks, const void* context, TaskFunction function);
  void work(int thread_idx);
  void drain(int thread_idx);

  bool join(uint32_t generation);

  // The current loop; written by the caller while the loop is closed and nobody is inside.
  const void* context_ = nullptr;
  TaskFunction function_ = nullptr;
  int64_t num_tasks_ = 0;

  // What workers wait on: advanced once per loop.
  alignas(64) std::atomic<uint32_t> generation_{0};
  // Generation (high 32 bits) and number of workers inside (low 31); kOpen while tasks are left to
  // join for. One word, so that nobody joins a loop that has been closed.
  static constexpr uint64_t kOpen = uint64_t{1} << 31;
  alignas(64) std::atomic<uint64_t> loop_{0};
  alignas(64) std::atomic<int64_t> next_task_{0};
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_;
};

}  // namespace slipstream
