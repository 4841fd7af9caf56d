#include "base/siphash.h"

#include <gtest/gtest.h>

#include <vector>

namespace slipstream {
namespace {

// The vectors of the paper's reference code: key 00 01 .. 0f, message 00 01 .. (n - 1).
TEST(SipHashTest, AgreesWithThePublishedVectors) {
  const SipKey key{0x0706050403020100u, 0x0F0E0D0C0B0A0908u};
  std::vector<std::byte> message;
  const auto hash_of = [&](size_t size) {
    while (message.size() < size) message.push_back(static_cast<std::byte>(message.size()));
    return siphash(key, std::span(message).first(size));
  };
  EXPECT_EQ(hash_of(0), 0x726FDB47DD0E0E31u);
  EXPECT_EQ(hash_of(1), 0x74F839C593DC67FDu);
  EXPECT_EQ(hash_of(7), 0xAB0200F58B01D137u);
  EXPECT_EQ(hash_of(8), 0x93F5F5799A932462u);
  EXPECT_EQ(hash_of(15), 0xA129CA6149BE45E5u);
}

TEST(SipHashTest, KeyChangesTheHash) {
  const std::byte byte{7};
  EXPECT_NE(siphash({1, 2}, {&byte, 1}), siphash({1, 3}, {&byte, 1}));
}

}  // namespace
}  // namespace slipstream
