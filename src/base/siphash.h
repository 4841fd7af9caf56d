// SipHash-2-4 (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012): a keyed hash whose
// collisions nobody can aim at without the key.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace slipstream {

struct SipKey {
  uint64_t k0 = 0;
  uint64_t k1 = 0;
};

uint64_t siphash(const SipKey& key, std::span<const std::byte> bytes);

}  // namespace slipstream
