// Row-wise ops: norms, residual add, SiLU, rotary embedding, conversions; and the read-rate probe.
// Memory or latency bound, a few hundred nanoseconds a row. References: ops/cpu/ref.

void rms_norm(const float* x, const float* weight, float eps, int64_t n, float* out) {
  F32x16 even = f32_set(0.0f);
  F32x16 odd = f32_set(0.0f);
  for (int64_t i = 0; i < n; i += 32) {
    const F32x16 a = f32_load_first(x + i, n - i);
    const F32x16 b = f32_load_first(x + i + 16, at_least(0, n - i - 16));
    even = f32_fma(a, a, even);
    odd = f32_fma(b, b, odd);
  }
  const float mean = f32_sum(f32_add(even, odd)) / static_cast<float>(n);
  const F32x16 scale = f32_set(1.0f / __builtin_sqrtf(mean + eps));
  for (int64_t i = 0; i < n; i += 16) {
    const F32x16 scaled = f32_mul(f32_load_first(x + i, n - i), scale);
    f32_store_first(out + i, f32_mul(scaled, f32_load_first(weight + i, n - i)), n - i);
  }
}

void add(float* residual, const float* x, int64_t n) {
  for (int64_t i = 0; i < n; i += 16) {
    const F32x16 sum = f32_add(f32_load_first(residual + i, n - i), f32_load_first(x + i, n - i));
    f32_store_first(residual + i, sum, n - i);
  }
}

void silu_mul(const float* gate, const float* up, int64_t n, float* out) {
  for (int64_t i = 0; i < n; i += 16) {
    const F32x16 g = f32_load_first(gate + i, n - i);
    const F32x16 e = f32_exp(f32_sub(f32_set(0.0f), g));
    const F32x16 silu = f32_div(g, f32_add(f32_set(1.0f), e));
    f32_store_first(out + i, f32_mul(silu, f32_load_first(up + i, n - i)), n - i);
  }
}

SLIPSTREAM_INLINE void rotate_pair(float* a, float* b, float cosine, float sine) {
  const float rotated = *a * cosine - *b * sine;
  *b = *b * cosine + *a * sine;
  *a = rotated;
}

// Pairs (i, i + half) of one head.
SLIPSTREAM_INLINE void rope_halves(float* x, const float* cosines, const float* sines, int half) {
  int i = 0;
  for (; i + 16 <= half; i += 16) {
    const F32x16 a = f32_load(x + i);
    const F32x16 b = f32_load(x + half + i);
    const F32x16 c = f32_load(cosines + i);
    const F32x16 s = f32_load(sines + i);
    f32_store(x + i, f32_sub(f32_mul(a, c), f32_mul(b, s)));
    f32_store(x + half + i, f32_add(f32_mul(b, c), f32_mul(a, s)));
  }
  for (; i < half; ++i) rotate_pair(x + i, x + half + i, cosines[i], sines[i]);
}

// Pairs (2i, 2i + 1) of one head, four at a time.
SLIPSTREAM_INLINE void rope_interleaved(float* x, const float* cosines, const float* sines,
                                        int half) {
  const __m256i twice = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
  int i = 0;
  for (; i + 4 <= half; i += 4) {
    const __m256 pairs = _mm256_loadu_ps(x + 2 * i);
    const __m256 swapped = _mm256_permute_ps(pairs, 0xB1);
    const __m256 c =
        _mm256_permutevar8x32_ps(_mm256_castps128_ps256(_mm_loadu_ps(cosines + i)), twice);
    const __m256 s =
        _mm256_permutevar8x32_ps(_mm256_castps128_ps256(_mm_loadu_ps(sines + i)), twice);
    _mm256_storeu_ps(x + 2 * i,
                     _mm256_addsub_ps(_mm256_mul_ps(pairs, c), _mm256_mul_ps(swapped, s)));
  }
  for (; i < half; ++i) rotate_pair(x + 2 * i, x + 2 * i + 1, cosines[i], sines[i]);
}

void rope(float* x, const float* cos_sin, int rotary_dim, bool interleaved) {
  const int half = rotary_dim / 2;
  if (interleaved) {
    rope_interleaved(x, cos_sin, cos_sin + half, half);
  } else {
    rope_halves(x, cos_sin, cos_sin + half, half);
  }
}

void to_half(const float* x, int64_t n, uint16_t* out) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) f32_store_half(out + i, f32_load(x + i));
  if (i == n) return;
  uint16_t lanes[16];
  f32_store_half(lanes, f32_load_first(x + i, n - i));
  __builtin_memcpy(out + i, lanes, sizeof(uint16_t) * static_cast<size_t>(n - i));
}

uint64_t read_bytes(const uint8_t* data, int64_t bytes) {
  I32x16 sums[4] = {i32_set(0), i32_set(0), i32_set(0), i32_set(0)};
  for (int64_t at = 0; at + 256 <= bytes; at += 256) {
    unroll<0, 4>([&](auto line) SLIPSTREAM_INLINE_LAMBDA {
      const uint8_t* p = data + at + line.value * 64;
      _mm_prefetch(reinterpret_cast<const char*>(p + kPrefetchBytes), _MM_HINT_T0);
      sums[line.value] = i32_add(sums[line.value], i32_load(p));
    });
  }
  const I32x16 total = i32_add(i32_add(sums[0], sums[1]), i32_add(sums[2], sums[3]));
  return static_cast<uint32_t>(i32_sum(total));
}
