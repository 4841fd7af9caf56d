#include "kv/kv_cache.h"

#include <gtest/gtest.h>

#include <cstring>

namespace slipstream {
namespace {

KVGroupSpec small_spec() {
  KVGroupSpec spec;
  spec.num_layers = 3;
  spec.num_kv_heads = 2;
  spec.head_dim = 8;
  return spec;
}

TEST(KVCacheTest, LayersDoNotOverlapAndKeysPrecedeValues) {
  const auto cache = KVCache::create(small_spec(), 5);
  ASSERT_TRUE(cache.ok()) << cache.status().message();
  const int64_t half_bytes = 5 * 2 * 8 * 16 * 2;
  EXPECT_EQ(cache->bytes(), 3 * 2 * half_bytes);
  for (int layer_idx = 0; layer_idx < 3; ++layer_idx) {
    const KVLayerView layer = cache->layer(layer_idx);
    EXPECT_EQ(static_cast<char*>(layer.v) - static_cast<char*>(layer.k), half_bytes);
    for (int other = 0; other < layer_idx; ++other) {
      const auto gap = static_cast<char*>(cache->layer(other).k) - static_cast<char*>(layer.k);
      EXPECT_GE(gap < 0 ? -gap : gap, 2 * half_bytes);
    }
  }
}

TEST(KVCacheTest, PoisonFillsOneBlockOfEveryLayerAndNoOther) {
  auto cache = KVCache::create(small_spec(), 5);
  ASSERT_TRUE(cache.ok()) << cache.status().message();
  const size_t page_bytes = 2 * 8 * 16 * 2;
  for (int layer_idx = 0; layer_idx < 3; ++layer_idx) {
    std::memset(cache->layer(layer_idx).k, 0, 2 * 5 * page_bytes);
  }
  cache->poison(3);
  for (int layer_idx = 0; layer_idx < 3; ++layer_idx) {
    for (const void* pages : {cache->layer(layer_idx).k, cache->layer(layer_idx).v}) {
      for (size_t i = 0; i < 5 * page_bytes; ++i) {
        const int byte = static_cast<const unsigned char*>(pages)[i];
        ASSERT_EQ(byte, i / page_bytes == 3 ? 0xFF : 0) << "byte " << i;
      }
    }
  }
}

TEST(KVCacheTest, SizeBeyondTheMachineIsAnErrorThatNamesBytes) {
  const auto cache = KVCache::create(small_spec(), int64_t{1} << 46);
  ASSERT_FALSE(cache.ok());
  EXPECT_EQ(cache.status().code(), StatusCode::kDoesNotFit);
  EXPECT_NE(cache.status().message().find("bytes"), std::string::npos);
}

}  // namespace
}  // namespace slipstream
