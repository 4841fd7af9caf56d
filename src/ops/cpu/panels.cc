#include "ops/cpu/panels.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "base/strings.h"
#include "core/e4m3.h"
#include "core/half.h"
#include "core/huge_pages.h"
#include "ops/cpu/panel_layout.h"
#include "quant/gguf_blocks.h"

namespace slipstream {
namespace {

using Codes = uint8_t[kPanelBlock];

template <typename T>
void put(std::byte* at, T value) {
  std::memcpy(at, &value, sizeof(T));
}

template <typename T>
T get(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof(T));
  return value;
}

// ---- one row's part of the code areas of a block; `lane` is the row within the panel ----

void put_nibbles(std::byte* area, int lane, const Codes& codes) {
  for (int octet = 0; octet < 4; ++octet) {
    uint32_t word = 0;
    for (int p = 0; p < 4; ++p) {
      const int column = 8 * octet + 2 * p;
      word |= static_cast<uint32_t>(codes[column] & 15) << (4 * p);
      word |= static_cast<uint32_t>(codes[column + 1] & 15) << (4 * p + 16);
    }
    put(area + octet * kWordRowBytes + lane * 4, word);
  }
}

void get_nibbles(const std::byte* area, int lane, Codes& codes) {
  for (int octet = 0; octet < 4; ++octet) {
    const auto word = get<uint32_t>(area + octet * kWordRowBytes + lane * 4);
    for (int p = 0; p < 4; ++p) {
      codes[8 * octet + 2 * p] = static_cast<uint8_t>(word >> (4 * p) & 15);
      codes[8 * octet + 2 * p + 1] = static_cast<uint8_t>(word >> (4 * p + 16) & 15);
    }
  }
}

void put_bit_plane(std::byte* area, int lane, const Codes& codes) {
  uint32_t word = 0;
  for (int pair = 0; pair < 16; ++pair) {
    word |= static_cast<uint32_t>(codes[2 * pair] >> 4 & 1) << pair;
    word |= static_cast<uint32_t>(codes[2 * pair + 1] >> 4 & 1) << (pair + 16);
  }
  put(area + lane * 4, word);
}

void add_bit_plane(const std::byte* area, int lane, Codes& codes) {
  const auto word = get<uint32_t>(area + lane * 4);
  for (int pair = 0; pair < 16; ++pair) {
    codes[2 * pair] |= static_cast<uint8_t>((word >> pair & 1) << 4);
    codes[2 * pair + 1] |= static_cast<uint8_t>((word >> (pair + 16) & 1) << 4);
  }
}

void put_two_bits(std::byte* area, int lane, const Codes& codes) {
  uint32_t words[2] = {0, 0};
  for (int pair = 0; pair < 16; ++pair) {
    const int shift = 2 * (pair % 8);
    words[pair / 8] |= static_cast<uint32_t>(codes[2 * pair] >> 4 & 3) << shift;
    words[pair / 8] |= static_cast<uint32_t>(codes[2 * pair + 1] >> 4 & 3) << (shift + 16);
  }
  for (int w = 0; w < 2; ++w) put(area + w * kWordRowBytes + lane * 4, words[w]);
}

void add_two_bits(const std::byte* area, int lane, Codes& codes) {
  for (int pair = 0; pair < 16; ++pair) {
    const auto word = get<uint32_t>(area + pair / 8 * kWordRowBytes + lane * 4);
    const int shift = 2 * (pair % 8);
    codes[2 * pair] |= static_cast<uint8_t>((word >> shift & 3) << 4);
    codes[2 * pair + 1] |= static_cast<uint8_t>((word >> (shift + 16) & 3) << 4);
  }
}

// Codes of a GGUF block of 32: byte j is element j (low nibble) and element j + 16 (high).
void split_nibbles(const uint8_t* q, Codes& codes) {
  for (int j = 0; j < 16; ++j) {
    codes[j] = q[j] & 15;
    codes[j + 16] = q[j] >> 4;
  }
}

void split_fifth_bits(const uint8_t* high_bits, Codes& codes) {
  const auto bits = get<uint32_t>(reinterpret_cast<const std::byte*>(high_bits));
  for (int j = 0; j < kPanelBlock; ++j) codes[j] |= static_cast<uint8_t>((bits >> j & 1) << 4);
}

// ---- one source block of one row into its panel block ----

void pack_q8_0(const std::byte* source, int lane, std::byte* block) {
  const auto in = get<BlockQ8_0>(source);
  put(block + lane * 2, in.d);
  for (int pair = 0; pair < 16; ++pair) {
    std::byte* at = block + kQ8Codes + (pair * kPanelRows + lane) * 2;
    put(at, in.q[2 * pair]);
    put(at + 1, in.q[2 * pair + 1]);
  }
}

void pack_q4_0(const std::byte* source, int lane, std::byte* block) {
  const auto in = get<BlockQ4_0>(source);
  Codes codes;
  split_nibbles(in.q, codes);
  put(block + lane * 2, in.d);
  put_nibbles(block + kQ40Codes, lane, codes);
}

void pack_q4_1(const std::byte* source, int lane, std::byte* block) {
  const auto in = get<BlockQ4_1>(source);
  Codes codes;
  split_nibbles(in.q, codes);
  put(block + lane * 2, in.d);
  put(block + kHalfRowBytes + lane * 2, in.m);
  put_nibbles(block + kQ41Codes, lane, codes);
}

void pack_q5_0(const std::byte* source, int lane, std::byte* block) {
  const auto in = get<BlockQ5_0>(source);
  Codes codes;
  split_nibbles(in.q, codes);
  split_fifth_bits(in.high_bits, codes);
  put(block + lane * 2, in.d);
  put_bit_plane(block + kQ50Plane, lane, codes);
  put_nibbles(block + kQ50Codes, lane, codes);
}

void pack_q5_1(const std::byte* source, int lane, std::byte* block) {
  const auto in = get<BlockQ5_1>(source);
  Codes codes;
  split_nibbles(in.q, codes);
  split_fifth_bits(in.high_bits, codes);
  put(block + lane * 2, in.d);
  put(block + kHalfRowBytes + lane * 2, in.m);
  put_bit_plane(block + kQ51Plane, lane, codes);
  put_nibbles(block + kQ51Codes, lane, codes);
}

void put_k_scales(const uint8_t* scales, int lane, std::byte* block) {
  uint32_t words[3] = {0, 0, 0};
  for (int group = 0; group < kGroupsPerSuperBlock; ++group) {
    const ScaleMin pair = q4_k_scale_min(scales, group);
    words[0] |= static_cast<uint32_t>(pair.scale & 15) << (4 * group);
    words[1] |= static_cast<uint32_t>(pair.minimum & 15) << (4 * group);
    words[2] |= static_cast<uint32_t>(pair.scale >> 4 & 3) << (2 * group);
    words[2] |= static_cast<uint32_t>(pair.minimum >> 4 & 3) << (2 * group + 16);
  }
  for (int w = 0; w < 3; ++w) put(block + kKScales + w * kWordRowBytes + lane * 4, words[w]);
}

// The 32 nibbles of one group: low nibbles of 32 bytes for even groups, high ones for odd.
void k_group_codes(const uint8_t* q, int group, Codes& codes) {
  const uint8_t* bytes = q + group / 2 * 32;
  const int shift = group % 2 * 4;
  for (int l = 0; l < kPanelBlock; ++l) codes[l] = static_cast<uint8_t>(bytes[l] >> shift & 15);
}

void pack_q4_k(const std::byte* source, int lane, std::byte* block) {
  const auto in = get<BlockQ4_K>(source);
  put(block + lane * 2, in.d);
  put(block + kHalfRowBytes + lane * 2, in.dmin);
  put_k_scales(in.scales, lane, block);
  for (int group = 0; group < kGroupsPerSuperBlock; ++group) {
    Codes codes;
    k_group_codes(in.q, group, codes);
    put_nibbles(block + kKHeader + group * kQ4KGroup, lane, codes);
  }
}

void pack_q5_k(const std::byte* source, int lane, std::byte* block) {
  const auto in = get<BlockQ5_K>(source);
  put(block + lane * 2, in.d);
  put(block + kHalfRowBytes + lane * 2, in.dmin);
  put_k_scales(in.scales, lane, block);
  for (int group = 0; group < kGroupsPerSuperBlock; ++group) {
    Codes codes;
    k_group_codes(in.q, group, codes);
    for (int l = 0; l < kPanelBlock; ++l) {
      codes[l] |= static_cast<uint8_t>((in.high_bits[l] >> group & 1) << 4);
    }
    std::byte* area = block + kKHeader + group * kQ5KGroup;
    put_bit_plane(area, lane, codes);
    put_nibbles(area + kBitPlaneBytes, lane, codes);
  }
}

void pack_q6_k(const std::byte* source, int lane, std::byte* block) {
  const auto in = get<BlockQ6_K>(source);
  put(block + lane * 2, in.d);
  for (int s = 0; s < 16; ++s) put(block + kQ6KScales + s * kPanelRows + lane, in.scales[s]);
  for (int group = 0; group < kGroupsPerSuperBlock; ++group) {
    // Four runs of 32 elements share 64 low bytes and 32 high bytes.
    const int half = group / 4;
    const int run = group % 4;
    const uint8_t* low = in.low + half * 64 + run % 2 * 32;
    const uint8_t* high = in.high + half * 32;
    Codes codes;
    for (int l = 0; l < kPanelBlock; ++l) {
      const int nibble = low[l] >> (run / 2 * 4) & 15;
      codes[l] = static_cast<uint8_t>(nibble | (high[l] >> (2 * run) & 3) << 4);
    }
    std::byte* area = block + kQ6KHeader + group * kQ6KGroup;
    put_nibbles(area, lane, codes);
    put_two_bits(area + kNibbleBytes, lane, codes);
  }
}

using PackBlock = void (*)(const std::byte* source, int lane, std::byte* block);
PackBlock pack_block_function(QuantType type) {
  switch (type) {
    case QuantType::kQ8_0:
      return pack_q8_0;
    case QuantType::kQ4_0:
      return pack_q4_0;
    case QuantType::kQ4_1:
      return pack_q4_1;
    case QuantType::kQ5_0:
      return pack_q5_0;
    case QuantType::kQ5_1:
      return pack_q5_1;
    case QuantType::kQ4_K:
      return pack_q4_k;
    case QuantType::kQ5_K:
      return pack_q5_k;
    case QuantType::kQ6_K:
      return pack_q6_k;
    default:
      return nullptr;
  }
}

// Dense formats: element (row, column) of a panel sits at [column][row].
void pack_dense_row(const SourceMatrix& source, int64_t row, int lane, std::byte* panel) {
  const int bytes = quant_format(source.type).block_bytes;
  const std::byte* in = source.data + row * source.row_bytes();
  for (int64_t column = 0; column < source.cols; ++column) {
    std::memcpy(panel + (column * kPanelRows + lane) * bytes, in + column * bytes,
                static_cast<size_t>(bytes));
  }
}

void pack_e4m3_row(const SourceMatrix& source, int64_t row, int lane, std::byte* panel) {
  const std::byte* in = source.data + row * source.row_bytes();
  for (int64_t begin = 0; begin < source.cols; begin += kE4m3GroupColumns) {
    put(panel + lane * 4, scale_at(source, row, begin) * kE4m3CodeScale);
    const int64_t count = std::min<int64_t>(kE4m3GroupColumns, source.cols - begin);
    std::byte* codes = panel + kE4m3Codes + lane;
    for (int64_t k = 0; k < count; ++k) codes[k * kPanelRows] = in[begin + k];
    panel += kE4m3Bytes;
  }
}

void pack_panel(const SourceMatrix& source, int64_t panel_idx, std::byte* panel) {
  const int64_t bytes = panel_bytes(source.type, source.cols);
  const int64_t begin = panel_idx * kPanelRows;
  const int64_t end = std::min(begin + kPanelRows, source.rows);
  if (end - begin < kPanelRows || is_dense(source.type)) {
    std::memset(panel, 0, static_cast<size_t>(bytes));
  }
  const PanelBlock block = panel_block(source.type);
  const QuantFormat& format = quant_format(source.type);
  for (int64_t row = begin; row < end; ++row) {
    const int lane = static_cast<int>(row - begin);
    if (source.type == QuantType::kE4M3) {
      pack_e4m3_row(source, row, lane, panel);
      continue;
    }
    if (is_dense(source.type)) {
      pack_dense_row(source, row, lane, panel);
      continue;
    }
    const PackBlock pack_block = pack_block_function(source.type);
    const std::byte* in = source.data + row * source.row_bytes();
    for (int64_t b = 0; b < source.cols / block.columns; ++b) {
      pack_block(in + b * format.block_bytes, lane, panel + b * block.bytes);
    }
  }
}

// Matrices from half this size up get memory of their own.
constexpr size_t kWeightChunkBytes = size_t{32} << 20;

struct WeightMemory {
  std::shared_ptr<Buffer> owner;
  std::byte* payload;
};

WeightMemory take_weight_memory(OpContext& ctx, size_t bytes) {
  if (bytes >= kWeightChunkBytes / 2) {
    auto owner = std::make_shared<Buffer>(bytes);
    advise_huge_pages(*owner);
    return {owner, owner->as<std::byte>()};
  }
  const size_t aligned = (bytes + Buffer::kAlignment - 1) / Buffer::kAlignment * Buffer::kAlignment;
  if (ctx.weight_chunk == nullptr || ctx.weight_chunk->bytes() - ctx.weight_chunk_used < aligned) {
    ctx.weight_chunk = std::make_shared<Buffer>(kWeightChunkBytes);
    ctx.weight_chunk_used = 0;
    advise_huge_pages(*ctx.weight_chunk);
  }
  std::byte* payload = ctx.weight_chunk->as<std::byte>() + ctx.weight_chunk_used;
  ctx.weight_chunk_used += aligned;
  return {ctx.weight_chunk, payload};
}

// ---- rows back out of panels: the same float operations as quant/gguf_blocks.cc ----

float half_at(const std::byte* at) { return f16_to_f32(get<uint16_t>(at)); }

void read_q8_0(const std::byte* block, int lane, float* out) {
  const float d = half_at(block + lane * 2);
  for (int column = 0; column < kPanelBlock; ++column) {
    const int64_t at = kQ8Codes + (column / 2 * kPanelRows + lane) * 2 + column % 2;
    out[column] = d * static_cast<float>(get<int8_t>(block + at));
  }
}

struct SmallFormat {
  int codes;
  int plane;  // 0: none
  int offset;
  bool has_min;
};

void read_small(const SmallFormat& format, const std::byte* block, int lane, float* out) {
  Codes codes;
  get_nibbles(block + format.codes, lane, codes);
  if (format.plane != 0) add_bit_plane(block + format.plane, lane, codes);
  const float d = half_at(block + lane * 2);
  if (format.has_min) {
    const float m = half_at(block + kHalfRowBytes + lane * 2);
    for (int l = 0; l < kPanelBlock; ++l) out[l] = d * static_cast<float>(codes[l]) + m;
  } else {
    for (int l = 0; l < kPanelBlock; ++l) out[l] = d * static_cast<float>(codes[l] - format.offset);
  }
}

void read_q4_k_or_q5_k(QuantType type, const std::byte* block, int lane, float* out) {
  const float d = half_at(block + lane * 2);
  const float dmin = half_at(block + kHalfRowBytes + lane * 2);
  uint32_t words[3];
  for (int w = 0; w < 3; ++w) {
    words[w] = get<uint32_t>(block + kKScales + w * kWordRowBytes + lane * 4);
  }
  for (int group = 0; group < kGroupsPerSuperBlock; ++group) {
    Codes codes;
    if (type == QuantType::kQ4_K) {
      get_nibbles(block + kKHeader + group * kQ4KGroup, lane, codes);
    } else {
      const std::byte* area = block + kKHeader + group * kQ5KGroup;
      get_nibbles(area + kBitPlaneBytes, lane, codes);
      add_bit_plane(area, lane, codes);
    }
    const uint32_t scale = (words[0] >> (4 * group) & 15) | (words[2] >> (2 * group) & 3) << 4;
    const uint32_t minimum = (words[1] >> (4 * group) & 15) | (words[2] >> (2 * group + 16) & 3)
                                                                  << 4;
    const float step = d * static_cast<float>(scale);
    const float low = dmin * static_cast<float>(minimum);
    for (int l = 0; l < kPanelBlock; ++l) {
      out[group * kPanelBlock + l] = step * static_cast<float>(codes[l]) - low;
    }
  }
}

void read_q6_k(const std::byte* block, int lane, float* out) {
  const float d = half_at(block + lane * 2);
  for (int group = 0; group < kGroupsPerSuperBlock; ++group) {
    const std::byte* area = block + kQ6KHeader + group * kQ6KGroup;
    Codes codes;
    get_nibbles(area, lane, codes);
    add_two_bits(area + kNibbleBytes, lane, codes);
    for (int l = 0; l < kPanelBlock; ++l) {
      const auto scale = get<int8_t>(block + kQ6KScales + (2 * group + l / 16) * kPanelRows + lane);
      out[group * kPanelBlock + l] =
          d * static_cast<float>(scale) * static_cast<float>(codes[l] - 32);
    }
  }
}

void read_block(QuantType type, const std::byte* block, int lane, float* out) {
  switch (type) {
    case QuantType::kQ8_0:
      return read_q8_0(block, lane, out);
    case QuantType::kQ4_0:
      return read_small({kQ40Codes, 0, 8, false}, block, lane, out);
    case QuantType::kQ4_1:
      return read_small({kQ41Codes, 0, 0, true}, block, lane, out);
    case QuantType::kQ5_0:
      return read_small({kQ50Codes, kQ50Plane, 16, false}, block, lane, out);
    case QuantType::kQ5_1:
      return read_small({kQ51Codes, kQ51Plane, 0, true}, block, lane, out);
    case QuantType::kQ4_K:
    case QuantType::kQ5_K:
      return read_q4_k_or_q5_k(type, block, lane, out);
    case QuantType::kQ6_K:
      return read_q6_k(block, lane, out);
    default:
      SLIPSTREAM_CHECK(false, "dense formats have no blocks");
  }
}

float read_dense(QuantType type, const std::byte* panel, int64_t index) {
  if (type == QuantType::kF32) return get<float>(panel + index * 4);
  const auto bits = get<uint16_t>(panel + index * 2);
  return type == QuantType::kF16 ? f16_to_f32(bits) : bf16_to_f32(bits);
}

void read_e4m3_row(const Weight& weight, const std::byte* panel, int lane, float* out) {
  for (int64_t begin = 0; begin < weight.cols; begin += kE4m3GroupColumns) {
    const float scale = get<float>(panel + lane * 4) / kE4m3CodeScale;
    const int64_t count = std::min<int64_t>(kE4m3GroupColumns, weight.cols - begin);
    for (int64_t k = 0; k < count; ++k) {
      const auto code = get<uint8_t>(panel + kE4m3Codes + k * kPanelRows + lane);
      out[begin + k] = e4m3_to_f32(code) * scale;
    }
    panel += kE4m3Bytes;
  }
}

}  // namespace

