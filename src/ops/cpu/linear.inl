// linear: y[token, row] = sum over blocks b of
//     float(sum over 32 columns of w_code * x_code) * (d[row, b] * x_scale[token, b])
//   + m[row, b] * x_sum[token, b]                        (formats with a minimum)
// by one FMA per term, in block order. The integer sum is exact, so every path below gives a
// (row, token) the same bits: weights unpacked in registers (fused, few tokens, bound by memory) or
// once per panel into L1 (tiled, bound by vpmaddwd), any tile, any split over threads.
// Dense formats are in linear_dense.inl.
// Reference: linear of ops/cpu/ref.

template <int kValue>
struct Index {
  static constexpr int value = kValue;
};

// f(Index<begin>), ..., f(Index<end - 1>), unrolled.
template <int kBegin, int kEnd, typename Function>
SLIPSTREAM_INLINE void unroll(const Function& f) {
  if constexpr (kBegin < kEnd) {
    f(Index<kBegin>{});
    unroll<kBegin + 1, kEnd>(f);
  }
}

// ---- formats: where block b's scales and codes are, and how 16 rows of pair i are unpacked ----

template <int kPair>
SLIPSTREAM_INLINE I32x16 nibble_pair(const uint8_t* nibbles) {
  constexpr int kShift = 4 * (kPair % 4);
  const I32x16 shifted = i16_shift_right<kShift>(i32_load(nibbles + kPair / 4 * kWordRowBytes));
  if constexpr (kShift == 12) return shifted;
  return i32_and(shifted, i32_set(0x000F000F));
}

template <int kPair>
SLIPSTREAM_INLINE I32x16 fifth_bit_pair(const uint8_t* plane) {
  const I32x16 bits = i32_load(plane);
  if constexpr (kPair < 4) {
    return i32_and(i16_shift_left<4 - kPair>(bits), i32_set(0x00100010));
  } else {
    return i32_and(i16_shift_right<kPair - 4>(bits), i32_set(0x00100010));
  }
}

template <int kPair>
SLIPSTREAM_INLINE I32x16 two_bit_pair(const uint8_t* words) {
  constexpr int kShift = 2 * (kPair % 8);
  const I32x16 bits = i32_load(words + kPair / 8 * kWordRowBytes);
  if constexpr (kShift < 4) {
    return i32_and(i16_shift_left<4 - kShift>(bits), i32_set(0x00300030));
  } else {
    return i32_and(i16_shift_right<kShift - 4>(bits), i32_set(0x00300030));
  }
}

// A format has: kScales (2 when 16 columns share a scale), kHasMin, kOffset (its codes stand for
// code - kOffset), kBytes per 32 columns (rounded up, for prefetch) and the members below.
struct FormatQ8_0 {
  static constexpr int kScales = 1, kOffset = 0, kBytes = kQ8Bytes;
  static constexpr bool kHasMin = false;
  const uint8_t* at;
  SLIPSTREAM_INLINE FormatQ8_0(const uint8_t* panel, int64_t b) : at(panel + b * kQ8Bytes) {}
  template <int kPair>
  SLIPSTREAM_INLINE I32x16 pair() const {
    return widen_byte_pairs(at + kQ8Codes + kPair * 32);
  }
  SLIPSTREAM_INLINE F32x16 scale(int) const { return f32_load_half(at); }
};

template <int kBlockBytes, int kPlane, int kCodes, bool kMin, int kCodeOffset>
struct FormatSmall {
  static constexpr int kScales = 1, kOffset = kCodeOffset, kBytes = kBlockBytes;
  static constexpr bool kHasMin = kMin;
  const uint8_t* at;
  SLIPSTREAM_INLINE FormatSmall(const uint8_t* panel, int64_t b) : at(panel + b * kBlockBytes) {}
  template <int kPair>
  SLIPSTREAM_INLINE I32x16 pair() const {
    const I32x16 low = nibble_pair<kPair>(at + kCodes);
    if constexpr (kPlane == 0) return low;
    return i32_or(low, fifth_bit_pair<kPair>(at + kPlane));
  }
  SLIPSTREAM_INLINE F32x16 scale(int) const { return f32_load_half(at); }
  SLIPSTREAM_INLINE F32x16 min() const { return f32_load_half(at + kHalfRowBytes); }
};
using FormatQ4_0 = FormatSmall<kQ40Bytes, 0, kQ40Codes, false, 8>;
using FormatQ4_1 = FormatSmall<kQ41Bytes, 0, kQ41Codes, true, 0>;
using FormatQ5_0 = FormatSmall<kQ50Bytes, kQ50Plane, kQ50Codes, false, 16>;
using FormatQ5_1 = FormatSmall<kQ51Bytes, kQ51Plane, kQ51Codes, true, 0>;

