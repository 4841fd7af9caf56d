#include "ops/cpu/attention.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace slipstream {
namespace {

// Partial results in scratch: enough for this many tokens at full context. Batches above it have
// tiles enough to keep threads busy without splitting a context.
constexpr int64_t kSplitTokens = 4;

int64_t num_partitions(int64_t positions) {
  return (positions + kAttentionPartition - 1) / kAttentionPartition;
}

// How the query heads of one KV head and the tokens of a sequence are cut into tiles.
struct TileShape {
  int heads_per_kv = 1;
  int heads_per_tile = 1;  // of one KV head
  int head_tiles = 1;      // tiles per KV head
  int64_t tokens_per_tile = 1;
};

TileShape tile_shape(const AttentionArgs& args) {
  TileShape shape;
  shape.heads_per_kv = static_cast<int>(args.q.dim(1)) / args.kv.num_kv_heads;
  shape.heads_per_tile = std::min(shape.heads_per_kv, kAttentionRows);
  shape.head_tiles = (shape.heads_per_kv + shape.heads_per_tile - 1) / shape.heads_per_tile;
  shape.tokens_per_tile = std::max(1, kAttentionRows / shape.heads_per_tile);
  return shape;
}

// A tile's place in the batch.
struct TilePlace {
  int seq = 0;
  int64_t first_token = 0;  // row of q
  int64_t num_tokens = 0;
  int kv_head = 0;
  int first_head = 0;
  int num_heads = 0;
};

// Finds token tile `token_tile` by walking the sequences; batches have few.
TilePlace place_of(const AttentionArgs& args, const TileShape& shape, int64_t token_tile,
                   int64_t head_tile) {
  TilePlace place;
  for (;; ++place.seq) {
    const int64_t begin = args.batch.cu_seqlens_q[place.seq];
    const int64_t count = args.batch.cu_seqlens_q[place.seq + 1] - begin;
    const int64_t tiles = (count + shape.tokens_per_tile - 1) / shape.tokens_per_tile;
    if (token_tile < tiles) {
      place.first_token = begin + token_tile * shape.tokens_per_tile;
      place.num_tokens = std::min(shape.tokens_per_tile,
                                  args.batch.cu_seqlens_q[place.seq + 1] - place.first_token);
      break;
    }
    token_tile -= tiles;
  }
  place.kv_head = static_cast<int>(head_tile / shape.head_tiles);
  const int offset = static_cast<int>(head_tile % shape.head_tiles) * shape.heads_per_tile;
  place.first_head = place.kv_head * shape.heads_per_kv + offset;
  place.num_heads = std::min(shape.heads_per_tile, shape.heads_per_kv - offset);
  return place;
}

AttentionTile tile_of(const AttentionArgs& args, const TilePlace& place) {
  const KVLayerView& kv = args.kv;
  const int64_t element_bytes = static_cast<int64_t>(dtype_bytes(kv.dtype));
  const int64_t head_elements = int64_t{kv.head_dim} * kv.block_size;
  AttentionTile tile;
  tile.q_token_stride = args.q.stride[0];
  tile.q_head_stride = args.q.stride[1];
  tile.q = static_cast<const float*>(args.q.data) + place.first_token * tile.q_token_stride +
           place.first_head * tile.q_head_stride;
  tile.num_tokens = static_cast<int>(place.num_tokens);
  tile.num_heads = place.num_heads;
  tile.head_dim = kv.head_dim;
  const int64_t seq_end = args.batch.cu_seqlens_q[place.seq + 1];
  tile.first_position = args.batch.seq_lens[place.seq] - (seq_end - place.first_token);
  tile.window = args.window;
  tile.scale = args.scale;
  tile.softcap = args.softcap;
  const int64_t head_offset = place.kv_head * head_elements * element_bytes;
  tile.k = static_cast<const uint8_t*>(kv.k) + head_offset;
  tile.v = static_cast<const uint8_t*>(kv.v) + head_offset;
  tile.block_elements = head_elements * kv.num_kv_heads;
  tile.block_size = kv.block_size;
  tile.half_kv = kv.dtype == DType::kF16;
  tile.blocks = args.batch.block_table + place.seq * args.batch.block_table_stride;
  return tile;
}

// Partitions that any row of the tile sees.
struct Partitions {
  int64_t begin;
  int64_t end;
};
Partitions partitions_of(const AttentionTile& tile) {
  const int64_t oldest =
      tile.window > 0 ? std::max<int64_t>(0, tile.first_position - tile.window + 1) : 0;
  return {oldest / kAttentionPartition, num_partitions(tile.first_position + tile.num_tokens)};
}

void store_tile(const CpuKernels& kernels, const AttentionArgs& args, const TilePlace& place,
                const float* state) {
  const int64_t stride = attention_state_floats(args.kv.head_dim);
  for (int64_t t = 0; t < place.num_tokens; ++t) {
    for (int h = 0; h < place.num_heads; ++h) {
      float* out = static_cast<float*>(args.out.data) +
                   (place.first_token + t) * args.out.stride[0] +
                   (place.first_head + h) * args.out.stride[1];
      kernels.attention_finish(state, args.kv.head_dim, out);
      state += stride;
    }
  }
}

constexpr int64_t kStateFloats = kAttentionRows * attention_state_floats(kMaxHeadDim);

// One thread walks all partitions of a tile.
void run_tile(const CpuKernels& kernels, const AttentionArgs& args, const TilePlace& place) {
  alignas(64) float state[kStateFloats];
  alignas(64) float next[kStateFloats];
  const AttentionTile tile = tile_of(args, place);
  const Partitions partitions = partitions_of(tile);
  kernels.attention_partition(tile, partitions.begin, state);
  for (int64_t p = partitions.begin + 1; p < partitions.end; ++p) {
    kernels.attention_partition(tile, p, next);
    kernels.attention_merge(state, next, place.num_tokens * place.num_heads, tile.head_dim);
  }
  store_tile(kernels, args, place, state);
}

struct Tiles {
  TileShape shape;
  int64_t head_tiles = 0;
  int64_t token_tiles = 0;
  int64_t max_partitions = 0;
  int64_t count() const { return token_tiles * head_tiles; }
};

Tiles count_tiles(const AttentionArgs& args) {
  Tiles tiles;
  tiles.shape = tile_shape(args);
  tiles.head_tiles = int64_t{args.kv.num_kv_heads} * tiles.shape.head_tiles;
  for (int seq = 0; seq < args.batch.num_seqs; ++seq) {
    const int64_t count = args.batch.cu_seqlens_q[seq + 1] - args.batch.cu_seqlens_q[seq];
    tiles.token_tiles += (count + tiles.shape.tokens_per_tile - 1) / tiles.shape.tokens_per_tile;
    tiles.max_partitions = std::max(tiles.max_partitions, num_partitions(args.batch.seq_lens[seq]));
  }
  return tiles;
}

// Every (tile, partition) is a task; a second loop merges a tile's partitions in order, the same
// operations as run_tile.
void run_split(const CpuKernels& kernels, OpContext& ctx, const AttentionArgs& args,
               const Tiles& tiles) {
  const int64_t row_floats = attention_state_floats(args.kv.head_dim);
  const int64_t tile_rows = tiles.shape.tokens_per_tile * tiles.shape.heads_per_tile;
  const auto state_of = [&](int64_t tile_idx, int64_t partition) {
    return ctx.scratch.as<float>() +
           (tile_idx * tiles.max_partitions + partition) * tile_rows * row_floats;
  };
  ctx.pool->run(tiles.count() * tiles.max_partitions, [&](int64_t idx, int) {
    const int64_t tile_idx = idx / tiles.max_partitions;
    const int64_t partition = idx % tiles.max_partitions;
    const TilePlace place =
        place_of(args, tiles.shape, tile_idx / tiles.head_tiles, tile_idx % tiles.head_tiles);
    const AttentionTile tile = tile_of(args, place);
    const Partitions partitions = partitions_of(tile);
    if (partition < partitions.begin || partition >= partitions.end) return;
    kernels.attention_partition(tile, partition, state_of(tile_idx, partition));
  });
  for (int64_t tile_idx = 0; tile_idx < tiles.count(); ++tile_idx) {
    const TilePlace place =
        place_of(args, tiles.shape, tile_idx / tiles.head_tiles, tile_idx % tiles.head_tiles);
    const Partitions partitions = partitions_of(tile_of(args, place));
    float* state = state_of(tile_idx, partitions.begin);
    for (int64_t p = partitions.begin + 1; p < partitions.end; ++p) {
      kernels.attention_merge(state, state_of(tile_idx, p), place.num_tokens * place.num_heads,
                              args.kv.head_dim);
    }
    store_tile(kernels, args, place, state);
  }
}

bool should_split(const OpContext& ctx, const AttentionArgs& args, const Tiles& tiles) {
  if (tiles.max_partitions < 2 || tiles.count() >= 2 * ctx.pool->num_threads()) return false;
  const int64_t rows = tiles.count() * tiles.shape.tokens_per_tile * tiles.shape.heads_per_tile;
  const int64_t floats = rows * tiles.max_partitions * attention_state_floats(args.kv.head_dim);
  return floats * int64_t{sizeof(float)} <= static_cast<int64_t>(ctx.scratch.bytes());
}

void check_args(const AttentionArgs& args) {
  const KVLayerView& kv = args.kv;
  SLIPSTREAM_CHECK(kv.head_dim <= kMaxHeadDim, "head_dim is at most 512");
  SLIPSTREAM_CHECK(kv.block_size % 16 == 0, "KV blocks hold a multiple of 16 positions");
  SLIPSTREAM_CHECK(kv.dtype == DType::kF16 || kv.dtype == DType::kF32, "KV pages are f16 or f32");
  SLIPSTREAM_CHECK(args.q.dim(1) % kv.num_kv_heads == 0, "query heads share KV heads evenly");
}

// K is stored with positions contiguous, so a token's values land block_size elements apart.
template <typename T>
void scatter(const T* values, int64_t count, int64_t stride, T* out) {
  for (int64_t d = 0; d < count; ++d) out[d * stride] = values[d];
}

void append_head(const CpuKernels& kernels, const float* k, const float* v, int64_t slot,
                 int kv_head, const KVLayerView& kv) {
  const int64_t block = slot / kv.block_size;
  const int64_t offset = slot % kv.block_size;
  const int64_t head = (block * kv.num_kv_heads + kv_head) * kv.head_dim * kv.block_size;
  const size_t bytes = dtype_bytes(kv.dtype) * static_cast<size_t>(kv.head_dim);
  if (kv.dtype == DType::kF32) {
    scatter(k, kv.head_dim, kv.block_size, static_cast<float*>(kv.k) + head + offset);
    std::memcpy(static_cast<float*>(kv.v) + head + offset * kv.head_dim, v, bytes);
    return;
  }
  uint16_t halves[kMaxHeadDim];
  kernels.to_half(k, kv.head_dim, halves);
  scatter(halves, kv.head_dim, kv.block_size, static_cast<uint16_t*>(kv.k) + head + offset);
  kernels.to_half(v, kv.head_dim, static_cast<uint16_t*>(kv.v) + head + offset * kv.head_dim);
}

}  // namespace

