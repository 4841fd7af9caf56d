// R8: what `new` does when the system has no memory.
#include "base/memory_reserve.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cstdlib>
#include <new>
#include <vector>

#include "base/mmap_file.h"
#include "base/strings.h"

// A sanitizer brings its own `new`, which asks no handler.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SLIPSTREAM_OWN_NEW 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SLIPSTREAM_OWN_NEW 1
#endif
#endif

#ifndef SLIPSTREAM_OWN_NEW

namespace slipstream {
namespace {

constexpr size_t kMiB = 1 << 20;

// No more address space than there is in use now.
void allow_no_more() {
  const auto statm = read_text_file("/proc/self/statm", 4096);
  const auto num_pages = std::strtoull(statm->c_str(), nullptr, 10);
  const rlim_t now = num_pages * 4096;
  const rlimit limit{now, now};
  if (::setrlimit(RLIMIT_AS, &limit) != 0) std::abort();
}

// Runs in a process of its own; the exit code says what came of it.
[[noreturn]] void allocate_beyond_the_limit() {
  MemoryReserve reserve;
  allow_no_more();
  // Larger than what the heap may still hold; the first would fail without the reserve.
  std::vector<char*> blocks;
  try {
    for (;;) blocks.push_back(new char[3 * kMiB]);
  } catch (const std::bad_alloc&) {
  }
  const bool was_refused = !reserve.refill();
  const size_t num_blocks = blocks.size();
  for (char* block : blocks) delete[] block;
  const bool is_whole = reserve.refill();
  std::_Exit(num_blocks >= 16 && was_refused && is_whole ? 0 : 1);
}

TEST(MemoryReserveDeathTest, R8_NewGoesOnWhileThereIsAReserveAndThrowsWithoutOne) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(allocate_beyond_the_limit(), testing::ExitedWithCode(0), "");
}

TEST(MemoryReserve, R8_WithoutAReserveNewThrowsAsEver) {
  {
    const MemoryReserve gone;
  }
  EXPECT_EQ(std::get_new_handler(), nullptr);
}

}  // namespace
}  // namespace slipstream

#endif