// Q4_K and Q5_K: d * scale and dmin * minimum are exact in float.
template <int kSuperBytes, int kGroupBytes, bool kPlane>
struct FormatK {
  static constexpr int kScales = 1, kOffset = 0, kBytes = kGroupBytes + 64;
  static constexpr bool kHasMin = true;
  const uint8_t* head;
  const uint8_t* at;
  int group;
  SLIPSTREAM_INLINE FormatK(const uint8_t* panel, int64_t b)
      : head(panel + b / kGroupsPerSuperBlock * kSuperBytes),
        at(head + kKHeader + b % kGroupsPerSuperBlock * kGroupBytes),
        group(static_cast<int>(b % kGroupsPerSuperBlock)) {}
  template <int kPair>
  SLIPSTREAM_INLINE I32x16 pair() const {
    if constexpr (!kPlane) return nibble_pair<kPair>(at);
    return i32_or(nibble_pair<kPair>(at + kBitPlaneBytes), fifth_bit_pair<kPair>(at));
  }
  // Six bits: four from word `low`, two from bits high_shift.. of the last word.
  SLIPSTREAM_INLINE F32x16 six_bits(int low, int high_shift) const {
    const uint8_t* words = head + kKScales;
    const I32x16 low_bits =
        i32_and(i32_shift_right(i32_load(words + low * kWordRowBytes), 4 * group), i32_set(15));
    const I32x16 high_bits =
        i32_and(i32_shift_right(i32_load(words + 2 * kWordRowBytes), high_shift), i32_set(3));
    return f32_from_i32(i32_or(low_bits, i32_shift_left(high_bits, 4)));
  }
  SLIPSTREAM_INLINE F32x16 scale(int) const {
    return f32_mul(f32_load_half(head), six_bits(0, 2 * group));
  }
  SLIPSTREAM_INLINE F32x16 min() const {
    const F32x16 negated = f32_sub(f32_set(0.0f), f32_load_half(head + kHalfRowBytes));
    return f32_mul(negated, six_bits(1, 2 * group + 16));
  }
};
using FormatQ4_K = FormatK<kQ4KBytes, kQ4KGroup, false>;
using FormatQ5_K = FormatK<kQ5KBytes, kQ5KGroup, true>;

struct FormatQ6_K {
  static constexpr int kScales = 2, kOffset = 0, kBytes = kQ6KGroup + 64;
  static constexpr bool kHasMin = false;
  const uint8_t* head;
  const uint8_t* at;
  int group;
  SLIPSTREAM_INLINE FormatQ6_K(const uint8_t* panel, int64_t b)
      : head(panel + b / kGroupsPerSuperBlock * kQ6KBytes),
        at(head + kQ6KHeader + b % kGroupsPerSuperBlock * kQ6KGroup),
        group(static_cast<int>(b % kGroupsPerSuperBlock)) {}
  template <int kPair>
  SLIPSTREAM_INLINE I32x16 pair() const {
    const I32x16 code = i32_or(nibble_pair<kPair>(at), two_bit_pair<kPair>(at + kNibbleBytes));
    return i16_sub(code, i32_set(0x00200020));
  }
  SLIPSTREAM_INLINE F32x16 scale(int s) const {
    const uint8_t* scales = head + kQ6KScales + (2 * group + s) * kPanelRows;
    return f32_mul(f32_load_half(head), f32_from_i32(widen_bytes(scales)));
  }
};

// Blocks per pass of the tiled path: 8 KB of unpacked codes stay in L1 with the activations.
constexpr int kChunkBlocks = 8;
constexpr int kPairLanes = 2 * kPanelRows;  // i16 of one unpacked pair

