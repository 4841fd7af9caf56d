// The one clock of the program: monotonic, so a jump of the wall clock moves no deadline.
#pragma once

#include <chrono>
#include <cstdint>

namespace slipstream {

inline int64_t steady_now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace slipstream
