#include "base/machine.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>

#include "base/mmap_file.h"

namespace slipstream {

int available_cores() {
  cpu_set_t cores;
  if (sched_getaffinity(0, sizeof cores, &cores) == 0) return std::max(1, CPU_COUNT(&cores));
  return std::max(1, static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN)));
}

int64_t physical_memory_bytes() {
  int64_t bytes = int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
  // "max" or a number; absent outside a container.
  const auto limit = read_text_file("/sys/fs/cgroup/memory.max", 64);
  int64_t limit_bytes = 0;
  if (limit.ok() &&
      std::from_chars(limit->data(), limit->data() + limit->size(), limit_bytes).ec ==
          std::errc() &&
      limit_bytes > 0) {
    bytes = std::min(bytes, limit_bytes);
  }
  return bytes;
}

}  // namespace slipstream