size_t attention_scratch_bytes(const OpLimits& limits) {
  const int64_t rows = kSplitTokens * limits.max_heads * num_partitions(limits.max_context);
  return static_cast<size_t>(rows * attention_state_floats(static_cast<int>(limits.max_head_dim))) *
         sizeof(float);
}

void cpu_attention(const CpuKernels& kernels, OpContext& ctx, const AttentionArgs& args) {
  check_args(args);
  Tiles tiles = count_tiles(args);
  if (tiles.token_tiles == 0) return;
  // Decoding sequences have one token each: tiles need no room for more.
  if (tiles.token_tiles == args.q.dim(0)) tiles.shape.tokens_per_tile = 1;
  if (should_split(ctx, args, tiles)) return run_split(kernels, ctx, args, tiles);
  // Late tokens see most positions: hand their tiles out first.
  ctx.pool->run(tiles.count(), [&](int64_t idx, int) {
    const int64_t tile_idx = tiles.count() - 1 - idx;
    run_tile(kernels, args,
             place_of(args, tiles.shape, tile_idx / tiles.head_tiles, tile_idx % tiles.head_tiles));
  });
}

void cpu_kv_append(const CpuKernels& kernels, OpContext& ctx, TensorView k, TensorView v,
                   const int64_t* slot_mapping, const KVLayerView& kv) {
  SLIPSTREAM_CHECK(kv.head_dim <= kMaxHeadDim, "head_dim is at most 512");
  constexpr int64_t kTokensPerTask = 16;
  const int64_t num_tokens = k.dim(0);
  ctx.pool->run((num_tokens + kTokensPerTask - 1) / kTokensPerTask, [&](int64_t task, int) {
    const int64_t end = std::min(num_tokens, (task + 1) * kTokensPerTask);
    for (int64_t m = task * kTokensPerTask; m < end; ++m) {
      for (int head = 0; head < kv.num_kv_heads; ++head) {
        append_head(kernels, k.f32_row(m) + head * k.stride[1], v.f32_row(m) + head * v.stride[1],
                    slot_mapping[m], head, kv);
      }
    }
  });
}

}  // namespace slipstream
