// Sixteen lanes of AVX-512: what kernels.inl is written in. simd_avx2.h offers the same names.
//
// Included by isa_avx512.cc only, inside its anonymous namespace.

struct I32x16 {
  __m512i v;
};
struct F32x16 {
  __m512 v;
};

// Registers: 32. Twelve chains hide the latency of vpdpwssd and of FMA on two ports.
constexpr int kTileTokens = 12;

SLIPSTREAM_INLINE I32x16 i32_load(const void* at) { return {_mm512_loadu_si512(at)}; }
SLIPSTREAM_INLINE void i32_store(void* at, I32x16 a) { _mm512_storeu_si512(at, a.v); }
SLIPSTREAM_INLINE I32x16 i32_set(int32_t value) { return {_mm512_set1_epi32(value)}; }
SLIPSTREAM_INLINE I32x16 i32_and(I32x16 a, I32x16 b) { return {_mm512_and_si512(a.v, b.v)}; }
SLIPSTREAM_INLINE I32x16 i32_or(I32x16 a, I32x16 b) { return {_mm512_or_si512(a.v, b.v)}; }
SLIPSTREAM_INLINE I32x16 i32_add(I32x16 a, I32x16 b) { return {_mm512_add_epi32(a.v, b.v)}; }
SLIPSTREAM_INLINE I32x16 i16_sub(I32x16 a, I32x16 b) { return {_mm512_sub_epi16(a.v, b.v)}; }
template <int kBits>
SLIPSTREAM_INLINE I32x16 i16_shift_right(I32x16 a) {
  if constexpr (kBits == 0) return a;
  return {_mm512_srli_epi16(a.v, kBits)};
}
template <int kBits>
SLIPSTREAM_INLINE I32x16 i16_shift_left(I32x16 a) {
  if constexpr (kBits == 0) return a;
  return {_mm512_slli_epi16(a.v, kBits)};
}
SLIPSTREAM_INLINE I32x16 i32_shift_right(I32x16 a, int bits) {
  return {_mm512_srl_epi32(a.v, _mm_cvtsi32_si128(bits))};
}
SLIPSTREAM_INLINE I32x16 i32_shift_left(I32x16 a, int bits) {
  return {_mm512_sll_epi32(a.v, _mm_cvtsi32_si128(bits))};
}
// acc + w.even * x.even + w.odd * x.odd per lane, exact; x is one pair for all lanes.
SLIPSTREAM_INLINE I32x16 dot_pair(I32x16 acc, I32x16 w, const int16_t* pair) {
  int32_t bits;
  __builtin_memcpy(&bits, pair, sizeof(bits));
  return {_mm512_dpwssd_epi32(acc.v, w.v, _mm512_set1_epi32(bits))};
}
// [16][2] i8 -> 16 lanes of two i16
SLIPSTREAM_INLINE I32x16 widen_byte_pairs(const uint8_t* at) {
  return {_mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)))};
}
// [16] i8 -> 16 lanes of i32
SLIPSTREAM_INLINE I32x16 widen_bytes(const uint8_t* at) {
  return {_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)))};
}

SLIPSTREAM_INLINE F32x16 f32_set(float value) { return {_mm512_set1_ps(value)}; }
SLIPSTREAM_INLINE F32x16 f32_load(const float* at) { return {_mm512_loadu_ps(at)}; }
SLIPSTREAM_INLINE void f32_store(float* at, F32x16 a) { _mm512_storeu_ps(at, a.v); }
SLIPSTREAM_INLINE F32x16 f32_load_half(const void* at) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(at)))};
}
SLIPSTREAM_INLINE void f32_store_half(void* at, F32x16 a) {
  _mm256_storeu_si256(static_cast<__m256i*>(at), _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
}
// [16] bytes of E4M3 -> 16 halves of 1/256 of their values: the exponent's bias is 8 larger there.
SLIPSTREAM_INLINE F32x16 f32_load_e4m3_256th(const void* at) {
  const __m256i bytes = _mm256_cvtepi8_epi16(_mm_loadu_si128(static_cast<const __m128i*>(at)));
  return {_mm512_cvtph_ps(_mm256_and_si256(_mm256_slli_epi16(bytes, 7),
                                           _mm256_set1_epi16(static_cast<int16_t>(0xBFFF))))};
}
SLIPSTREAM_INLINE F32x16 f32_load_bf16(const void* at) {
  const __m256i half = _mm256_loadu_si256(static_cast<const __m256i*>(at));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16))};
}
SLIPSTREAM_INLINE F32x16 f32_add(F32x16 a, F32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
SLIPSTREAM_INLINE F32x16 f32_sub(F32x16 a, F32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
SLIPSTREAM_INLINE F32x16 f32_mul(F32x16 a, F32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
SLIPSTREAM_INLINE F32x16 f32_div(F32x16 a, F32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
SLIPSTREAM_INLINE F32x16 f32_fma(F32x16 a, F32x16 b, F32x16 c) {
  return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
// c - a * b
SLIPSTREAM_INLINE F32x16 f32_fnma(F32x16 a, F32x16 b, F32x16 c) {
  return {_mm512_fnmadd_ps(a.v, b.v, c.v)};
}
// The second operand where either is NaN.
SLIPSTREAM_INLINE F32x16 f32_max(F32x16 a, F32x16 b) { return {_mm512_max_ps(a.v, b.v)}; }
SLIPSTREAM_INLINE F32x16 f32_min(F32x16 a, F32x16 b) { return {_mm512_min_ps(a.v, b.v)}; }
SLIPSTREAM_INLINE F32x16 f32_from_i32(I32x16 a) { return {_mm512_cvtepi32_ps(a.v)}; }
SLIPSTREAM_INLINE I32x16 i32_round(F32x16 a) { return {_mm512_cvtps_epi32(a.v)}; }
SLIPSTREAM_INLINE F32x16 f32_bits(I32x16 a) { return {_mm512_castsi512_ps(a.v)}; }
SLIPSTREAM_INLINE I32x16 i32_bits(F32x16 a) { return {_mm512_castps_si512(a.v)}; }
// Lanes in order as i16; each must fit.
SLIPSTREAM_INLINE void i32_store_i16(int16_t* at, I32x16 a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(at), _mm512_cvtsepi32_epi16(a.v));
}
SLIPSTREAM_INLINE I32x16 i32_max(I32x16 a, I32x16 b) { return {_mm512_max_epi32(a.v, b.v)}; }

// Halves as 256-bit vectors, for the horizontal reductions both instruction sets share.
SLIPSTREAM_INLINE __m256 f32_low(F32x16 a) { return _mm512_castps512_ps256(a.v); }
SLIPSTREAM_INLINE __m256 f32_high(F32x16 a) { return _mm512_extractf32x8_ps(a.v, 1); }
SLIPSTREAM_INLINE __m256i i32_low(I32x16 a) { return _mm512_castsi512_si256(a.v); }
SLIPSTREAM_INLINE __m256i i32_high(I32x16 a) { return _mm512_extracti64x4_epi64(a.v, 1); }
