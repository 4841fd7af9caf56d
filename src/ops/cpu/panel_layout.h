// The layout `kCpuPanels`: how every CPU instruction set streams weights.
//
// A panel is 16 output rows and all of their columns, one contiguous stream of blocks of 32 columns
// (256 for the K formats). SIMD lanes are rows, so a dot product needs no horizontal sum. A panel
// takes exactly the file's bytes per weight (E4M3: 1/32 more); a last panel that is not full ends
// in zero rows.
//
// Inside a block the 32 columns form 16 pairs: pair i holds columns 2i and 2i + 1 in the low and
// high half of one 32-bit lane per row, as vpmaddwd wants them.
//   nibbles   4 x [16 rows] u32: octet o holds pairs 4o..4o+3; nibble p is the even column of pair
//             4o + p and nibble p + 4 the odd one, so pairs fall out of one load by shift and mask
//   bytes     16 x [16 rows][2] i8
//   bit plane [16 rows] u32: bit i is the fifth bit of pair i's even column, bit 16 + i of the odd
//   2-bit     2 x [16 rows] u32: word w serves pairs 8w..8w+7, two bits each, in the same halves
// Plain constants only: included by files compiled for different instruction sets.
#pragma once

#include <cstdint>

#include "quant/format.h"

namespace slipstream {

constexpr int kPanelRows = 16;
constexpr int kPanelBlock = 32;  // columns that share one activation scale
constexpr int kPanelSuperBlock = 256;
constexpr int kGroupsPerSuperBlock = kPanelSuperBlock / kPanelBlock;
constexpr int kNumQuantTypes = static_cast<int>(QuantType::kE4M3) + 1;

constexpr int kHalfRowBytes = kPanelRows * 2;  // one f16 per row
constexpr int kWordRowBytes = kPanelRows * 4;  // one 32-bit lane per row
constexpr int kNibbleBytes = kPanelRows * kPanelBlock / 2;
constexpr int kBitPlaneBytes = kWordRowBytes;
constexpr int kTwoBitBytes = 2 * kWordRowBytes;

// Offsets inside a block, in stream order: scales (d, then m), bit plane, codes.
constexpr int kQ8Codes = kHalfRowBytes;
constexpr int kQ8Bytes = kQ8Codes + kPanelRows * kPanelBlock;
constexpr int kQ40Codes = kHalfRowBytes;
constexpr int kQ40Bytes = kQ40Codes + kNibbleBytes;
constexpr int kQ41Codes = 2 * kHalfRowBytes;
constexpr int kQ41Bytes = kQ41Codes + kNibbleBytes;
constexpr int kQ50Plane = kHalfRowBytes;
constexpr int kQ50Codes = kQ50Plane + kBitPlaneBytes;
constexpr int kQ50Bytes = kQ50Codes + kNibbleBytes;
constexpr int kQ51Plane = 2 * kHalfRowBytes;
constexpr int kQ51Codes = kQ51Plane + kBitPlaneBytes;
constexpr int kQ51Bytes = kQ51Codes + kNibbleBytes;

// Super-blocks. Q4_K and Q5_K: d, dmin, then three words per row: the low four bits of the eight
// scales, of the eight minimums, and the high two bits of both (scales in the low half).
constexpr int kKScales = 2 * kHalfRowBytes;
constexpr int kKHeader = kKScales + 3 * kWordRowBytes;
constexpr int kQ4KGroup = kNibbleBytes;
constexpr int kQ4KBytes = kKHeader + kGroupsPerSuperBlock * kQ4KGroup;
constexpr int kQ5KGroup = kBitPlaneBytes + kNibbleBytes;  // plane, then nibbles
constexpr int kQ5KBytes = kKHeader + kGroupsPerSuperBlock * kQ5KGroup;
// Q6_K: d, then 16 x [16 rows] i8 scales, then groups of nibbles and two-bit words.
constexpr int kQ6KScales = kHalfRowBytes;
constexpr int kQ6KHeader = kQ6KScales + 16 * kPanelRows;
constexpr int kQ6KGroup = kNibbleBytes + kTwoBitBytes;
constexpr int kQ6KBytes = kQ6KHeader + kGroupsPerSuperBlock * kQ6KGroup;

// E4M3, groups of 128 columns, as few as any file gives a scale to: 256 x the scale of each row,
// f32, then [128 columns][16 rows]. As an f16, a code's bits are 1/256 of its value.
constexpr int kE4m3GroupColumns = 128;
constexpr int kE4m3Blocks = kE4m3GroupColumns / kPanelBlock;
constexpr int kE4m3Codes = kWordRowBytes;
constexpr int kE4m3BlockBytes = kPanelBlock * kPanelRows;
constexpr int kE4m3Bytes = kE4m3Codes + kE4m3Blocks * kE4m3BlockBytes;
constexpr float kE4m3CodeScale = 256.0f;

static_assert(kQ8Bytes == 34 * kPanelRows && kQ40Bytes == 18 * kPanelRows);
static_assert(kQ41Bytes == 20 * kPanelRows && kQ50Bytes == 22 * kPanelRows);
static_assert(kQ51Bytes == 24 * kPanelRows && kQ4KBytes == 144 * kPanelRows);
static_assert(kQ5KBytes == 176 * kPanelRows && kQ6KBytes == 210 * kPanelRows);

// Columns and bytes of one block of a panel. Dense formats are [32 columns][16 rows] (E4M3:
// [128]), padded with zero columns at the end.
struct PanelBlock {
  int columns;
  int bytes;
};
constexpr PanelBlock panel_block(QuantType type) {
  switch (type) {
    case QuantType::kF32:
      return {kPanelBlock, kPanelBlock * kWordRowBytes};
    case QuantType::kF16:
    case QuantType::kBF16:
      return {kPanelBlock, kPanelBlock * kHalfRowBytes};
    case QuantType::kQ8_0:
      return {kPanelBlock, kQ8Bytes};
    case QuantType::kQ4_0:
      return {kPanelBlock, kQ40Bytes};
    case QuantType::kQ4_1:
      return {kPanelBlock, kQ41Bytes};
    case QuantType::kQ5_0:
      return {kPanelBlock, kQ50Bytes};
    case QuantType::kQ5_1:
      return {kPanelBlock, kQ51Bytes};
    case QuantType::kQ4_K:
      return {kPanelSuperBlock, kQ4KBytes};
    case QuantType::kQ5_K:
      return {kPanelSuperBlock, kQ5KBytes};
    case QuantType::kQ6_K:
      return {kPanelSuperBlock, kQ6KBytes};
    case QuantType::kE4M3:
      return {kE4m3GroupColumns, kE4m3Bytes};
  }
  return {0, 0};
}

// Multiplied as floats with the activations' floats.
constexpr bool is_dense(QuantType type) {
  return type <= QuantType::kBF16 || type == QuantType::kE4M3;
}

constexpr int64_t panel_bytes(QuantType type, int64_t cols) {
  const PanelBlock block = panel_block(type);
  return (cols + block.columns - 1) / block.columns * block.bytes;
}

}  // namespace slipstream
