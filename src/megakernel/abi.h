// What host and persistent kernel agree on: the program's form, where weights lie in the streams,
// and the arguments of a launch. Plain data, without CUDA's headers.
//
// A launch is kDecodeCtas blocks, one on a multiprocessor. A layer is four products and attention,
// a token is all layers and the product of the LM head:
//
//   kQkv      x -> q, k, v         rows [kv head][q heads of it..., k, v][head_dim]
//   attention                      each KV head's context in up to 2^log2_parts parts, one a CTA
//   kOut      attention -> x       added to the residual
//   kGateUp   x -> silu(gate) * up
//   kDown     of that -> x         added to the residual
//   kHead     x -> logits
//
// Rows of a product are dealt out in units of kUnitRows: of U units CTA b has [b U / G, (b + 1) U /
// G), G = kDecodeCtas. A unit of kGateUp is 2 rows of gate and the same 2 of up. A CTA's units are
// tiles: as many of 16 rows as there are, then one of 8 and one of 4 if units are left (`fold` 0,
// 1, 2). Columns are slices of kSliceCols, the last filled up with zeros; a round is at most
// kConsumerWarps slices (see SliceRound).
//
// A CTA's stream holds, for each layer and product, tile after tile, round after round, what fills
// one slot of the ring after the other: for each slice of the round a block of slot_block().bytes.
// That is up to kSlotStages stages of kStageBytes of a tile, or of INT4 the slice of two tiles, one
// behind the other, values and then scales. The 16 rows of the matrix multiply-accumulate are a
// tile's 16 >> fold rows, times the 1 << fold parts of the slice; pack.cu says which word of a
// stage is which.
#pragma once

#include <cstdint>

