#include "base/sha256.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace slipstream {
namespace {

constexpr size_t kBlockBytes = 64;
constexpr size_t kLengthBytes = 8;  // the message's bits, at the end of the last block

// The first 32 bits of the fractional parts of the cube roots of the first 64 primes.
constexpr std::array<uint32_t, 64> kRoundConstants = {
    0x428a2f98u, 0x71374491u, 0xb5c0fbcfu, 0xe9b5dba5u, 0x3956c25bu, 0x59f111f1u, 0x923f82a4u,
    0xab1c5ed5u, 0xd807aa98u, 0x12835b01u, 0x243185beu, 0x550c7dc3u, 0x72be5d74u, 0x80deb1feu,
    0x9bdc06a7u, 0xc19bf174u, 0xe49b69c1u, 0xefbe4786u, 0x0fc19dc6u, 0x240ca1ccu, 0x2de92c6fu,
    0x4a7484aau, 0x5cb0a9dcu, 0x76f988dau, 0x983e5152u, 0xa831c66du, 0xb00327c8u, 0xbf597fc7u,
    0xc6e00bf3u, 0xd5a79147u, 0x06ca6351u, 0x14292967u, 0x27b70a85u, 0x2e1b2138u, 0x4d2c6dfcu,
    0x53380d13u, 0x650a7354u, 0x766a0abbu, 0x81c2c92eu, 0x92722c85u, 0xa2bfe8a1u, 0xa81a664bu,
    0xc24b8b70u, 0xc76c51a3u, 0xd192e819u, 0xd6990624u, 0xf40e3585u, 0x106aa070u, 0x19a4c116u,
    0x1e376c08u, 0x2748774cu, 0x34b0bcb5u, 0x391c0cb3u, 0x4ed8aa4au, 0x5b9cca4fu, 0x682e6ff3u,
    0x748f82eeu, 0x78a5636fu, 0x84c87814u, 0x8cc70208u, 0x90befffau, 0xa4506cebu, 0xbef9a3f7u,
    0xc67178f2u};

class Hasher {
 public:
  void add(std::string_view data) {
    num_bytes_ += data.size();
    while (!data.empty()) {
      const size_t count = std::min(data.size(), kBlockBytes - filled_);
      std::memcpy(block_.data() + filled_, data.data(), count);
      filled_ += count;
      data.remove_prefix(count);
      if (filled_ == kBlockBytes) compress();
    }
  }

  Sha256Digest finish() {
    const uint64_t num_bits = num_bytes_ * 8;
    block_[filled_++] = 0x80;
    if (filled_ > kBlockBytes - kLengthBytes) {
      std::memset(block_.data() + filled_, 0, kBlockBytes - filled_);
      compress();
    }
    std::memset(block_.data() + filled_, 0, kBlockBytes - kLengthBytes - filled_);
    for (size_t i = 0; i < kLengthBytes; ++i) {
      block_[kBlockBytes - 1 - i] = static_cast<uint8_t>(num_bits >> (8 * i));
    }
    compress();
    Sha256Digest digest;
    for (size_t i = 0; i < digest.size(); ++i) {
      digest[i] = static_cast<uint8_t>(state_[i / 4] >> (24 - 8 * (i % 4)));
    }
    return digest;
  }

 private:
  void compress() {
    std::array<uint32_t, 64> words;
    for (size_t i = 0; i < 16; ++i) {
      words[i] = uint32_t{block_[4 * i]} << 24 | uint32_t{block_[4 * i + 1]} << 16 |
                 uint32_t{block_[4 * i + 2]} << 8 | uint32_t{block_[4 * i + 3]};
    }
    for (size_t i = 16; i < 64; ++i) {
      const uint32_t early = words[i - 15];
      const uint32_t late = words[i - 2];
      words[i] = words[i - 16] + words[i - 7] +
                 (std::rotr(early, 7) ^ std::rotr(early, 18) ^ (early >> 3)) +
                 (std::rotr(late, 17) ^ std::rotr(late, 19) ^ (late >> 10));
    }
    auto [a, b, c, d, e, f, g, h] = state_;
    for (size_t i = 0; i < 64; ++i) {
      const uint32_t sum1 = std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25);
      const uint32_t choice = (e & f) ^ (~e & g);
      const uint32_t first = h + sum1 + choice + kRoundConstants[i] + words[i];
      const uint32_t sum0 = std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22);
      const uint32_t majority = (a & b) ^ (a & c) ^ (b & c);
      h = g;
      g = f;
      f = e;
      e = d + first;
      d = c;
      c = b;
      b = a;
      a = first + sum0 + majority;
    }
    const std::array<uint32_t, 8> added = {a, b, c, d, e, f, g, h};
    for (size_t i = 0; i < added.size(); ++i) state_[i] += added[i];
    filled_ = 0;
  }

  std::array<uint32_t, 8> state_ = {0x6a09e667u, 0xbb67ae85u, 0x3c6ef372u, 0xa54ff53au,
                                    0x510e527fu, 0x9b05688cu, 0x1f83d9abu, 0x5be0cd19u};
  std::array<uint8_t, kBlockBytes> block_{};
  size_t filled_ = 0;
  uint64_t num_bytes_ = 0;
};

std::string_view as_text(const Sha256Digest& digest) {
  return {reinterpret_cast<const char*>(digest.data()), digest.size()};
}

}  // namespace

Sha256Digest sha256(std::string_view data) {
  Hasher hasher;
  hasher.add(data);
  return hasher.finish();
}

Sha256Digest hmac_sha256(std::string_view key, std::string_view data) {
  Sha256Digest short_key{};
  if (key.size() > kBlockBytes) {
    short_key = sha256(key);
    key = as_text(short_key);
  }
  std::string inner(kBlockBytes, '\x36');
  std::string outer(kBlockBytes, '\x5c');
  for (size_t i = 0; i < key.size(); ++i) {
    inner[i] = static_cast<char>(inner[i] ^ key[i]);
    outer[i] = static_cast<char>(outer[i] ^ key[i]);
  }
  Hasher hasher;
  hasher.add(inner);
  hasher.add(data);
  const Sha256Digest inner_digest = hasher.finish();
  Hasher outer_hasher;
  outer_hasher.add(outer);
  outer_hasher.add(as_text(inner_digest));
  return outer_hasher.finish();
}

std::string to_hex(const Sha256Digest& digest) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string out;
  for (const uint8_t byte : digest) {
    out += kDigits[byte >> 4];
    out += kDigits[byte & 15];
  }
  return out;
}

bool constant_time_equal(const Sha256Digest& a, const Sha256Digest& b) {
  // Volatile, or a compiler may leave the loop at the first difference.
  volatile uint8_t difference = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference = static_cast<uint8_t>(difference | (a[i] ^ b[i]));
  }
  return difference == 0;
}

}  // namespace slipstream