Result<Weight> pack_panels(OpContext& ctx, const SourceMatrix& source) {
  const PanelBlock block = panel_block(source.type);
  if (source.rows <= 0 || source.cols <= 0 ||
      (!is_dense(source.type) && source.cols % block.columns != 0)) {
    return invalid_model(str("a ", source.rows, " x ", source.cols, " matrix cannot be ",
                             quant_format(source.type).name, ": columns must be a multiple of ",
                             quant_format(source.type).block_elements));
  }
  const ScaleGrid& scales = source.scales;
  if (scales.data != nullptr && scales.cols_per_scale < source.cols &&
      scales.cols_per_scale % kE4m3GroupColumns != 0) {
    return invalid_model(str("a scale for every ", scales.cols_per_scale,
                             " columns: must be a multiple of ", kE4m3GroupColumns));
  }
  const int64_t num_panels = (source.rows + kPanelRows - 1) / kPanelRows;
  const int64_t bytes = panel_bytes(source.type, source.cols);
  auto [owner, payload] = take_weight_memory(ctx, static_cast<size_t>(num_panels * bytes));
  ctx.pool->run(num_panels, [&, to = payload](int64_t panel_idx, int) {
    pack_panel(source, panel_idx, to + panel_idx * bytes);
  });
  Weight weight;
  weight.type = source.type;
  weight.layout = WeightLayout::kCpuPanels;
  weight.rows = source.rows;
  weight.cols = source.cols;
  weight.payload = payload;
  weight.payload_bytes = num_panels * bytes;
  weight.owner = std::move(owner);
  return weight;
}

void dequantize_panel_row(const Weight& weight, int64_t row, float* out) {
  const std::byte* panel =
      weight.payload + row / kPanelRows * panel_bytes(weight.type, weight.cols);
  const int lane = static_cast<int>(row % kPanelRows);
  if (weight.type == QuantType::kE4M3) return read_e4m3_row(weight, panel, lane, out);
  if (is_dense(weight.type)) {
    for (int64_t column = 0; column < weight.cols; ++column) {
      out[column] = read_dense(weight.type, panel, column * kPanelRows + lane);
    }
    return;
  }
  const PanelBlock block = panel_block(weight.type);
  for (int64_t b = 0; b < weight.cols / block.columns; ++b) {
    read_block(weight.type, panel + b * block.bytes, lane, out + b * block.columns);
  }
}

}  // namespace slipstream
