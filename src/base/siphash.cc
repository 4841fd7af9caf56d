#include "base/siphash.h"

#include <bit>

namespace slipstream {
namespace {

struct SipState {
  uint64_t v0, v1, v2, v3;

  void round() {
    v0 += v1;
    v1 = std::rotl(v1, 13) ^ v0;
    v0 = std::rotl(v0, 32);
    v2 += v3;
    v3 = std::rotl(v3, 16) ^ v2;
    v0 += v3;
    v3 = std::rotl(v3, 21) ^ v0;
    v2 += v1;
    v1 = std::rotl(v1, 17) ^ v2;
    v2 = std::rotl(v2, 32);
  }

  void absorb(uint64_t word) {
    v3 ^= word;
    round();
    round();
    v0 ^= word;
  }
};

// Little endian, whatever the machine is.
uint64_t load(std::span<const std::byte> bytes) {
  uint64_t word = 0;
  for (size_t i = 0; i < bytes.size(); ++i) {
    word |= std::to_integer<uint64_t>(bytes[i]) << (8 * i);
  }
  return word;
}

}  // namespace

uint64_t siphash(const SipKey& key, std::span<const std::byte> bytes) {
  SipState state{key.k0 ^ 0x736F6D6570736575u, key.k1 ^ 0x646F72616E646F6Du,
                 key.k0 ^ 0x6C7967656E657261u, key.k1 ^ 0x7465646279746573u};
  size_t at = 0;
  for (; at + 8 <= bytes.size(); at += 8) state.absorb(load(bytes.subspan(at, 8)));
  state.absorb(load(bytes.subspan(at)) | (static_cast<uint64_t>(bytes.size()) << 56));
  state.v2 ^= 0xFF;
  for (int i = 0; i < 4; ++i) state.round();
  return state.v0 ^ state.v1 ^ state.v2 ^ state.v3;
}

}  // namespace slipstream
