// What both instruction sets build from their sixteen lanes: horizontal reductions in one fixed
// order, loads of partial rows, and the exponential. Included inside an anonymous namespace.

// Lane i + lane i + 8, then 4, 2, 1: the one order of every float sum over lanes.
SLIPSTREAM_INLINE float f32_sum(F32x16 a) {
  const __m256 eight = _mm256_add_ps(f32_low(a), f32_high(a));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

SLIPSTREAM_INLINE float f32_max_lane(F32x16 a) {
  const __m256 eight = _mm256_max_ps(f32_low(a), f32_high(a));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

SLIPSTREAM_INLINE int32_t i32_sum(I32x16 a) {
  const __m256i eight = _mm256_add_epi32(i32_low(a), i32_high(a));
  __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4E));
  return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xB1)));
}

SLIPSTREAM_INLINE int32_t i32_max_lane(I32x16 a) {
  const __m256i eight = _mm256_max_epi32(i32_low(a), i32_high(a));
  __m128i four = _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4E));
  return _mm_cvtsi128_si32(_mm_max_epi32(four, _mm_shuffle_epi32(four, 0xB1)));
}

// The first `count` (0..16) lanes; the others are zero.
SLIPSTREAM_INLINE F32x16 f32_load_first(const float* at, int64_t count) {
  if (count >= 16) return f32_load(at);
  float lanes[16] = {};
  for (int64_t i = 0; i < count; ++i) lanes[i] = at[i];
  return f32_load(lanes);
}

SLIPSTREAM_INLINE void f32_store_first(float* at, F32x16 v, int64_t count) {
  if (count >= 16) return f32_store(at, v);
  float lanes[16];
  f32_store(lanes, v);
  for (int64_t i = 0; i < count; ++i) at[i] = lanes[i];
}

SLIPSTREAM_INLINE F32x16 f32_abs(F32x16 a) {
  return f32_bits(i32_and(i32_bits(a), i32_set(0x7FFFFFFF)));
}

// e^x to about 1 ulp (x is cut to [-87.3, 88.3]; NaN stays NaN): 2^n times a polynomial for
// e^r, |r| <= ln 2 / 2, with ln 2 subtracted in two parts. Taylor to r^7
// leaves an error below a tenth of an ulp.
SLIPSTREAM_INLINE F32x16 f32_exp(F32x16 x) {
  x = f32_min(f32_set(88.3f), f32_max(f32_set(-87.3f), x));
  const I32x16 n = i32_round(f32_mul(x, f32_set(1.44269504f)));
  const F32x16 n_float = f32_from_i32(n);
  F32x16 r = f32_fnma(n_float, f32_set(0.693145752f), x);
  r = f32_fnma(n_float, f32_set(1.42860677e-6f), r);
  F32x16 p = f32_set(1.0f / 5040.0f);
  p = f32_fma(p, r, f32_set(1.0f / 720.0f));
  p = f32_fma(p, r, f32_set(1.0f / 120.0f));
  p = f32_fma(p, r, f32_set(1.0f / 24.0f));
  p = f32_fma(p, r, f32_set(1.0f / 6.0f));
  p = f32_fma(p, r, f32_set(0.5f));
  p = f32_fma(p, r, f32_set(1.0f));
  p = f32_fma(p, r, f32_set(1.0f));
  const I32x16 power = i32_shift_left(i32_add(n, i32_set(127)), 23);
  return f32_mul(p, f32_bits(power));
}
