#include "core/huge_pages.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>

namespace slipstream {

void advise_huge_pages(const Buffer& buffer) {
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin = (reinterpret_cast<uintptr_t>(buffer.data()) + page - 1) / page * page;
  const auto end = (reinterpret_cast<uintptr_t>(buffer.data()) + buffer.bytes()) / page * page;
  // Advice: a kernel that cannot follow it reads at its usual rate.
  if (begin < end) (void)madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
}

}  // namespace slipstream