// Weights already unpacked by unpack_block, offset subtracted.
struct UnpackedBlocks {
  alignas(64) int16_t codes[kChunkBlocks][16][kPairLanes];
  alignas(64) float scales[kChunkBlocks][2][kPanelRows];
  alignas(64) float mins[kChunkBlocks][kPanelRows];
};

template <int kScaleCount, bool kMin>
struct FormatUnpacked {
  static constexpr int kScales = kScaleCount, kOffset = 0;
  static constexpr bool kHasMin = kMin;
  const UnpackedBlocks* blocks;
  int64_t b;
  template <int kPair>
  SLIPSTREAM_INLINE I32x16 pair() const {
    return i32_load(blocks->codes[b][kPair]);
  }
  SLIPSTREAM_INLINE F32x16 scale(int s) const { return f32_load(blocks->scales[b][s]); }
  SLIPSTREAM_INLINE F32x16 min() const { return f32_load(blocks->mins[b]); }
};

template <typename Format>
SLIPSTREAM_INLINE void unpack_block(const Format& block, int64_t b, UnpackedBlocks* out) {
  unroll<0, 16>([&](auto pair) SLIPSTREAM_INLINE_LAMBDA {
    I32x16 codes = block.template pair<pair.value>();
    if constexpr (Format::kOffset != 0) {
      codes = i16_sub(codes, i32_set(Format::kOffset * 0x00010001));
    }
    i32_store(out->codes[b][pair.value], codes);
  });
  for (int s = 0; s < Format::kScales; ++s) f32_store(out->scales[b][s], block.scale(s));
  if constexpr (Format::kHasMin) f32_store(out->mins[b], block.min());
}

// ---- activations ----

// Where a tile's block b of `width` tokens starts, counted in blocks.
struct TileInput {
  const int16_t* codes;
  const float* scales;
  const float* sums;
  const int32_t* code_sums;
  const float* values;
};

SLIPSTREAM_INLINE TileInput tile_input(const PreparedInput& input, int64_t first_token,
                                       int64_t width, int64_t b) {
  const int64_t at = first_token * input.num_blocks + b * width;
  TileInput tile = {};
  if (input.codes != nullptr) {
    tile = {input.codes + at * kPanelBlock, input.scales + at, input.sums + at,
            input.code_sums + at, nullptr};
  }
  if (input.values != nullptr) tile.values = input.values + at * kPanelBlock;
  return tile;
}

SLIPSTREAM_INLINE int64_t tile_width(const PreparedInput& input, int64_t tile_idx) {
  const int64_t left = input.num_tokens - tile_idx * kTileTokens;
  return left < kTileTokens ? left : kTileTokens;
}

// Code range: 32 * 128 * 32767 < 2^31, so no integer sum of a block overflows.
constexpr float kMaxCode = 32767.0f;

SLIPSTREAM_INLINE void prepare_block(const float* x, int64_t count, int64_t at,
                                     const PreparedInput& input) {
  const F32x16 v0 = f32_load_first(x, count);
  const F32x16 v1 = f32_load_first(x + 16, count > 16 ? count - 16 : 0);
  // As integers, magnitudes order like floats and NaN is above infinity.
  const int32_t peak_bits = i32_max_lane(i32_max(i32_bits(f32_abs(v0)), i32_bits(f32_abs(v1))));
  float peak;
  __builtin_memcpy(&peak, &peak_bits, sizeof(peak));
  float scale = peak / kMaxCode;
  float inverse = kMaxCode / peak;
  if (peak_bits >= 0x7F800000) {  // infinity or NaN poisons the token's whole row of outputs
    scale = __builtin_nanf("");
    inverse = 0.0f;
  } else if (peak < 1e-30f) {  // below any effect, and the inverse would overflow
    scale = 0.0f;
    inverse = 0.0f;
  }
  int16_t* codes = input.codes + at * kPanelBlock;
  const F32x16 factor = f32_set(inverse);
  const I32x16 zero = i32_set(0);
  const bool finite = peak_bits < 0x7F800000;
  const I32x16 q0 = finite ? i32_round(f32_mul(v0, factor)) : zero;
  const I32x16 q1 = finite ? i32_round(f32_mul(v1, factor)) : zero;
  i32_store_i16(codes, q0);
  i32_store_i16(codes + 16, q1);
  const int32_t code_sum = i32_sum(i32_add(q0, q1));
  input.scales[at] = scale;
  input.code_sums[at] = code_sum;
  input.sums[at] = scale * static_cast<float>(code_sum);
}

