#include "base/thread_pool.h"

#include "base/check.h"

namespace slipstream {
namespace {

// About 50-100 us of polling before a worker sleeps: longer than the gap between two operations
// of a decode step, short enough not to burn a core between requests.
constexpr int kSpinsBeforeSleep = 4000;
constexpr int kSpinsBeforeYield = 1000;

inline void cpu_relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

ThreadPool::ThreadPool(int num_threads) {
  SLIPSTREAM_CHECK(num_threads >= 1, "a pool has at least the calling thread");
  workers_.reserve(static_cast<size_t>(num_threads - 1));
  for (int thread_idx = 1; thread_idx < num_threads; ++thread_idx) {
    workers_.emplace_back([this, thread_idx] { work(thread_idx); });
  }
}

ThreadPool::~ThreadPool() {
  stop_.store(true, std::memory_order_relaxed);
  generation_.fetch_add(1);  // as in dispatch(): before the look for sleepers
  generation_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::dispatch(int64_t num_tasks, const void* context, TaskFunction function) {
  context_ = context;
  function_ = function;
  num_tasks_ = num_tasks;
  next_task_.store(0, std::memory_order_relaxed);
  const uint32_t generation = generation_.load(std::memory_order_relaxed) + 1;
  loop_.store(uint64_t{generation} << 32 | kOpen, std::memory_order_release);
  // Sequentially consistent: notify_all() looks for sleepers and may skip the call when it sees
  // none, so its look must not come before this store.
  generation_.store(generation);
  generation_.notify_all();
  drain(0);
  // Closed to latecomers; those inside must leave before the description may be overwritten.
  uint64_t loop = loop_.fetch_and(~kOpen, std::memory_order_acquire) & ~kOpen;
  for (int spins = 0; (loop & (kOpen - 1)) != 0; ++spins) {
    // A worker that lost its core in the middle of a task may be waiting for this one.
    if (spins < kSpinsBeforeYield) {
      cpu_relax();
    } else {
      std::this_thread::yield();
    }
    loop = loop_.load(std::memory_order_acquire);
  }
}

bool ThreadPool::join(uint32_t generation) {
  uint64_t loop = loop_.load(std::memory_order_acquire);
  do {
    if (loop >> 32 != generation || (loop & kOpen) == 0) return false;
  } while (!loop_.compare_exchange_weak(loop, loop + 1, std::memory_order_acquire));
  return true;
}

void ThreadPool::drain(int thread_idx) {
  while (true) {
    const int64_t task_idx = next_task_.fetch_add(1, std::memory_order_relaxed);
    if (task_idx >= num_tasks_) return;
    function_(context_, task_idx, thread_idx);
  }
}

void ThreadPool::work(int thread_idx) {
  uint32_t seen = 0;
  while (true) {
    int spins = 0;
    while (generation_.load(std::memory_order_acquire) == seen) {
      if (++spins < kSpinsBeforeSleep) {
        cpu_relax();
      } else {
        generation_.wait(seen, std::memory_order_acquire);
      }
    }
    seen = generation_.load(std::memory_order_acquire);
    if (stop_.load(std::memory_order_relaxed)) return;
    if (!join(seen)) continue;
    drain(thread_idx);
    loop_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace slipstream