namespace slipstream {

constexpr int kDecodeCtas = 128;
constexpr int kConsumerWarps = 16;
constexpr int kUnitRows = 4;
constexpr int kTileRows = 16;
constexpr int kSliceCols = 128;
constexpr int kBlockTokens = 16;  // KV positions of a page

constexpr uint32_t kRingEnd = 1u << 31;  // with the id of a launch's last token
constexpr int kMostScaledRounds = 2;     // of an input of is_scaled() products, but for kDown
constexpr int kMostI4DownRounds = 12;    // of the input of an INT4 kDown
constexpr int kMaxTableTiles = 24;       // tiles of a CTA, of products that have a table of rows
constexpr int kMaxEndIds = 8;
constexpr int kMaxLayers = 128;
constexpr int kMaxRingSlots = 8;
// Stamps of a CTA's reducer, of one token of each launch: clocks when it begins, then of each layer
// the seven of LayerStamp, then the first tiles of the LM head and the token's end; and the time in
// ns when it begins and ends.
constexpr int kStampedToken = 8;
constexpr int kMaxStamps = 1024;
constexpr int kBeginNsStamp = kMaxStamps - 2;
constexpr int kEndNsStamp = kMaxStamps - 1;
enum LayerStamp : int {
  kQkvFirst,
  kQkvDone,
  kAttentionDone,
  kOutDone,
  kGateUpFirst,
  kGateUpDone,
  kDownDone
};
constexpr int kLayerStamps = 7;

enum DecodeProduct : int { kQkv, kOut, kGateUp, kDown, kHead };
constexpr int kNumProducts = 5;

enum class StreamFormat : int32_t { kBF16, kF8E4M3, kI4 };
constexpr int kStageBytes = 1024;  // of a slice
constexpr int kSlotStages = 2;
// INT4: a slice of a tile, f16 scales of its rows behind the values. Tiles of 4 rows are filled up.
constexpr int kI4Values = 1024;
constexpr int kI4SliceBytes = kI4Values + kTileRows * 2;
constexpr int i4_slice_bytes(int fold) { return fold == 0 ? kI4SliceBytes : kI4SliceBytes / 2; }
// Of half the warps.
constexpr int half_slot_bytes(StreamFormat layers) {
  return kConsumerWarps / 2 *
         (layers == StreamFormat::kI4 ? 2 * kI4SliceBytes : kSlotStages * kStageBytes);
}
// x of these enters as integers, or f16, of one scale for all that a warp multiplies.
constexpr bool is_scaled(StreamFormat format) { return format != StreamFormat::kBF16; }
// Stages of a slice of a tile of 16 rows; a tile of 8 has half as many, one of 4 a quarter.
constexpr int full_stages(StreamFormat format) { return format == StreamFormat::kBF16 ? 4 : 2; }

struct ProductPhase {
  int32_t num_units = 0;
  int32_t num_cols = 0;
  int32_t num_slices = 0;
  int32_t num_rounds = 0;
  int32_t round_slices = 0;  // of each round but the last, which has what is left
  int32_t max_tiles = 0;     // of a CTA
  int32_t has_table = 0;     // of rows: scales or biases
  StreamFormat format = StreamFormat::kBF16;
};

// What a CTA has of a product.
struct TileShare {
  int first_unit = 0;
  int num_units = 0;
  constexpr int full() const { return num_units / 4; }
  constexpr int num_tiles() const { return num_units / 4 + (num_units / 2) % 2 + num_units % 2; }
  // log2 of the parts that a slice of the tile lies in: 0, 1, 2 for 16, 8, 4 rows.
  constexpr int fold(int tile) const {
    return tile < full() ? 0 : (tile == full() && (num_units & 2) != 0) ? 1 : 2;
  }
  // The tile's first row among the CTA's.
  constexpr int first_row(int tile) const {
    return tile <= full() ? kTileRows * tile : kTileRows * full() + kTileRows / 2;
  }
};
constexpr TileShare tile_share(int num_units, int cta) {
  const auto bound = [&](int i) {
    return static_cast<int>(static_cast<int64_t>(i) * num_units / kDecodeCtas);
  };
  return {bound(cta), bound(cta + 1) - bound(cta)};
}

// Slices of a round, as many in each as can be: the first half of the warps take `lower`, the
// others the rest.
struct SliceRound {
  int first = 0;
  int count = 0;
  constexpr int lower() const { return (count + 1) / 2; }
};
constexpr SliceRound slice_round(const ProductPhase& phase, int round) {
  const int first = round * phase.round_slices;
  const int left = phase.num_slices - first;
  return {first, left < phase.round_slices ? left : phase.round_slices};
}

// Stages of a slice of a tile; not of INT4.
constexpr int num_stages(StreamFormat format, int fold) {
  const int stages = full_stages(format) >> fold;
  return stages > 0 ? stages : 1;
}
// Of a slice of a tile, in all slots.
constexpr int slice_bytes(StreamFormat format, int fold) {
  return format == StreamFormat::kI4 ? i4_slice_bytes(fold)
                                     : num_stages(format, fold) * kStageBytes;
}
// What the slots hold of a slice: of `num_tiles` tiles, of which each has `bytes` in each of
// `num_slots`.
struct SlotBlock {
  int num_tiles = 1;
  int num_slots = 1;
  int bytes = 0;
};
constexpr SlotBlock slot_block(StreamFormat format, const TileShare& share, int tile) {
  const int bytes = slice_bytes(format, share.fold(tile));
  if (format == StreamFormat::kI4) {
    if (tile + 1 == share.num_tiles()) return {1, 1, bytes};
    return {2, 1, bytes + slice_bytes(format, share.fold(tile + 1))};
  }
  constexpr int kMost = kSlotStages * kStageBytes;
  return bytes > kMost ? SlotBlock{1, bytes / kMost, kMost} : SlotBlock{1, 1, bytes};
}
// Bytes of a CTA's tiles before `tile`, and of all with tile = num_tiles().
constexpr int64_t tiles_bytes(const ProductPhase& phase, const TileShare& share, int tile) {
  int64_t bytes = 0;
  for (int i = 0; i < tile; ++i) bytes += slice_bytes(phase.format, share.fold(i));
  return bytes * phase.num_slices;
}
constexpr int64_t product_bytes(const ProductPhase& phase, int cta) {
  const TileShare share = tile_share(phase.num_units, cta);
  return tiles_bytes(phase, share, share.num_tiles());
}
// Where a layer's product begins in a CTA's stream; kHead's layer is num_layers.
constexpr int64_t product_offset(const ProductPhase* products, int cta, int layer, int product) {
  int64_t of_layer = 0;
  int64_t before = 0;
  for (int i = 0; i < kHead; ++i) {
    if (i < product) before += product_bytes(products[i], cta);
    of_layer += product_bytes(products[i], cta);
  }
  return layer * of_layer + (product == kHead ? 0 : before);
}

// One launch decodes a sequence until it ends.
struct DecodeArgs {
  const std::byte* streams = nullptr;  // [CTA][stream_stride]
  int64_t stream_stride = 0;
  ProductPhase products[kNumProducts];

