// Consumer warps: products of INT4 weights. A slot holds a slice of two tiles, so that what a slot
// and an x cost is paid once for 32 rows; at the end of a CTA's rows one tile may be alone.
//
// x is a 15-bit integer in two bytes, a column of the multiply-accumulate each. A weight enters as
// 16 times its value, which needs no more than a mask (and a shift of the lower half of a word).
// Sums of a slice are exact; each is multiplied with the scale of its row and slice.
#pragma once

#include "megakernel/products.cuh"

namespace slipstream::megakernel {

// Of a slice of a tile, as loaded. A tile that is no full one has only `first`.
struct I4Stage {
  uint4 first;
  uint4 second;
  uint32_t scales;  // f16 of this lane's row, and of the row 8 further
};

// A word: 4 columns of a row in the lower halves of bytes, the next 4 in the upper ones.
__device__ __forceinline__ void multiply_i4(int (&sums)[4], uint32_t row, uint32_t row_8,
                                            uint32_t x_low, uint32_t x_high) {
  constexpr uint32_t kUpper = 0xf0f0f0f0u;
  mma_s8(sums, row << 4 & kUpper, row_8 << 4 & kUpper, row & kUpper, row_8 & kUpper, x_low, x_high);
}
__device__ __forceinline__ void add_i4(float (&to)[2], const int (&sums)[4], uint32_t scales) {
  const float2 scale = unpack_f16(scales);
  to[0] += static_cast<float>(sums[0] * 256 + sums[1]) * scale.x;
  to[1] += static_cast<float>(sums[2] * 256 + sums[3]) * scale.y;
}

// False: the token before was the last.
template <typename Model>
__device__ __forceinline__ bool Consumer<Model>::product_i4(Step step) {
  constexpr uint32_t kUnitBytes = 2 * Map::kUnitRow;
  constexpr uint32_t kSliceBytes = Map::slice_bytes(StreamFormat::kI4);
  const ProductPhase& phase = p.products[step.product()];
  const TileShare share = tile_share(phase.num_units, at.cta);
  const int num_tiles = share.num_tiles();
  const int num_rounds = phase.num_rounds;
  const uint32_t ring = at.smem + p.ring_offset + upper() * Model::kHalfSlotBytes;
  // Of the tiles that are loaded next: folds, -1 where there is none, and this warp's block.
  int fold0, fold1;
  uint32_t my_block;
  const auto look = [&](int tile) {
    fold0 = share.fold(tile);
    fold1 = tile + 1 < num_tiles ? share.fold(tile + 1) : -1;
    my_block = warp_of_half() * (i4_slice_bytes(fold0) + (fold1 < 0 ? 0 : i4_slice_bytes(fold1)));
  };
  I4Stage s0, s1;
  const auto load_stage = [&](I4Stage& to, uint32_t from, int fold) {
    to.first = lds128(from + at.lane * 16);
    if (fold == 0) {
      to.second = lds128(from + kI4Values / 2 + at.lane * 16);
      to.scales = lds32(from + kI4Values + (at.lane >> 2) * 4);
    } else {
      // Rows of a multiply-accumulate that are parts of one row have its scale.
      const uint32_t rows = kTileRows >> fold;
      const uint32_t row = at.lane >> 2;
      const uint32_t scale = lds16(from + kI4Values / 2 + (row & (rows - 1)) * 2);
      to.scales = scale | scale << 16;
    }
  };
  const auto load = [&] {
    wait_slot();
    const uint32_t from = ring + my_block + state.slot * (2 * Model::kHalfSlotBytes);
    load_stage(s0, from, fold0);
    uint32_t loaded = s0.scales;
    if (fold1 >= 0) {
      load_stage(s1, from + i4_slice_bytes(fold0), fold1);
      loaded = s1.scales;
    }
    free_slot(loaded);
  };
  // The first slot is in registers when x comes.
  prefetch_norm(step);
  look(0);
  load();
  if (step.packed != 0) wait_published();
  if (step.packed % Step::kTokenUnit == 0 && lds32(at.smem + Map::token) == kEnded) return false;
  constexpr float kOfWeights = 1.0f / 16.0f;
  const float factor =
      kOfWeights * (step.product() == kDown
                        ? get_mlp(phase, step.token() * p.num_layers + step.layer())
                        : get_x(StreamFormat::kI4, step));
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

  // A part of the slice is 16 or 8 columns of each lane's 32; with 8 the rest of the words is 0.
  const auto multiply_folded = [&](float(&sums)[2], const I4Stage& stage, uint32_t x, int fold) {
    const uint32_t part = (at.lane >> 3) & ((1 << fold) - 1);
    const uint32_t from =
        x + (fold == 1 ? part * kUnitBytes : (part >> 1) * kUnitBytes + (part & 1) * 8);
    const uint2 x0 = lds64(from);
    int products[4] = {};
    multiply_i4(products, stage.first.x, stage.first.y, x0.x, x0.y);
    if (fold == 1) {
      const uint2 x1 = lds64(from + 8);
      multiply_i4(products, stage.first.z, stage.first.w, x1.x, x1.y);
    }
    add_i4(sums, products, stage.scales);
  };
  // Column pairs of the result hold the parts of a slice, so a row's sum is where its part is.
  const auto put_sums = [&](const float(&sums)[2], uint32_t offset, int fold) {
    const float r0 = sums[0] * factor;
    const float r1 = sums[1] * factor;
    if (fold < 2) {
      sts_float_if(sums_of_row + offset, second ? r1 : r0, (at.lane & 3) < 2);
    } else {
      const uint32_t pair = (at.lane & 3) - (at.lane >> 4);
      const uint32_t row = (at.lane >> 2) + (pair == 2 ? 8 : 0);
      sts_float_if(at.smem + Map::sums + offset + row * Map::kSumStride + at.warp * 4,
                   pair == 2 ? r1 : r0, pair == 0 || pair == 2);
    }
  };
#pragma unroll 1
  for (int tile = 0; tile < num_tiles; tile += 2) {
    const int of0 = fold0;
    const int of1 = fold1;
    uint32_t x = first_x;
    float sums0[2] = {};
    float sums1[2] = {};
#pragma unroll 1
    for (int left = num_rounds; left > 0; --left) {
      if (left == 1) x += last_x;
      if (left == 1 ? last_mine : mine) {
        if (of1 == 0) {
          const uint4 x0 = lds128(x);
          const uint4 x1 = lds128(x + kUnitBytes);
          int products0[4] = {};
          int products1[4] = {};
          const auto four = [&](int(&products)[4], const I4Stage& stage) {
            multiply_i4(products, stage.first.x, stage.first.y, x0.x, x0.y);
            multiply_i4(products, stage.first.z, stage.first.w, x0.z, x0.w);
            multiply_i4(products, stage.second.x, stage.second.y, x1.x, x1.y);
            multiply_i4(products, stage.second.z, stage.second.w, x1.z, x1.w);
          };
          four(products0, s0);
          four(products1, s1);
          add_i4(sums0, products0, s0.scales);
          add_i4(sums1, products1, s1.scales);
        } else {
          if (of0 == 0) {
            const uint4 x0 = lds128(x);
            const uint4 x1 = lds128(x + kUnitBytes);
            int products[4] = {};
            multiply_i4(products, s0.first.x, s0.first.y, x0.x, x0.y);
            multiply_i4(products, s0.first.z, s0.first.w, x0.z, x0.w);
            multiply_i4(products, s0.second.x, s0.second.y, x1.x, x1.y);
            multiply_i4(products, s0.second.z, s0.second.w, x1.z, x1.w);
            add_i4(sums0, products, s0.scales);
          } else {
            multiply_folded(sums0, s0, x, of0);
          }
          if (of1 > 0) multiply_folded(sums1, s1, x, of1);
        }
      }
      if (left == 1) {
        if (tile + 2 >= num_tiles) break;
        if (tile + 2 >= share.full() - 1) look(tile + 2);
      }
      load();
      x += round_x;
    }
    const uint32_t slot = state.num_pairs & (kPairSlots - 1);
    if (state.num_pairs >= kPairSlots) {
      wait(at.smem + Map::sums_empty + slot * 8, (state.num_pairs / kPairSlots & 1) ^ 1);
    }
    put_sums(sums0, slot * 2 * Map::kTileSums, of0);
    if (of1 >= 0) put_sums(sums1, (slot * 2 + 1) * Map::kTileSums, of1);
    __syncwarp();
    arrive_if(at.smem + Map::sums_full + slot * 8, at.lane == 0);
    ++state.num_pairs;
  }
  return true;
}

}  // namespace slipstream::megakernel