void prepare_codes(const float* x, int64_t x_stride, int64_t cols, int64_t tile_idx,
                   const PreparedInput& input) {
  const int64_t first = tile_idx * kTileTokens;
  const int64_t width = tile_width(input, tile_idx);
  for (int64_t t = 0; t < width; ++t) {
    const float* row = x + (first + t) * x_stride;
    for (int64_t b = 0; b < input.num_blocks; ++b) {
      const int64_t at = first * input.num_blocks + b * width + t;
      prepare_block(row + b * kPanelBlock, cols - b * kPanelBlock, at, input);
    }
  }
}

void prepare_values(const float* x, int64_t x_stride, int64_t cols, int64_t tile_idx,
                    const PreparedInput& input) {
  const int64_t first = tile_idx * kTileTokens;
  const int64_t width = tile_width(input, tile_idx);
  for (int64_t t = 0; t < width; ++t) {
    const float* row = x + (first + t) * x_stride;
    for (int64_t b = 0; b < input.num_blocks; ++b) {
      const int64_t at = first * input.num_blocks + b * width + t;
      const int64_t left = cols - b * kPanelBlock;
      float* out = input.values + at * kPanelBlock;
      f32_store(out, f32_load_first(row + b * kPanelBlock, left));
      f32_store(out + 16, f32_load_first(row + b * kPanelBlock + 16, left > 16 ? left - 16 : 0));
    }
  }
}

// ---- block-quantised weights ----

// One block of 16 rows times kTokens tokens, added to acc. THE arithmetic of quantised linear.
template <typename Format, int kTokens>
SLIPSTREAM_INLINE void accumulate_block(const Format& block, const TileInput& x, F32x16* acc) {
  constexpr int kPairs = 16 / Format::kScales;
  unroll<0, Format::kScales>([&](auto s) SLIPSTREAM_INLINE_LAMBDA {
    I32x16 sum[kTokens];
    unroll<0, kTokens>([&](auto t) SLIPSTREAM_INLINE_LAMBDA {
      sum[t.value] = i32_set(Format::kOffset == 0 ? 0 : -Format::kOffset * x.code_sums[t.value]);
    });
    unroll<0, kPairs>([&](auto j) SLIPSTREAM_INLINE_LAMBDA {
      constexpr int kPair = s.value * kPairs + j.value;
      const I32x16 w = block.template pair<kPair>();
      unroll<0, kTokens>([&](auto t) SLIPSTREAM_INLINE_LAMBDA {
        sum[t.value] = dot_pair(sum[t.value], w, x.codes + t.value * kPanelBlock + 2 * kPair);
      });
    });
    const F32x16 d = block.scale(s.value);
    unroll<0, kTokens>([&](auto t) SLIPSTREAM_INLINE_LAMBDA {
      acc[t.value] =
          f32_fma(f32_from_i32(sum[t.value]), f32_mul(d, f32_set(x.scales[t.value])), acc[t.value]);
    });
  });
  if constexpr (Format::kHasMin) {
    const F32x16 m = block.min();
    unroll<0, kTokens>([&](auto t) SLIPSTREAM_INLINE_LAMBDA {
      acc[t.value] = f32_fma(m, f32_set(x.sums[t.value]), acc[t.value]);
    });
  }
}

SLIPSTREAM_INLINE TileInput next_block(const TileInput& x, int64_t width) {
  return {x.codes + width * kPanelBlock, x.scales + width, x.sums + width, x.code_sums + width,
          x.values};
}

SLIPSTREAM_INLINE void store_rows(const LinearTask& task, int64_t token, int64_t panel_idx,
                                  F32x16 acc) {
  const int64_t row = panel_idx * kPanelRows;
  const int64_t count = task.rows - row;
  if (task.bias != nullptr) acc = f32_add(acc, f32_load_first(task.bias + row, count));
  f32_store_first(task.y + token * task.y_stride + row, acc, count);
}

// How far ahead of the block in hand lines are asked for.
constexpr int64_t kPrefetchBytes = 2048;

