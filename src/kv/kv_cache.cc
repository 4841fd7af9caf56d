#include "kv/kv_cache.h"

#include <new>
#include <string>
#include <utility>

#include "base/checked_math.h"

namespace slipstream {

Result<KVCache> KVCache::create(const KVGroupSpec& spec, int64_t num_blocks,
                                const DeviceMemory& memory) {
  SLIPSTREAM_CHECK(spec.num_layers > 0 && spec.num_kv_heads > 0, "a KV group has layers and heads");
  SLIPSTREAM_CHECK(spec.head_dim > 0 && spec.block_size > 0, "a KV block has positions");
  SLIPSTREAM_CHECK(num_blocks > 0, "a KV cache has blocks");

  const auto layer_block_bytes = static_cast<uint64_t>(spec.block_bytes() / spec.num_layers);
  const auto layer_bytes = checked_mul(layer_block_bytes, static_cast<uint64_t>(num_blocks));
  const auto total_bytes =
      layer_bytes ? checked_mul(*layer_bytes, static_cast<uint64_t>(spec.num_layers)) : layer_bytes;
  // Asked first: the system would promise more than it has and end the process on the first touch.
  const uint64_t free_bytes = memory.free_bytes();
  if (!total_bytes || *total_bytes > free_bytes) {
    return does_not_fit(str("the KV cache of ", num_blocks, " blocks needs ",
                            total_bytes ? std::to_string(*total_bytes) : "more than 2^64",
                            " bytes and ", memory.name, " has ", free_bytes,
                            ": lower kv_cache_bytes or max_model_len"));
  }

  // Large allocations come straight from the kernel and stay untouched here, so a page costs
  // memory only when a sequence first writes to it.
  std::vector<Buffer> layers;
  layers.reserve(static_cast<size_t>(spec.num_layers));
  try {
    for (int layer = 0; layer < spec.num_layers; ++layer) layers.emplace_back(*layer_bytes, memory);
  } catch (const std::bad_alloc&) {
    return does_not_fit(str("the KV cache needs ", *total_bytes, " bytes and only ",
                            layers.size() * *layer_bytes,
                            " could be reserved: lower kv_cache_bytes or max_model_len"));
  }
  return KVCache(spec, num_blocks, memory, std::move(layers));
}

KVLayerView KVCache::layer(int layer_idx) const {
  SLIPSTREAM_CHECK(layer_idx >= 0 && layer_idx < spec_.num_layers, "layer out of range");
  const Buffer& buffer = layers_[static_cast<size_t>(layer_idx)];
  KVLayerView view;
  view.k = buffer.data();
  view.v = buffer.as<char>() + buffer.bytes() / 2;
  view.dtype = spec_.dtype;
  view.num_blocks = num_blocks_;
  view.num_kv_heads = spec_.num_kv_heads;
  view.head_dim = spec_.head_dim;
  view.block_size = spec_.block_size;
  return view;
}

void KVCache::poison(int32_t block) {
  constexpr int kNan = 0xFF;  // in every byte: a NaN of f32, f16, bf16 and E4M3
  for (const Buffer& buffer : layers_) {
    const size_t page_bytes = buffer.bytes() / 2 / static_cast<size_t>(num_blocks_);
    for (char* pages : {buffer.as<char>(), buffer.as<char>() + buffer.bytes() / 2}) {
      memory_->fill(pages + static_cast<size_t>(block) * page_bytes, kNan, page_bytes);
    }
  }
}

}  // namespace slipstream
