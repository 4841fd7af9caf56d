#include "base/machine.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <string_view>

#include "base/mmap_file.h"
#include "base/strings.h"

namespace slipstream {
namespace {

constexpr uint64_t kMaxFileBytes = 64 << 10;

// The names of one version of control groups (the kernel's Documentation/admin-guide:
// cgroup-v2.rst, cgroup-v1/memory.rst).
struct CgroupFiles {
  const char* hierarchy;  // below the root
  const char* limit;
  const char* usage;
  const char* inactive_files;  // lines of memory.stat
  const char* active_files;
};
constexpr CgroupFiles kVersion2 = {"", "memory.max", "memory.current", "inactive_file",
                                   "active_file"};
constexpr CgroupFiles kVersion1 = {"/memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
                                   "total_inactive_file", "total_active_file"};

// "max" is no number.
std::optional<int64_t> leading_number(std::string_view text) {
  int64_t number = 0;
  if (std::from_chars(text.data(), text.data() + text.size(), number).ec != std::errc()) {
    return std::nullopt;
  }
  return number;
}

std::optional<int64_t> number_in(const std::string& path) {
  const auto text = read_text_file(path, kMaxFileBytes);
  return text.ok() ? leading_number(text.value()) : std::nullopt;
}

// The number behind `name` in lines of "name number".
int64_t stat_of(const std::string& stat, std::string_view name) {
  for (const std::string& line : split(stat, '\n')) {
    if (starts_with(line, name) && line.size() > name.size() && line[name.size()] == ' ') {
      return leading_number(std::string_view(line).substr(name.size() + 1)).value_or(0);
    }
  }
  return 0;
}

std::optional<MemoryLimit> limit_of(const std::string& folder, const CgroupFiles& files) {
  const std::optional<int64_t> limit = number_in(folder + "/" + files.limit);
  const std::optional<int64_t> usage = number_in(folder + "/" + files.usage);
  if (!limit || !usage || *limit <= 0) return std::nullopt;
  const auto stat = read_text_file(folder + "/memory.stat", kMaxFileBytes);
  const int64_t cached = stat.ok() ? stat_of(stat.value(), files.inactive_files) +
                                         stat_of(stat.value(), files.active_files)
                                   : 0;
  return MemoryLimit{.limit_bytes = *limit, .used_bytes = std::max<int64_t>(*usage - cached, 0)};
}

// The group's path in a line of /proc/self/cgroup, "4:memory:/path" or, in version 2, "0::/path".
std::optional<std::string> path_in(const std::string& line, const CgroupFiles& files) {
  const std::vector<std::string> fields = split(line, ':');
  if (fields.size() != 3) return std::nullopt;
  const std::vector<std::string> controllers = split(fields[1], ',');
  const bool is_version_1 =
      std::find(controllers.begin(), controllers.end(), "memory") != controllers.end();
  const bool is_version_2 = fields[0] == "0" && fields[1].empty();
  return (&files == &kVersion1 ? is_version_1 : is_version_2) ? std::optional(fields[2])
                                                              : std::nullopt;
}

}  // namespace

int available_cores() {
  cpu_set_t cores;
  if (sched_getaffinity(0, sizeof cores, &cores) == 0) return std::max(1, CPU_COUNT(&cores));
  return std::max(1, static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN)));
}

std::optional<MemoryLimit> memory_limit(const std::string& cgroup_root,
                                        const std::string& membership_file) {
  const auto membership = read_text_file(membership_file, kMaxFileBytes);
  if (!membership.ok()) return std::nullopt;
  std::optional<MemoryLimit> tightest;
  for (const CgroupFiles* files : {&kVersion2, &kVersion1}) {
    for (const std::string& line : split(membership.value(), '\n')) {
      std::optional<std::string> path = path_in(line, *files);
      if (!path) continue;
      // In a container the path may be the host's, with nothing below it but the root.
      for (bool at_root = false; !at_root;) {
        at_root = path->size() <= 1;
        const std::string folder = cgroup_root + files->hierarchy + (at_root ? "" : *path);
        const std::optional<MemoryLimit> limit = limit_of(folder, *files);
        const bool is_tighter =
            limit && (!tightest || limit->left_bytes() < tightest->left_bytes());
        if (is_tighter) tightest = limit;
        const size_t slash = path->rfind('/');
        path->resize(slash == std::string::npos ? 0 : slash);
      }
    }
  }
  return tightest;
}

int64_t physical_memory_bytes() {
  const int64_t bytes = int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
  const std::optional<MemoryLimit> limit = memory_limit();
  return limit ? std::min(bytes, limit->limit_bytes) : bytes;
}

}  // namespace slipstream