template <typename Format>
SLIPSTREAM_INLINE void prefetch_block(const uint8_t* at) {
  unroll<0, (Format::kBytes + 63) / 64>([&](auto line) SLIPSTREAM_INLINE_LAMBDA {
    _mm_prefetch(reinterpret_cast<const char*>(at + kPrefetchBytes + line.value * 64), _MM_HINT_T0);
  });
}

template <typename Format, int kTokens>
void fused_tokens(const LinearTask& task) {
  const PreparedInput& input = *task.input;
  for (int64_t panel_idx = 0; panel_idx < task.num_panels; ++panel_idx) {
    const uint8_t* panel = task.panels + panel_idx * task.panel_bytes;
    F32x16 acc[kTokens];
    for (int t = 0; t < kTokens; ++t) acc[t] = f32_set(0.0f);
    TileInput x = tile_input(input, 0, kTokens, 0);
    for (int64_t b = 0; b < input.num_blocks; ++b) {
      const Format block(panel, b);
      prefetch_block<Format>(block.at);
      accumulate_block<Format, kTokens>(block, x, acc);
      x = next_block(x, kTokens);
    }
    for (int t = 0; t < kTokens; ++t) store_rows(task, t, panel_idx, acc[t]);
  }
}

template <typename Format>
void linear_fused(const LinearTask& task) {
  switch (task.input->num_tokens) {
    case 1:
      return fused_tokens<Format, 1>(task);
    case 2:
      return fused_tokens<Format, 2>(task);
    case 3:
      return fused_tokens<Format, 3>(task);
    default:
      return fused_tokens<Format, 4>(task);
  }
}

using Accumulators = float[kMaxBlockTokens][kPanelRows];

// One tile of tokens times the unpacked blocks; acc is the tile's first row of accumulators.
template <typename Format, int kTokens>
void tile_blocks(const UnpackedBlocks& blocks, int64_t num_blocks, TileInput x,
                 float (*acc)[kPanelRows]) {
  F32x16 sums[kTokens];
  for (int t = 0; t < kTokens; ++t) sums[t] = f32_load(acc[t]);
  for (int64_t b = 0; b < num_blocks; ++b) {
    accumulate_block<Format, kTokens>(Format{&blocks, b}, x, sums);
    x = next_block(x, kTokens);
  }
  for (int t = 0; t < kTokens; ++t) f32_store(acc[t], sums[t]);
}

template <typename Format, int kTokens = kTileTokens>
SLIPSTREAM_INLINE void tile_blocks_of(int64_t width, const UnpackedBlocks& blocks,
                                      int64_t num_blocks, const TileInput& x,
                                      float (*acc)[kPanelRows]) {
  if constexpr (kTokens > 0) {
    if (width == kTokens) return tile_blocks<Format, kTokens>(blocks, num_blocks, x, acc);
    tile_blocks_of<Format, kTokens - 1>(width, blocks, num_blocks, x, acc);
  }
}

template <typename Format>
void linear_tiled(const LinearTask& task) {
  using Unpacked = FormatUnpacked<Format::kScales, Format::kHasMin>;
  const PreparedInput& input = *task.input;
  UnpackedBlocks blocks;
  alignas(64) Accumulators acc;
  for (int64_t panel_idx = 0; panel_idx < task.num_panels; ++panel_idx) {
    const uint8_t* panel = task.panels + panel_idx * task.panel_bytes;
    __builtin_memset(acc, 0,
                     sizeof(acc[0]) * static_cast<size_t>(task.token_end - task.token_begin));
    for (int64_t first = 0; first < input.num_blocks; first += kChunkBlocks) {
      const int64_t left = input.num_blocks - first;
      const int64_t count = left < kChunkBlocks ? left : kChunkBlocks;
      for (int64_t b = 0; b < count; ++b) unpack_block(Format(panel, first + b), b, &blocks);
      for (int64_t token = task.token_begin; token < task.token_end; token += kTileTokens) {
        const int64_t width = tile_width(input, token / kTileTokens);
        tile_blocks_of<Unpacked>(width, blocks, count, tile_input(input, token, width, first),
                                 acc + (token - task.token_begin));
      }
    }
    for (int64_t token = task.token_begin; token < task.token_end; ++token) {
      store_rows(task, token, panel_idx, f32_load(acc[token - task.token_begin]));
    }
  }
}
