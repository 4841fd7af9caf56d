// What this machine, or the container it pretends to be, has.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace slipstream {

// Cores this process may run on.
int available_cores();
// Memory of the machine or of the container, whichever is smaller.
int64_t physical_memory_bytes();

// A control group's limit, and how much of it is taken by what the kernel cannot drop: cached pages
// of files do not count.
struct MemoryLimit {
  int64_t limit_bytes = 0;
  int64_t used_bytes = 0;
  int64_t left_bytes() const { return limit_bytes - used_bytes; }
};
// Of this process's groups with a limit, the one with the least left; none without a limit. Reads
// the files of both versions of control groups below `cgroup_root`, in the folder that
// `membership_file` (/proc/self/cgroup) names and those above it.
std::optional<MemoryLimit> memory_limit(const std::string& cgroup_root = "/sys/fs/cgroup",
                                        const std::string& membership_file = "/proc/self/cgroup");

}  // namespace slipstream
