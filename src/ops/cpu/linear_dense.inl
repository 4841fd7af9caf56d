// linear with dense weights: acc = fma(w[row, k], x[token, k], acc), k ascending, in every path.
// After linear.inl, whose tiles and stores it shares. Reference: linear of ops/cpu/ref.

// A format has: at(k), where column k of the block lies, and load(k), its 16 rows.
template <int kRowBytes>
struct DenseBlock {
  const uint8_t* block;
  SLIPSTREAM_INLINE static const uint8_t* of(const uint8_t* panel, int64_t b) {
    return panel + b * (kPanelBlock * kRowBytes);
  }
  SLIPSTREAM_INLINE const uint8_t* at(int64_t k) const { return block + k * kRowBytes; }
};
struct DenseF32 : DenseBlock<kWordRowBytes> {
  SLIPSTREAM_INLINE DenseF32(const uint8_t* panel, int64_t b) : DenseBlock{of(panel, b)} {}
  SLIPSTREAM_INLINE F32x16 load(int64_t k) const {
    return f32_load(reinterpret_cast<const float*>(at(k)));
  }
};
struct DenseF16 : DenseBlock<kHalfRowBytes> {
  SLIPSTREAM_INLINE DenseF16(const uint8_t* panel, int64_t b) : DenseBlock{of(panel, b)} {}
  SLIPSTREAM_INLINE F32x16 load(int64_t k) const { return f32_load_half(at(k)); }
};
struct DenseBF16 : DenseBlock<kHalfRowBytes> {
  SLIPSTREAM_INLINE DenseBF16(const uint8_t* panel, int64_t b) : DenseBlock{of(panel, b)} {}
  SLIPSTREAM_INLINE F32x16 load(int64_t k) const { return f32_load_bf16(at(k)); }
};
// One rounding, of code x scale, as dequantize_row has it: the same bits as from an F32 matrix.
struct DenseE4M3 : DenseBlock<kPanelRows> {
  const float* scales;
  SLIPSTREAM_INLINE DenseE4M3(const uint8_t* panel, int64_t b)
      : DenseBlock{panel + b / kE4m3Blocks * kE4m3Bytes + kE4m3Codes +
                   b % kE4m3Blocks * kE4m3BlockBytes},
        scales(reinterpret_cast<const float*>(panel + b / kE4m3Blocks * kE4m3Bytes)) {}
  SLIPSTREAM_INLINE F32x16 load(int64_t k) const {
    return f32_mul(f32_load_e4m3_256th(at(k)), f32_load(scales));
  }
};

// kPanels panels side by side: one panel alone is bound by the latency of its FMA chain.
template <typename Dense, int kTokens, int kPanels>
SLIPSTREAM_INLINE void dense_fused_panels(const LinearTask& task, int64_t panel_idx) {
  const PreparedInput& input = *task.input;
  const uint8_t* panel = task.panels + panel_idx * task.panel_bytes;
  F32x16 acc[kPanels][kTokens];
  for (int p = 0; p < kPanels; ++p) {
    for (int t = 0; t < kTokens; ++t) acc[p][t] = f32_set(0.0f);
  }
  const float* x = tile_input(input, 0, kTokens, 0).values;
  for (int64_t b = 0; b < input.num_blocks; ++b) {
    for (int k = 0; k < kPanelBlock; ++k) {
      unroll<0, kPanels>([&](auto p) SLIPSTREAM_INLINE_LAMBDA {
        const Dense block(panel + p.value * task.panel_bytes, b);
        _mm_prefetch(reinterpret_cast<const char*>(block.at(k) + kPrefetchBytes), _MM_HINT_T0);
        const F32x16 w = block.load(k);
        unroll<0, kTokens>([&](auto t) SLIPSTREAM_INLINE_LAMBDA {
          acc[p.value][t.value] =
              f32_fma(w, f32_set(x[t.value * kPanelBlock + k]), acc[p.value][t.value]);
        });
      });
    }
    x += kTokens * kPanelBlock;
  }
  for (int p = 0; p < kPanels; ++p) {
    for (int t = 0; t < kTokens; ++t) store_rows(task, t, panel_idx + p, acc[p][t]);
  }
}

