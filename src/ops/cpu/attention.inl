// attention: one tile of query rows against one partition of KV positions, then merges in order.
//   scores  s[row, pos] = scale * sum over d ascending of q[row, d] * K[d, pos]   (lanes:
//   positions) weights p = exp(s - max), sum over chunks of 16 positions values  o[row, d] = sum
//   over pos ascending of p[row, pos] * V[pos, d]          (lanes: dims)
// A row's operations depend only on its own range of positions, never on the rows that share its
// tile. K and V are loaded once per kTileTokens rows. Bound: FMA in prefill, memory in decode.
// Reference: attention of ops/cpu/ref.

constexpr int kPartition = 256;

template <bool kHalf>
SLIPSTREAM_INLINE F32x16 load_kv(const uint8_t* at) {
  if constexpr (kHalf) return f32_load_half(at);
  return f32_load(reinterpret_cast<const float*>(at));
}

// Lanes [0, dims) of a row of V; the row's end may be the end of the pages.
template <bool kHalf>
SLIPSTREAM_INLINE F32x16 load_kv_first(const uint8_t* at, int64_t dims) {
  constexpr int64_t kBytes = kHalf ? 2 : 4;
  alignas(64) uint8_t lanes[16 * kBytes] = {};
  for (int64_t i = 0; i < dims * kBytes; ++i) lanes[i] = at[i];
  return load_kv<kHalf>(lanes);
}

// Positions [begin, end) of the partition.
struct Range {
  int64_t begin;
  int64_t end;
};

// Rows of scores are padded: a power of two would put them all into the same sets of L1.
constexpr int kScoreStride = kPartition + 16;

struct PartitionScratch {
  alignas(64) float q[kAttentionRows * kMaxHeadDim];  // [rows, head_dim]
  alignas(64) float scores[kAttentionRows][kScoreStride];
  Range ranges[kAttentionRows];
};

SLIPSTREAM_INLINE int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }
SLIPSTREAM_INLINE int64_t at_least(int64_t a, int64_t b) { return a > b ? a : b; }

// Byte address of position `position` (a multiple of 16 for K) of this tile's KV head.
template <bool kHalf>
SLIPSTREAM_INLINE const uint8_t* block_start(const AttentionTile& tile, const uint8_t* pages,
                                             int64_t position) {
  const int64_t block = tile.blocks[position / tile.block_size];
  return pages + block * tile.block_elements * (kHalf ? 2 : 4);
}

// Sixteen scores for kRows rows.
template <int kRows, bool kHalf>
void score_rows(const AttentionTile& tile, const float* q, const uint8_t* k, float* scores) {
  const int64_t stride = tile.block_size * (kHalf ? 2 : 4);
  const int64_t q_stride = tile.head_dim;
  F32x16 acc[kRows];
  for (int r = 0; r < kRows; ++r) acc[r] = f32_set(0.0f);
  for (int d = 0; d < tile.head_dim; ++d) {
    const F32x16 keys = load_kv<kHalf>(k + d * stride);
    unroll<0, kRows>([&](auto r) SLIPSTREAM_INLINE_LAMBDA {
      acc[r.value] = f32_fma(keys, f32_set(q[r.value * q_stride + d]), acc[r.value]);
    });
  }
  const F32x16 scale = f32_set(tile.scale);
  for (int r = 0; r < kRows; ++r) f32_store(scores + r * kScoreStride, f32_mul(acc[r], scale));
}

template <bool kHalf, int kRows = kTileTokens>
SLIPSTREAM_INLINE void score_rows_of(int64_t rows, const AttentionTile& tile, const float* q,
                                     const uint8_t* k, float* scores) {
  if constexpr (kRows > 0) {
    if (rows == kRows) return score_rows<kRows, kHalf>(tile, q, k, scores);
    score_rows_of<kHalf, kRows - 1>(rows, tile, q, k, scores);
  }
}

// values[row][dim..dim + dims) += p[row][pos] * V[pos][...] for positions of `range`.
template <int kRows, bool kHalf>
void value_rows(const AttentionTile& tile, int64_t first_position, Range range, const float* p,
                int64_t dim, float* values) {
  constexpr int64_t kBytes = kHalf ? 2 : 4;
  const int64_t state_stride = attention_state_floats(tile.head_dim);
  const int64_t dims = at_most(16, tile.head_dim - dim);
  const int64_t stride = tile.head_dim * kBytes;
  F32x16 acc[kRows];
  for (int r = 0; r < kRows; ++r) acc[r] = f32_load_first(values + r * state_stride + dim, dims);
  for (int64_t pos = range.begin; pos < range.end;) {
    const int64_t position = first_position + pos;
    const int64_t offset = position % tile.block_size;
    const int64_t end = at_most(range.end, pos + tile.block_size - offset);
    const uint8_t* v = block_start<kHalf>(tile, tile.v, position) + offset * stride + dim * kBytes;
    for (; pos < end; ++pos, v += stride) {
      const F32x16 row = dims == 16 ? load_kv<kHalf>(v) : load_kv_first<kHalf>(v, dims);
      unroll<0, kRows>([&](auto r) SLIPSTREAM_INLINE_LAMBDA {
        acc[r.value] = f32_fma(row, f32_set(p[r.value * kScoreStride + pos]), acc[r.value]);
      });
    }
  }
  for (int r = 0; r < kRows; ++r) {
    f32_store_first(values + r * state_stride + dim, acc[r], dims);
  }
}

