// How a sampling state counts.
#pragma once

#include <cstdint>

namespace slipstream::cuda {

constexpr uint16_t kInPrompt = 0x8000;
constexpr uint16_t kOccurrences = 0x7fff;  // the bits that count; they stop at their largest value

// May run for the same count in several threads.
__device__ __forceinline__ void count_token(uint16_t* count) {
  uint16_t seen = *count;
  while ((seen & kOccurrences) != kOccurrences) {
    const uint16_t before = atomicCAS(count, seen, static_cast<uint16_t>(seen + 1));
    if (before == seen) return;
    seen = before;
  }
}

}  // namespace slipstream::cuda
