// KVCache: the pages of every layer, taken once at start. Which sequence owns which block is the
// BlockManager's business; this class owns bytes only.
#pragma once

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "core/tensor.h"
#include "ops/ops.h"

namespace slipstream {

// A group of layers that share block tables. Only full attention so far; sliding and recurrent
// groups differ in how many blocks a sequence needs.
struct KVGroupSpec {
  int num_layers = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  int block_size = 16;
  DType dtype = DType::kF16;

  int64_t block_bytes() const {  // K and V of one block in all layers
    return int64_t{2} * num_layers * num_kv_heads * head_dim * block_size *
           static_cast<int64_t>(dtype_bytes(dtype));
  }
};

class KVCache {
 public:
  // On the host this reserves address space: pages become resident when first written.
  static Result<KVCache> create(const KVGroupSpec& spec, int64_t num_blocks,
                                const DeviceMemory& memory = host_memory());

  KVLayerView layer(int layer_idx) const;
  // Makes every value of a block not a number, in all layers: what is read before it is written
  // shows.
  void poison(int32_t block);
  const KVGroupSpec& spec() const { return spec_; }
  int64_t num_blocks() const { return num_blocks_; }
  int64_t bytes() const { return num_blocks_ * spec_.block_bytes(); }

 private:
  KVCache(const KVGroupSpec& spec, int64_t num_blocks, const DeviceMemory& memory,
          std::vector<Buffer> layers)
      : spec_(spec), num_blocks_(num_blocks), memory_(&memory), layers_(std::move(layers)) {}
  KVGroupSpec spec_;
  int64_t num_blocks_ = 0;
  const DeviceMemory* memory_;
  std::vector<Buffer> layers_;  // per layer: K pages, then V pages
};

}  // namespace slipstream