template <bool kHalf, int kRows = kTileTokens>
SLIPSTREAM_INLINE void value_rows_of(int64_t rows, const AttentionTile& tile,
                                     int64_t first_position, Range range, const float* p,
                                     float* values) {
  if constexpr (kRows > 0) {
    if (rows != kRows) {
      return value_rows_of<kHalf, kRows - 1>(rows, tile, first_position, range, p, values);
    }
    if (range.begin >= range.end) return;
    for (int64_t dim = 0; dim < tile.head_dim; dim += 16) {
      value_rows<kRows, kHalf>(tile, first_position, range, p, dim, values);
    }
  }
}

// tanh(x) = 1 - 2 / (e^2x + 1)
SLIPSTREAM_INLINE F32x16 f32_tanh(F32x16 x) {
  const F32x16 e = f32_exp(f32_add(x, x));
  return f32_sub(f32_set(1.0f), f32_div(f32_set(2.0f), f32_add(e, f32_set(1.0f))));
}

// Scores of one row to weights; returns maximum and sum in state's tail.
SLIPSTREAM_INLINE void softmax_row(float* scores, Range range, float softcap, float* tail) {
  const int64_t begin = range.begin / 16 * 16;
  const int64_t end = (range.end + 15) / 16 * 16;
  const float lowest = -__builtin_inff();
  if (softcap > 0.0f) {
    for (int64_t i = begin; i < end; i += 16) {
      const F32x16 s = f32_div(f32_load(scores + i), f32_set(softcap));
      f32_store(scores + i, f32_mul(f32_set(softcap), f32_tanh(s)));
    }
  }
  for (int64_t i = begin; i < range.begin; ++i) scores[i] = lowest;
  for (int64_t i = range.end; i < end; ++i) scores[i] = lowest;
  F32x16 peaks = f32_set(lowest);
  for (int64_t i = begin; i < end; i += 16) peaks = f32_max(f32_load(scores + i), peaks);
  const float peak = f32_max_lane(peaks);
  for (int64_t i = begin; i < end; i += 16) {
    f32_store(scores + i, f32_exp(f32_sub(f32_load(scores + i), f32_set(peak))));
  }
  for (int64_t i = begin; i < range.begin; ++i) scores[i] = 0.0f;
  for (int64_t i = range.end; i < end; ++i) scores[i] = 0.0f;
  F32x16 sums = f32_set(0.0f);
  for (int64_t i = begin; i < end; i += 16) sums = f32_add(sums, f32_load(scores + i));
  tail[0] = peak;
  tail[1] = f32_sum(sums);
}

// What each row sees of the partition, counted from its first position.
SLIPSTREAM_INLINE void row_ranges(const AttentionTile& tile, int64_t first, Range* ranges) {
  for (int t = 0; t < tile.num_tokens; ++t) {
    const int64_t position = tile.first_position + t;
    const int64_t oldest = tile.window > 0 ? at_least(0, position - tile.window + 1) : 0;
    Range range = {at_least(0, oldest - first), at_most(kPartition, position + 1 - first)};
    if (range.end <= range.begin) range = {0, 0};
    for (int h = 0; h < tile.num_heads; ++h) ranges[t * tile.num_heads + h] = range;
  }
}

// Weighted values of `rows` rows: together where all of them look, row by row at the edges.
template <bool kHalf>
SLIPSTREAM_INLINE void sum_values(const AttentionTile& tile, int64_t first, int64_t rows,
                                  const Range* ranges, const float* p, float* state) {
  const int64_t stride = attention_state_floats(tile.head_dim);
  Range common = ranges[0];
  for (int64_t r = 1; r < rows; ++r) {
    common.begin = at_least(common.begin, ranges[r].begin);
    common.end = at_most(common.end, ranges[r].end);
  }
  const bool shared = common.begin < common.end;
  for (int64_t r = 0; r < rows; ++r) {
    const Range before = {ranges[r].begin, shared ? common.begin : ranges[r].end};
    value_rows_of<kHalf, 1>(1, tile, first, before, p + r * kScoreStride, state + r * stride);
  }
  if (!shared) return;
  value_rows_of<kHalf>(rows, tile, first, common, p, state);
  for (int64_t r = 0; r < rows; ++r) {
    const Range after = {common.end, ranges[r].end};
    value_rows_of<kHalf, 1>(1, tile, first, after, p + r * kScoreStride, state + r * stride);
  }
}