  // Tables of rows, {scale, bias}, of the products that have one.
  const float* row_table = nullptr;  // [layer][product][CTA][tile][16][2], then the head's
  int32_t row_table_offset[kNumProducts] = {};
  int32_t row_table_layer = 0;

  const float* norms = nullptr;     // [2 num_layers + 1][hidden]: attention, mlp, ...; the last
  const float* qk_norms = nullptr;  // [num_layers][q, k][head_dim], or null
  const uint16_t* embed = nullptr;  // bf16 [vocab][hidden]

  // KV pages of each layer: bf16 [block][kv head][kBlockTokens][head_dim], K; V lies v_offset
  // elements further.
  uint16_t* const* kv_layers = nullptr;  // [num_layers]
  int64_t kv_v_offset = 0;
  const int32_t* block_table = nullptr;  // of all positions that the launch can reach
  const float* cos_sin = nullptr;        // [token of the launch][cos..., sin...][head_dim / 2]

  // Words by which CTAs hand on values; see words.cuh. Zero at the start.
  uint32_t* x_words = nullptr;          // [2][hidden]
  uint32_t* qkv_words = nullptr;        // [2][rows of kQkv]
  uint32_t* part_words = nullptr;       // [2][part][attention width]
  uint32_t* part_stats = nullptr;       // [2][part][query head]{maximum, sum}
  uint32_t* attention_words = nullptr;  // [2][attention width]
  uint32_t* mlp_words = nullptr;        // [2][intermediate / 2]
  uint64_t* best_words = nullptr;       // [2][CTA]

  // Of pinned host memory: tokens as (run << 32 | id), and a word that asks for an end.
  uint64_t* ring = nullptr;  // [max_tokens]
  const uint32_t* stop = nullptr;
  uint32_t* abort = nullptr;   // of the device: set, and nobody waits any more
  uint64_t* stamps = nullptr;  // [CTA][kMaxStamps]: see kStampedToken

  int32_t run = 0;
  int32_t first_token = 0;
  int32_t first_position = 0;
  int32_t max_tokens = 0;
  int32_t num_end_ids = 0;
  int32_t end_ids[kMaxEndIds] = {};
  float temperature = 0.0f;  // 0: greedy
  uint64_t seed = 0;
  uint32_t choice_idx = 0;

  int32_t num_layers = 0;
  int32_t hidden = 0;
  int32_t vocab = 0;
  int32_t num_heads = 0;
  int32_t num_kv_heads = 0;
  int32_t heads_per_kv_head = 0;
  int32_t log2_parts = 0;
  int32_t attention_width = 0;    // num_heads * head_dim
  int32_t attention_per_cta = 0;  // values that a CTA merges
  float norm_eps = 0.0f;
  float inverse_hidden = 0.0f;
  float score_scale = 0.0f;  // times log2(e)

  int32_t ring_offset = 0;  // in shared memory
  int32_t num_ring_slots = 0;
  int32_t most_in_flight = 0;   // slots asked for and not landed
  int32_t withheld_token = -1;  // of it CTA 0 tells nobody: a kernel that hangs, for tests
};

}  // namespace slipstream
