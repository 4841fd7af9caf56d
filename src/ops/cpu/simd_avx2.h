// Sixteen lanes of AVX2: what kernels.inl is written in. simd_avx512.h offers the same names.
//
// Included by isa_avx2.cc only, inside its anonymous namespace. Both files give every lane the
// same operations in the same order, so their results agree bit for bit.

struct I32x16 {
  __m256i lo, hi;
};
struct F32x16 {
  __m256 lo, hi;
};

// Registers: 16. A tile of 6 tokens x 16 rows leaves room for weights and one activation.
constexpr int kTileTokens = 6;

SLIPSTREAM_INLINE I32x16 i32_load(const void* at) {
  const auto* p = static_cast<const __m256i*>(at);
  return {_mm256_loadu_si256(p), _mm256_loadu_si256(p + 1)};
}
SLIPSTREAM_INLINE void i32_store(void* at, I32x16 v) {
  auto* p = static_cast<__m256i*>(at);
  _mm256_storeu_si256(p, v.lo);
  _mm256_storeu_si256(p + 1, v.hi);
}
SLIPSTREAM_INLINE I32x16 i32_set(int32_t value) {
  const __m256i v = _mm256_set1_epi32(value);
  return {v, v};
}
SLIPSTREAM_INLINE I32x16 i32_and(I32x16 a, I32x16 b) {
  return {_mm256_and_si256(a.lo, b.lo), _mm256_and_si256(a.hi, b.hi)};
}
SLIPSTREAM_INLINE I32x16 i32_or(I32x16 a, I32x16 b) {
  return {_mm256_or_si256(a.lo, b.lo), _mm256_or_si256(a.hi, b.hi)};
}
SLIPSTREAM_INLINE I32x16 i32_add(I32x16 a, I32x16 b) {
  return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)};
}
SLIPSTREAM_INLINE I32x16 i16_sub(I32x16 a, I32x16 b) {
  return {_mm256_sub_epi16(a.lo, b.lo), _mm256_sub_epi16(a.hi, b.hi)};
}
template <int kBits>
SLIPSTREAM_INLINE I32x16 i16_shift_right(I32x16 a) {
  if constexpr (kBits == 0) return a;
  return {_mm256_srli_epi16(a.lo, kBits), _mm256_srli_epi16(a.hi, kBits)};
}
template <int kBits>
SLIPSTREAM_INLINE I32x16 i16_shift_left(I32x16 a) {
  if constexpr (kBits == 0) return a;
  return {_mm256_slli_epi16(a.lo, kBits), _mm256_slli_epi16(a.hi, kBits)};
}
SLIPSTREAM_INLINE I32x16 i32_shift_right(I32x16 a, int bits) {
  const __m128i count = _mm_cvtsi32_si128(bits);
  return {_mm256_srl_epi32(a.lo, count), _mm256_srl_epi32(a.hi, count)};
}
SLIPSTREAM_INLINE I32x16 i32_shift_left(I32x16 a, int bits) {
  const __m128i count = _mm_cvtsi32_si128(bits);
  return {_mm256_sll_epi32(a.lo, count), _mm256_sll_epi32(a.hi, count)};
}
// acc + w.even * x.even + w.odd * x.odd per lane, exact; x is one pair for all lanes.
SLIPSTREAM_INLINE I32x16 dot_pair(I32x16 acc, I32x16 w, const int16_t* pair) {
  int32_t bits;
  __builtin_memcpy(&bits, pair, sizeof(bits));
  const __m256i x = _mm256_set1_epi32(bits);
  acc.lo = _mm256_add_epi32(acc.lo, _mm256_madd_epi16(w.lo, x));
  acc.hi = _mm256_add_epi32(acc.hi, _mm256_madd_epi16(w.hi, x));
  // Opaque to the optimiser: g++ otherwise regroups a block's sums and spills every product.
  asm("" : "+x"(acc.lo), "+x"(acc.hi));
  return acc;
}
// [16][2] i8 -> 16 lanes of two i16
SLIPSTREAM_INLINE I32x16 widen_byte_pairs(const uint8_t* at) {
  const auto* p = reinterpret_cast<const __m128i*>(at);
  return {_mm256_cvtepi8_epi16(_mm_loadu_si128(p)), _mm256_cvtepi8_epi16(_mm_loadu_si128(p + 1))};
}
// [16] i8 -> 16 lanes of i32
SLIPSTREAM_INLINE I32x16 widen_bytes(const uint8_t* at) {
  const __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
  return {_mm256_cvtepi8_epi32(v), _mm256_cvtepi8_epi32(_mm_srli_si128(v, 8))};
}

