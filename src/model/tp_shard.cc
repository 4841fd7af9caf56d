#include "model/tp_shard.h"

#include <algorithm>

#include "base/strings.h"

namespace slipstream {
namespace {

IndexRange equal_part(int64_t total, TpShard shard) {
  const int64_t count = total / shard.world_size;
  return {shard.rank * count, count};
}

Status check_divides(const LayerSpec& layer, size_t layer_idx, int world_size) {
  const auto refuse = [&](const std::string& what) {
    return bad_usage(str("layer ", layer_idx, ": ", what, " cannot be divided among ", world_size,
                         " devices; take a number that divides all layers' heads and MLPs"));
  };
  const AttentionSpec& attention = layer.attention;
  if (attention.num_heads % world_size != 0) return refuse(str(attention.num_heads, " heads"));
  const int most = std::max(attention.num_kv_heads, world_size);
  const int least = std::min(attention.num_kv_heads, world_size);
  if (most % least != 0) return refuse(str(attention.num_kv_heads, " KV heads"));
  if (layer.mlp.intermediate_size % world_size != 0) {
    return refuse(str("an intermediate_size of ", layer.mlp.intermediate_size));
  }
  return {};
}

}  // namespace

IndexRange head_range(const AttentionSpec& attention, TpShard shard) {
  return equal_part(attention.num_heads, shard);
}

IndexRange kv_head_range(const AttentionSpec& attention, TpShard shard) {
  if (attention.num_kv_heads >= shard.world_size) return equal_part(attention.num_kv_heads, shard);
  return {int64_t{shard.rank} * attention.num_kv_heads / shard.world_size, 1};
}

IndexRange mlp_range(const MlpSpec& mlp, TpShard shard) {
  return equal_part(mlp.intermediate_size, shard);
}

// In units of 64 rows, so that matrices and columns of logits begin where kernels like them to;
// smaller ones where some device would have none.
IndexRange vocab_range(int64_t vocab_size, TpShard shard) {
  int64_t unit = 64;
  while (unit > 1 && vocab_size < unit * shard.world_size) unit /= 2;
  const int64_t num_units = (vocab_size + unit - 1) / unit;
  const auto boundary = [&](int rank) {
    return std::min(num_units * rank / shard.world_size * unit, vocab_size);
  };
  return {boundary(shard.rank), boundary(shard.rank + 1) - boundary(shard.rank)};
}

std::vector<IndexRange> vocab_ranges(int64_t vocab_size, int world_size) {
  std::vector<IndexRange> ranges;
  for (int rank = 0; rank < world_size; ++rank) {
    ranges.push_back(vocab_range(vocab_size, {rank, world_size}));
  }
  return ranges;
}

Result<DecoderSpec> shard_spec(const DecoderSpec& spec, TpShard shard) {
  SLIPSTREAM_CHECK(shard.rank >= 0 && shard.rank < shard.world_size, "a rank lies in its world");
  if (spec.vocab_size < shard.world_size) {
    return bad_usage(str("a vocabulary of ", spec.vocab_size, " cannot be divided among ",
                         shard.world_size, " devices"));
  }
  DecoderSpec local = spec;
  for (size_t layer_idx = 0; layer_idx < spec.layers.size(); ++layer_idx) {
    const LayerSpec& whole = spec.layers[layer_idx];
    SLIPSTREAM_RETURN_IF_ERROR(check_divides(whole, layer_idx, shard.world_size));
    LayerSpec& part = local.layers[layer_idx];
    part.attention.num_heads = static_cast<int>(head_range(whole.attention, shard).count);
    part.attention.num_kv_heads = static_cast<int>(kv_head_range(whole.attention, shard).count);
    part.mlp.intermediate_size = mlp_range(whole.mlp, shard).count;
  }
  return local;
}

}  // namespace slipstream