template <bool kHalf>
void attention_partition_of(const AttentionTile& tile, int64_t partition, float* state) {
  const int64_t first = partition * kPartition;
  const int64_t num_rows = static_cast<int64_t>(tile.num_tokens) * tile.num_heads;
  const int64_t stride = attention_state_floats(tile.head_dim);
  PartitionScratch scratch;
  row_ranges(tile, first, scratch.ranges);
  Range all = {kPartition, 0};
  for (int64_t r = 0; r < num_rows; ++r) {
    const Range range = scratch.ranges[r];
    float* row = state + r * stride;
    __builtin_memset(row, 0, sizeof(float) * static_cast<size_t>(stride));
    row[tile.head_dim] = -__builtin_inff();
    if (range.end > range.begin) {
      all = {at_most(all.begin, range.begin), at_least(all.end, range.end)};
    }
    const float* q =
        tile.q + r / tile.num_heads * tile.q_token_stride + r % tile.num_heads * tile.q_head_stride;
    __builtin_memcpy(scratch.q + r * tile.head_dim, q,
                     sizeof(float) * static_cast<size_t>(tile.head_dim));
  }
  for (int64_t pos = all.begin / 16 * 16; pos < all.end; pos += 16) {
    const int64_t offset = (first + pos) % tile.block_size;
    const uint8_t* k = block_start<kHalf>(tile, tile.k, first + pos) + offset * (kHalf ? 2 : 4);
    for (int64_t r = 0; r < num_rows; r += kTileTokens) {
      score_rows_of<kHalf>(at_most(kTileTokens, num_rows - r), tile, scratch.q + r * tile.head_dim,
                           k, scratch.scores[r] + pos);
    }
  }
  for (int64_t r = 0; r < num_rows; ++r) {
    if (scratch.ranges[r].end == 0) continue;
    softmax_row(scratch.scores[r], scratch.ranges[r], tile.softcap,
                state + r * stride + tile.head_dim);
  }
  for (int64_t r = 0; r < num_rows; r += kTileTokens) {
    sum_values<kHalf>(tile, first, at_most(kTileTokens, num_rows - r), scratch.ranges + r,
                      scratch.scores[r], state + r * stride);
  }
}

void attention_partition(const AttentionTile& tile, int64_t partition, float* state) {
  if (tile.half_kv) {
    attention_partition_of<true>(tile, partition, state);
  } else {
    attention_partition_of<false>(tile, partition, state);
  }
}

void merge_row(float* state, const float* next, int64_t head_dim) {
  float* tail = state + head_dim;
  const float* next_tail = next + head_dim;
  if (next_tail[1] == 0.0f) return;
  if (tail[1] == 0.0f) {
    __builtin_memcpy(state, next, sizeof(float) * static_cast<size_t>(head_dim + 2));
    return;
  }
  const F32x16 peak = f32_max(f32_set(tail[0]), f32_set(next_tail[0]));
  const F32x16 a = f32_exp(f32_sub(f32_set(tail[0]), peak));
  const F32x16 b = f32_exp(f32_sub(f32_set(next_tail[0]), peak));
  for (int64_t d = 0; d < head_dim; d += 16) {
    const int64_t dims = head_dim - d;
    const F32x16 scaled = f32_mul(f32_load_first(state + d, dims), a);
    f32_store_first(state + d, f32_fma(f32_load_first(next + d, dims), b, scaled), dims);
  }
  const F32x16 sum = f32_fma(f32_set(next_tail[1]), b, f32_mul(f32_set(tail[1]), a));
  f32_store_first(tail, peak, 1);
  f32_store_first(tail + 1, sum, 1);
}

void attention_merge(float* state, const float* next, int64_t num_rows, int head_dim) {
  const int64_t stride = attention_state_floats(head_dim);
  for (int64_t r = 0; r < num_rows; ++r) merge_row(state + r * stride, next + r * stride, head_dim);
}

void attention_finish(const float* state, int head_dim, float* out) {
  const F32x16 sum = f32_set(state[head_dim + 1]);
  for (int64_t d = 0; d < head_dim; d += 16) {
    const int64_t dims = head_dim - d;
    f32_store_first(out + d, f32_div(f32_load_first(state + d, dims), sum), dims);
  }
}
