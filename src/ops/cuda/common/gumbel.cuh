// Gumbel noise g = -log(-log(u)) of a token: u from Philox4x32-10 with key = seed and counter =
// (position, choice, token id / 4, purpose 0). Reference: sampling/sampler.cc.
#pragma once

#include <cstdint>

namespace slipstream::cuda {

struct DrawKey {
  uint64_t seed;
  uint32_t position;
  uint32_t choice_idx;
};

// Random words of four tokens, the first of which has an id of 4 `group`.
struct Philox {
  uint32_t words[4];

  __device__ __forceinline__ uint32_t of(uint32_t id) const {
    const uint32_t low = (id & 1) != 0 ? words[1] : words[0];
    const uint32_t high = (id & 1) != 0 ? words[3] : words[2];
    return (id & 2) != 0 ? high : low;
  }
};

__device__ __forceinline__ Philox philox4x32_10(const DrawKey& key, uint32_t group) {
  uint32_t c0 = key.position;
  uint32_t c1 = key.choice_idx;
  uint32_t c2 = group;
  uint32_t c3 = 0;  // RandomPurpose::kSample
  uint32_t k0 = static_cast<uint32_t>(key.seed);
  uint32_t k1 = static_cast<uint32_t>(key.seed >> 32);
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint32_t low0 = 0xD2511F53u * c0;
    const uint32_t high0 = __umulhi(0xD2511F53u, c0);
    const uint32_t low1 = 0xCD9E8D57u * c2;
    const uint32_t high1 = __umulhi(0xCD9E8D57u, c2);
    c0 = high1 ^ c1 ^ k0;
    c1 = low1;
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// In double and rounded once, as on the CPU.
__device__ __forceinline__ float gumbel(uint32_t word) {
  const double u = static_cast<double>((static_cast<float>(word >> 9) + 0.5f) / 8388608.0f);
  return static_cast<float>(-log(-log(u)));
}

constexpr float kMaxGumbel = 16.64f;   // noise never exceeds 24 ln 2
constexpr float kGumbelSlack = 0.02f;  // of products and logarithms in float

// At least gumbel(word), and rarely much more.
__device__ __forceinline__ float gumbel_bound(uint32_t word) {
  const float u = (static_cast<float>(word >> 9) + 0.5f) / 8388608.0f;
  // Near 1 the logarithm in float loses everything.
  return (u > 0.999f ? kMaxGumbel : -__logf(-__logf(u))) + kGumbelSlack;
}

}  // namespace slipstream::cuda