template <typename Dense, int kTokens>
void dense_fused_tokens(const LinearTask& task) {
  constexpr int kPanels = kTokens == 1 ? 4 : 2;
  int64_t panel_idx = 0;
  for (; panel_idx + kPanels <= task.num_panels; panel_idx += kPanels) {
    dense_fused_panels<Dense, kTokens, kPanels>(task, panel_idx);
  }
  for (; panel_idx < task.num_panels; ++panel_idx) {
    dense_fused_panels<Dense, kTokens, 1>(task, panel_idx);
  }
}

template <typename Dense>
void dense_fused(const LinearTask& task) {
  switch (task.input->num_tokens) {
    case 1:
      return dense_fused_tokens<Dense, 1>(task);
    case 2:
      return dense_fused_tokens<Dense, 2>(task);
    case 3:
      return dense_fused_tokens<Dense, 3>(task);
    default:
      return dense_fused_tokens<Dense, 4>(task);
  }
}

using DenseChunk = float[kChunkBlocks * kPanelBlock][kPanelRows];

template <int kTokens>
void dense_tile(const DenseChunk& weights, int64_t num_blocks, const float* x,
                float (*acc)[kPanelRows]) {
  F32x16 sums[kTokens];
  for (int t = 0; t < kTokens; ++t) sums[t] = f32_load(acc[t]);
  for (int64_t b = 0; b < num_blocks; ++b) {
    for (int k = 0; k < kPanelBlock; ++k) {
      const F32x16 w = f32_load(weights[b * kPanelBlock + k]);
      unroll<0, kTokens>([&](auto t) SLIPSTREAM_INLINE_LAMBDA {
        sums[t.value] = f32_fma(w, f32_set(x[t.value * kPanelBlock + k]), sums[t.value]);
      });
    }
    x += kTokens * kPanelBlock;
  }
  for (int t = 0; t < kTokens; ++t) f32_store(acc[t], sums[t]);
}

template <int kTokens = kTileTokens>
SLIPSTREAM_INLINE void dense_tile_of(int64_t width, const DenseChunk& weights, int64_t num_blocks,
                                     const float* x, float (*acc)[kPanelRows]) {
  if constexpr (kTokens > 0) {
    if (width == kTokens) return dense_tile<kTokens>(weights, num_blocks, x, acc);
    dense_tile_of<kTokens - 1>(width, weights, num_blocks, x, acc);
  }
}

template <typename Dense>
void dense_tiled(const LinearTask& task) {
  const PreparedInput& input = *task.input;
  alignas(64) DenseChunk weights;
  alignas(64) Accumulators acc;
  for (int64_t panel_idx = 0; panel_idx < task.num_panels; ++panel_idx) {
    const uint8_t* panel = task.panels + panel_idx * task.panel_bytes;
    __builtin_memset(acc, 0,
                     sizeof(acc[0]) * static_cast<size_t>(task.token_end - task.token_begin));
    for (int64_t first = 0; first < input.num_blocks; first += kChunkBlocks) {
      const int64_t left = input.num_blocks - first;
      const int64_t count = left < kChunkBlocks ? left : kChunkBlocks;
      for (int64_t b = 0; b < count; ++b) {
        const Dense block(panel, first + b);
        for (int64_t k = 0; k < kPanelBlock; ++k) {
          f32_store(weights[b * kPanelBlock + k], block.load(k));
        }
      }
      for (int64_t token = task.token_begin; token < task.token_end; token += kTileTokens) {
        const int64_t width = tile_width(input, token / kTileTokens);
        dense_tile_of(width, weights, count, tile_input(input, token, width, first).values,
                      acc + (token - task.token_begin));
      }
    }
    for (int64_t token = task.token_begin; token < task.token_end; ++token) {
      store_rows(task, token, panel_idx, f32_load(acc[token - task.token_begin]));
    }
  }
}
