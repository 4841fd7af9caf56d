// SHA-256 (FIPS 180-4) and HMAC over it (FIPS 198-1), for keys and ids; whole inputs only. Pure
// functions, from any thread.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace slipstream {

using Sha256Digest = std::array<uint8_t, 32>;

Sha256Digest sha256(std::string_view data);
Sha256Digest hmac_sha256(std::string_view key, std::string_view data);

// 64 lower-case hexadecimal digits.
std::string to_hex(const Sha256Digest& digest);

// Takes the same time wherever the digests differ, so the answer tells nothing about a secret.
// Texts are compared by the digests of both, which also hides their lengths.
bool constant_time_equal(const Sha256Digest& a, const Sha256Digest& b);

}  // namespace slipstream