SLIPSTREAM_INLINE F32x16 f32_set(float value) {
  const __m256 v = _mm256_set1_ps(value);
  return {v, v};
}
SLIPSTREAM_INLINE F32x16 f32_load(const float* at) {
  return {_mm256_loadu_ps(at), _mm256_loadu_ps(at + 8)};
}
SLIPSTREAM_INLINE void f32_store(float* at, F32x16 v) {
  _mm256_storeu_ps(at, v.lo);
  _mm256_storeu_ps(at + 8, v.hi);
}
SLIPSTREAM_INLINE F32x16 f32_load_half(const void* at) {
  const auto* p = static_cast<const __m128i*>(at);
  return {_mm256_cvtph_ps(_mm_loadu_si128(p)), _mm256_cvtph_ps(_mm_loadu_si128(p + 1))};
}
SLIPSTREAM_INLINE void f32_store_half(void* at, F32x16 v) {
  auto* p = static_cast<__m128i*>(at);
  _mm_storeu_si128(p, _mm256_cvtps_ph(v.lo, _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128(p + 1, _mm256_cvtps_ph(v.hi, _MM_FROUND_TO_NEAREST_INT));
}
// [16] bytes of E4M3 -> 16 halves of 1/256 of their values: the exponent's bias is 8 larger there.
SLIPSTREAM_INLINE F32x16 f32_load_e4m3_256th(const void* at) {
  const __m256i bytes = _mm256_cvtepi8_epi16(_mm_loadu_si128(static_cast<const __m128i*>(at)));
  const __m256i halves = _mm256_and_si256(_mm256_slli_epi16(bytes, 7),
                                          _mm256_set1_epi16(static_cast<int16_t>(0xBFFF)));
  return {_mm256_cvtph_ps(_mm256_castsi256_si128(halves)),
          _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1))};
}
SLIPSTREAM_INLINE __m256 widen_bf16(const __m128i* at) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(at)), 16));
}
SLIPSTREAM_INLINE F32x16 f32_load_bf16(const void* at) {
  const auto* p = static_cast<const __m128i*>(at);
  return {widen_bf16(p), widen_bf16(p + 1)};
}
SLIPSTREAM_INLINE F32x16 f32_add(F32x16 a, F32x16 b) {
  return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
}
SLIPSTREAM_INLINE F32x16 f32_sub(F32x16 a, F32x16 b) {
  return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)};
}
SLIPSTREAM_INLINE F32x16 f32_mul(F32x16 a, F32x16 b) {
  return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
}
SLIPSTREAM_INLINE F32x16 f32_div(F32x16 a, F32x16 b) {
  return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)};
}
SLIPSTREAM_INLINE F32x16 f32_fma(F32x16 a, F32x16 b, F32x16 c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
// c - a * b
SLIPSTREAM_INLINE F32x16 f32_fnma(F32x16 a, F32x16 b, F32x16 c) {
  return {_mm256_fnmadd_ps(a.lo, b.lo, c.lo), _mm256_fnmadd_ps(a.hi, b.hi, c.hi)};
}
// The second operand where either is NaN.
SLIPSTREAM_INLINE F32x16 f32_max(F32x16 a, F32x16 b) {
  return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)};
}
SLIPSTREAM_INLINE F32x16 f32_min(F32x16 a, F32x16 b) {
  return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)};
}
SLIPSTREAM_INLINE F32x16 f32_from_i32(I32x16 v) {
  return {_mm256_cvtepi32_ps(v.lo), _mm256_cvtepi32_ps(v.hi)};
}
SLIPSTREAM_INLINE I32x16 i32_round(F32x16 v) {
  return {_mm256_cvtps_epi32(v.lo), _mm256_cvtps_epi32(v.hi)};
}
SLIPSTREAM_INLINE F32x16 f32_bits(I32x16 v) {
  return {_mm256_castsi256_ps(v.lo), _mm256_castsi256_ps(v.hi)};
}
SLIPSTREAM_INLINE I32x16 i32_bits(F32x16 v) {
  return {_mm256_castps_si256(v.lo), _mm256_castps_si256(v.hi)};
}
// Lanes in order as i16; each must fit.
SLIPSTREAM_INLINE void i32_store_i16(int16_t* at, I32x16 v) {
  const __m256i packed = _mm256_packs_epi32(v.lo, v.hi);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(at), _mm256_permute4x64_epi64(packed, 0xD8));
}
SLIPSTREAM_INLINE I32x16 i32_max(I32x16 a, I32x16 b) {
  return {_mm256_max_epi32(a.lo, b.lo), _mm256_max_epi32(a.hi, b.hi)};
}

// Halves as 256-bit vectors, for the horizontal reductions both instruction sets share.
SLIPSTREAM_INLINE __m256 f32_low(F32x16 a) { return a.lo; }
SLIPSTREAM_INLINE __m256 f32_high(F32x16 a) { return a.hi; }
SLIPSTREAM_INLINE __m256i i32_low(I32x16 a) { return a.lo; }
SLIPSTREAM_INLINE __m256i i32_high(I32x16 a) { return a.hi; }
