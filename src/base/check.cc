#include "base/check.h"

#include <cstdio>
#include <cstdlib>

namespace slipstream {

void check_failed(const char* file, int line, const char* expression,
                  std::string_view detail) noexcept {
  std::fprintf(stderr, "%s:%d: check failed: %s: %.*s\n", file, line, expression,
               static_cast<int>(detail.size()), detail.data());
  std::abort();
}

}  // namespace slipstream
