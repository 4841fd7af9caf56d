// One block a tile: every word of the stream is gathered from the row it belongs to.
//
// Bytes: the weights, read and written once. Layout: products.cuh and products_i4.cuh say how
// fragments are read.
#include <cuda_runtime.h>

#include "megakernel/pack.h"

namespace slipstream {
namespace {

constexpr int kThreads = 256;

struct DeviceArgs {
  ProductPhase products[kNumProducts];
  PackProduct args;
};

struct SourceRow {
  int part = -1;  // -1: none, zeros
  int64_t row = 0;
};

__device__ SourceRow find_row(const PackProduct& args, const TileShare& share, int tile, int row) {
  const int fold = share.fold(tile);
  if (args.product == kGateUp) {
    const int num_gates = kTileRows / 2 >> fold;
    return {row >= num_gates,
            share.first_unit * (kUnitRows / 2) + share.first_row(tile) / 2 + row % num_gates};
  }
  const int64_t index = int64_t{share.first_unit} * kUnitRows + share.first_row(tile) + row;
  if (args.product == kQkv) {
    const int heads = args.heads_per_kv_head;
    const int64_t head = index / args.head_dim;
    const int64_t group = head / (heads + 2);
    const auto of_group = static_cast<int>(head % (heads + 2));
    const int64_t dim = index % args.head_dim;
    if (of_group < heads) return {0, (group * heads + of_group) * args.head_dim + dim};
    return {of_group - heads + 1, group * args.head_dim + dim};
  }
  return {index < args.num_rows ? 0 : -1, index};
}

// A slice of a tile of INT4: words of 4 columns of a row in the lower halves of bytes and the next
// 4 in the upper ones; then the scales.
__device__ void pack_i4_slice(const PackProduct& args, const ProductPhase& phase,
                              const TileShare& share, int tile, int slice, std::byte* to, int i) {
  const int fold = share.fold(tile);
  const int num_rows = kTileRows >> fold;
  const int num_values = i4_slice_bytes(fold) - kTileRows * 2 / (fold == 0 ? 1 : 2);
  if (i * 4 < num_values) {
    const int lane = i % (kI4Values / 8) / 4;
    const int reg = i / (kI4Values / 8) * 4 + i % 4;
    const int tile_row = lane / 4 + 8 * (reg & 1);
    const int part = tile_row / num_rows;
    const int of_part = reg / 2 * 8;
    const int col = slice * kSliceCols + lane % 4 * 32 + part * (32 >> fold) + of_part;
    const SourceRow source = find_row(args, share, tile, tile_row % num_rows);
    uint32_t packed = 0;
    if (of_part < 32 >> fold && source.part >= 0) {
      const std::byte* const values = args.parts[source.part].values;
      const uint32_t stored =
          *reinterpret_cast<const uint32_t*>(values + (source.row * phase.num_cols + col) / 2);
      for (int k = 0; k < 4; ++k) {
        packed |= (stored >> (4 * k) & 0xf) << (8 * k);
        packed |= (stored >> (4 * (k + 4)) & 0xf) << (8 * k + 4);
      }
    }
    reinterpret_cast<uint32_t*>(to)[i] = packed;
    return;
  }
  const int at = i - num_values / 4;  // of two scales
  uint32_t packed = 0;
  for (int half = 0; half < 2; ++half) {
    // Of a full tile a row and the one 8 further side by side, as a lane wants them.
    const int row = fold == 0 ? at + 8 * half : 2 * at + half;
    if (row >= num_rows) continue;
    const SourceRow source = find_row(args, share, tile, row);
    if (source.part < 0) continue;
    const uint16_t* const scales = args.parts[source.part].group_scales;
    packed |= static_cast<uint32_t>(scales[source.row * phase.num_slices + slice]) << (16 * half);
  }
  reinterpret_cast<uint32_t*>(to)[i] = packed;
}

__device__ void pack_i4_tile(const PackProduct& args, const ProductPhase& phase,
                             const TileShare& share, int tile, std::byte* product) {
  const int first = tile & ~1;  // of the slot
  const SlotBlock block = slot_block(phase.format, share, first);
  std::byte* const to = product + tiles_bytes(phase, share, first) +
                        (tile != first ? i4_slice_bytes(share.fold(first)) : 0);
  const int num_words = i4_slice_bytes(share.fold(tile)) / 4;
  for (int i = static_cast<int>(threadIdx.x); i < num_words * phase.num_slices; i += kThreads) {
    const int slice = i / num_words;
    pack_i4_slice(args, phase, share, tile, slice, to + int64_t{slice} * block.bytes,
                  i % num_words);
  }
}

__device__ void pack_tile(const PackProduct& args, const ProductPhase& phase,
                          const TileShare& share, int tile, std::byte* product) {
  const int fold = share.fold(tile);
  const int num_rows = kTileRows >> fold;
  const int stages = num_stages(phase.format, fold);
  std::byte* const to = product + tiles_bytes(phase, share, tile);
  constexpr int kWords = kStageBytes / 4;
  const bool is_bf16 = phase.format == StreamFormat::kBF16;
  const int num_words = phase.num_slices * stages * kWords;
  for (int i = static_cast<int>(threadIdx.x); i < num_words; i += kThreads) {
    const int word = i % kWords;
    const int slice = i / kWords % phase.num_slices;
    const int stage = i / kWords / phase.num_slices;
    const int lane = word % (kWords / 2) / 4;  // of the warp that loads 16 bytes a lane, twice
    const int load = word / (kWords / 2);
    const int element = word % 4;
    // Words of a lane: of bf16 a register of the fragment each; of E4M3 two registers.
    const int wide = is_bf16 ? 1 : 2;
    uint32_t packed = 0;
    for (int half = 0; half < wide; ++half) {
      const int reg = (load * 4 + element) * wide + half;  // 4 a multiply-accumulate
      const int tile_row = lane / 4 + 8 * (reg & 1);
      const int part = tile_row / num_rows;
      const int pair = reg / 2;  // of columns
      const int of_part = stage * (is_bf16 ? 8 : 16) + 2 * pair;
      if (of_part >= 32 >> fold) continue;  // the rest of a stage that is not full
      const int col = slice * kSliceCols + lane % 4 * 32 + part * (32 >> fold) + of_part;
      const SourceRow source = find_row(args, share, tile, tile_row % num_rows);
      if (source.part < 0 || col >= phase.num_cols) continue;
      const int64_t at = source.row * phase.num_cols + col;
      const std::byte* const values = args.parts[source.part].values;
      if (is_bf16) {
        packed = *reinterpret_cast<const uint32_t*>(values + at * 2);
      } else {
        packed |= static_cast<uint32_t>(*reinterpret_cast<const uint16_t*>(values + at))
                  << (16 * half);
      }
    }
    const SliceRound slices = slice_round(phase, slice / phase.round_slices);
    const int slot_stages = min(stages, kSlotStages);
    const int64_t block =
        int64_t{slices.first} * stages +
        (int64_t{stage / slot_stages} * slices.count + (slice - slices.first)) * slot_stages +
        stage % slot_stages;
    *reinterpret_cast<uint32_t*>(to + block * kStageBytes + word * 4) = packed;
  }
}

__global__ void __launch_bounds__(kThreads) pack_kernel(const __grid_constant__ DeviceArgs device) {
  const PackProduct& args = device.args;
  const ProductPhase& phase = device.products[args.product];
  const auto cta = static_cast<int>(blockIdx.x);
  const auto tile = static_cast<int>(blockIdx.y);
  const TileShare share = tile_share(phase.num_units, cta);
  if (tile >= share.num_tiles()) return;
  std::byte* const product = args.streams + cta * args.stream_stride +
                             product_offset(device.products, cta, args.layer, args.product);
  if (phase.format == StreamFormat::kI4) {
    pack_i4_tile(args, phase, share, tile, product);
  } else {
    pack_tile(args, phase, share, tile, product);
  }
  if (args.row_table == nullptr || threadIdx.x >= kTileRows) return;
  const auto row = static_cast<int>(threadIdx.x);
  float2 of_row = make_float2(1.0f, 0.0f);
  if (row < kTileRows >> share.fold(tile)) {
    const SourceRow source = find_row(args, share, tile, row);
    if (source.part >= 0) {
      const PackedRows& rows = args.parts[source.part];
      if (rows.scales != nullptr) of_row.x = rows.scales[source.row];
      if (rows.bias != nullptr) of_row.y = rows.bias[source.row];
    }
  }
  reinterpret_cast<float2*>(args.row_table)[(cta * phase.max_tiles + tile) * kTileRows + row] =
      of_row;
}

}  // namespace

const char* pack_product(const PackProduct& args, void* stream) {
  DeviceArgs device;
  for (int i = 0; i < kNumProducts; ++i) device.products[i] = args.products[i];
  device.args = args;
  const dim3 grid(kDecodeCtas, static_cast<unsigned>(args.products[args.product].max_tiles));
  pack_kernel<<<grid, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(device);
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace slipstream
