// What lies where in shared memory, in bytes. The vectors x and the ring of weights come last:
// their sizes are the model's.
#pragma once

#include "megakernel/abi.h"

namespace slipstream::megakernel {

constexpr int kConsumerThreads = kConsumerWarps * 32;
constexpr int kPairSlots = 4;       // of tile pairs whose sums wait for the reducer
constexpr int kAttentionWarps = 8;  // that take KV pages: the first 4 of each half
constexpr uint32_t kEnded = ~0u;    // in place of a token

// HeadDim; Heads: query heads that share a KV head, filled up to 2, 4 or 8.
template <int HeadDim, int Heads>
struct SharedMap {
  // Sums of a tile: [row][warp] float, rows 4 words apart from alignment so that banks differ.
  static constexpr int kSumStride = (kConsumerWarps + 4) * 4;
  static constexpr int kTileSums = kTileRows * kSumStride;
  static constexpr int sums = 0;
  static constexpr int squares = sums + kPairSlots * 2 * kTileSums;  // of x, float [warp]
  static constexpr int residual = squares + kConsumerWarps * 4;      // float [64]
  // Rows of this product and of the next, {scale, bias} [tile][row].
  static constexpr int kTable = kMaxTableTiles * kTileRows * 8;
  static constexpr int tables = residual + 256;
  // bf16 rows [head_dim]: groups of 4 heads, rounded, then what that lost.
  static constexpr int kGroups = (Heads + 3) / 4;
  static constexpr int q = tables + 2 * kTable;
  static constexpr int new_k = q + kGroups * 8 * HeadDim * 2;
  static constexpr int new_v = new_k + HeadDim * 2;
  // Of an attention warp: weights [position][head], then factors of what was summed before.
  static constexpr int kWeightRow = kGroups * 16;
  static constexpr int kWarpWeights = (kBlockTokens + 1) * kWeightRow;
  static constexpr int weights = new_v + HeadDim * 2;
  static constexpr int stats = weights + kAttentionWarps * kWarpWeights;  // {max, sum} [warp][head]
  static constexpr int barriers = (stats + kAttentionWarps * Heads * 8 + 15) / 16 * 16;
  static constexpr int full = barriers;
  static constexpr int empty = full + kMaxRingSlots * 2 * 8;
  static constexpr int sums_full = empty + kMaxRingSlots * 2 * 8;
  static constexpr int sums_empty = sums_full + kPairSlots * 8;
  static constexpr int published = sums_empty + kPairSlots * 8;
  static constexpr int kv_written = published + 8;
  static constexpr int parts_out = kv_written + 8;
  static constexpr int token = parts_out + 8;
  static constexpr int progress = token + 4;
  static constexpr int kv_layers = progress + 4;  // pointers [layer]
  // x as two values each, [slice][unit][rounded, lost][lane][16 bytes]: see put_x(). During
  // attention instead the warps' outputs, float [warp][head][head_dim].
  static constexpr int x = (kv_layers + kMaxLayers * 8 + 127) / 128 * 128;
  static constexpr int kUnitRow = 4 * 16;
  static constexpr int slice_bytes(StreamFormat format) {
    return kSliceCols * 2 * (format == StreamFormat::kI4 ? 1 : 2);
  }
  static constexpr int kOutputs = kAttentionWarps * Heads * HeadDim * 4;
  static constexpr int ring(int x_bytes) {
    return (x + (x_bytes > kOutputs ? x_bytes : kOutputs) + 127) / 128 * 128;
  }
};

// What a kernel is compiled for.
template <int HeadDim, int Heads, StreamFormat Layers, StreamFormat LmHead>
struct KernelModel {
  using Map = SharedMap<HeadDim, Heads>;
  static constexpr int kHeadDim = HeadDim;
  static constexpr int kHeads = Heads;
  static constexpr StreamFormat kLayers = Layers;
  static constexpr StreamFormat kLmHead = LmHead;
  static constexpr int kHalfSlotBytes = half_slot_bytes(Layers);
};

}  // namespace slipstream::megakernel
