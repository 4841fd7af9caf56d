// Consumer warps: their part of the products. Warp w multiplies the slices of columns that
// slice_round() gives it, of every row of its CTA, and leaves a sum a row to the reducer.
#pragma once

#include "megakernel/consumer.cuh"
#include "megakernel/inputs.cuh"

namespace slipstream::megakernel {

// A stage: 32 columns a row of a bf16 tile, 64 of an E4M3 tile.
template <typename Model>
__device__ __forceinline__ void Consumer<Model>::multiply(StreamFormat format, float (&sums)[2][4],
                                                          const uint4& a, const uint4& b,
                                                          uint32_t x) {
  const uint4 x0 = lds128(x);
  if (format == StreamFormat::kBF16) {
    mma_bf16(sums[0], a.x, a.y, a.z, a.w, x0.x, x0.y);
    mma_bf16(sums[1], b.x, b.y, b.z, b.w, x0.z, x0.w);
  } else {
    const uint4 x1 = lds128(x + 2 * Map::kUnitRow);
    const auto four = [&](float* c, uint32_t w0, uint32_t w1, uint32_t x_low, uint32_t x_high) {
      uint32_t f[4];
      e4m3_to_f16(w0, f[0], f[1]);
      e4m3_to_f16(w1, f[2], f[3]);
      mma_f16(c, f[0], f[1], f[2], f[3], x_low, x_high);
    };
    four(sums[0], a.x, a.y, x0.x, x0.y);
    four(sums[1], a.z, a.w, x0.z, x0.w);
    four(sums[0], b.x, b.y, x1.x, x1.y);
    four(sums[1], b.z, b.w, x1.z, x1.w);
  }
}

// False: the token before was the last.
//
// Integer instructions bind here: four warps of a multiprocessor's quarter share a pipe that takes
// one in two clocks, so that what does not change from tile to tile is computed once.
template <typename Model>
__device__ __forceinline__ bool Consumer<Model>::product(Step step) {
  constexpr int kUnits = 4;  // of x, of a lane
  constexpr uint32_t kUnitBytes = 2 * Map::kUnitRow;
  constexpr uint32_t kSliceBytes = Map::slice_bytes(StreamFormat::kBF16);  // as of E4M3
  const StreamFormat format = format_of(step);
  const ProductPhase& phase = p.products[step.product()];
  const TileShare share = tile_share(phase.num_units, at.cta);
  const int num_tiles = share.num_tiles();
  const int num_full = share.full();
  const int num_rounds = phase.num_rounds;
  const uint32_t ring = at.smem + p.ring_offset + upper() * Model::kHalfSlotBytes + at.lane * 16;
  // Of the slot that is loaded next.
  int stages = num_stages(format, share.fold(0));
  uint32_t my_block = warp_of_half() * min(stages, kSlotStages) * kStageBytes;
  uint4 a[kSlotStages];
  uint4 b[kSlotStages];
  const auto load = [&] {
    wait_slot();
    const uint32_t from = ring + my_block + state.slot * (2 * Model::kHalfSlotBytes);
    a[0] = lds128(from), b[0] = lds128(from + kStageBytes / 2);
    uint32_t loaded = b[0].w;
    if (stages >= kSlotStages) {
      a[1] = lds128(from + kStageBytes), b[1] = lds128(from + kStageBytes * 3 / 2);
      loaded = b[1].w;
    }
    free_slot(loaded);
  };
  // The first slot is in registers when x comes.
  prefetch_norm(step);
  load();
  if (step.packed != 0) wait_published();
  if (step.packed % Step::kTokenUnit == 0 && lds32(at.smem + Map::token) == kEnded) return false;
  const float factor = !kI4Layers && step.product() == kDown
                           ? get_mlp(phase, step.token() * p.num_layers + step.layer())
                           : get_x(format, step);
  int first_slice;
  int last_slice;
  const bool mine = my_slice(phase, 0, first_slice);
  const bool last_mine = my_slice(phase, num_rounds - 1, last_slice);
  const uint32_t first_x = at.smem + Map::x + first_slice * kSliceBytes +
                           ((at.lane >> 2) & 1) * Map::kUnitRow + (at.lane & 3) * 16;
  const uint32_t round_x = phase.round_slices * kSliceBytes;
  // The last round's halves may be shorter, so that its slices lie elsewhere.
  const uint32_t last_x = (last_slice - first_slice) * kSliceBytes - (num_rounds - 1) * round_x;
  const bool second = (at.lane & 3) == 1;
  const uint32_t sums_of_row =
      at.smem + Map::sums + ((at.lane >> 2) + (second ? 8 : 0)) * Map::kSumStride + at.warp * 4;
#pragma unroll 1
  for (int tile = 0; tile < num_tiles; ++tile) {
    const int fold = tile < num_full ? 0 : share.fold(tile);
    uint32_t x = first_x;
    if (fold != 0) {
      x += ((at.lane >> 3) & ((1 << fold) - 1)) * (kUnits >> fold) * kUnitBytes;
    }
    const int of_round = (stages + 1) / kSlotStages;  // slots
    float sums[2][4] = {};
#pragma unroll 1
    for (int left = num_rounds; left > 0; --left) {
      if (left == 1) x += last_x;
      const bool is_mine = left == 1 ? last_mine : mine;
#pragma unroll 1
      for (int slots = of_round; slots > 0; --slots) {
        if (is_mine) {
          // Only bf16 has a second slot.
          const uint32_t slot_x = x + (slots != of_round ? 2 * kUnitBytes : 0);
          multiply(format, sums, a[0], b[0], slot_x);
          if (stages >= kSlotStages) {
            multiply(format, sums, a[1], b[1],
                     slot_x + (format == StreamFormat::kBF16 ? kUnitBytes : 2 * kUnitBytes));
          }
        }
        if (slots == 1 && left == 1) {
          if (tile + 1 == num_tiles) break;
          if (tile + 1 >= num_full) {
            stages = num_stages(format, share.fold(tile + 1));
            my_block = warp_of_half() * min(stages, kSlotStages) * kStageBytes;
          }
        }
        load();
      }
      x += round_x;
    }
    float r0 = (sums[0][0] + sums[1][0]) + (sums[0][1] + sums[1][1]);
    float r1 = (sums[0][2] + sums[1][2]) + (sums[0][3] + sums[1][3]);
    if (format == StreamFormat::kF8E4M3) r0 *= factor, r1 *= factor;
    const uint32_t slot = state.num_pairs & (kPairSlots - 1);
    if ((tile & 1) == 0 && state.num_pairs >= kPairSlots) {
      wait(at.smem + Map::sums_empty + slot * 8, (state.num_pairs / kPairSlots & 1) ^ 1);
    }
    // Column pairs of the result hold the parts of a slice, so a row's sum is where its part is.
    const uint32_t offset = (slot * 2 + (tile & 1)) * Map::kTileSums;
    if (fold < 2) {
      sts_float_if(sums_of_row + offset, second ? r1 : r0, (at.lane & 3) < 2);
    } else {
      const uint32_t pair = (at.lane & 3) - (at.lane >> 4);
      const uint32_t row = (at.lane >> 2) + (pair == 2 ? 8 : 0);
      sts_float_if(at.smem + Map::sums + offset + row * Map::kSumStride + at.warp * 4,
                   pair == 2 ? r1 : r0, pair == 0 || pair == 2);
    }
    if ((tile & 1) != 0 || tile == num_tiles - 1) {
      __syncwarp();
      arrive_if(at.smem + Map::sums_full + slot * 8, at.lane == 0);
      ++state.num_pairs;
    }
  }
  return true;
}

}  // namespace slipstream::megakernel
