// The block structs of the GGUF weight formats, byte for byte as the files store them, and the
// exact conversions that define each format.
//
// Owns layouts and per-block arithmetic. Does not own the list of formats (formats.cc) nor the
// layouts that kernels stream (ops). Blocks in a file need not be aligned: copy with std::memcpy.
//
// Within a 32-element block with 4-bit codes, byte j holds element j in its low nibble and element
// j + 16 in its high nibble.
#pragma once

#include <cstddef>
#include <cstdint>

namespace slipstream {

constexpr int kBlockElements = 32;        // Q8_0, Q4_0, Q4_1, Q5_0, Q5_1
constexpr int kSuperBlockElements = 256;  // the K formats

// value = d * q
struct BlockQ8_0 {
  uint16_t d;  // f16
  int8_t q[32];
};
static_assert(sizeof(BlockQ8_0) == 34);

// value = d * (q - 8)
struct BlockQ4_0 {
  uint16_t d;  // f16
  uint8_t q[16];
};
static_assert(sizeof(BlockQ4_0) == 18);

// value = d * q + m
struct BlockQ4_1 {
  uint16_t d;  // f16
  uint16_t m;  // f16
  uint8_t q[16];
};
static_assert(sizeof(BlockQ4_1) == 20);

// value = d * (q - 16); bit j of high_bits (little-endian) is bit 4 of element j's code
struct BlockQ5_0 {
  uint16_t d;  // f16
  uint8_t high_bits[4];
  uint8_t q[16];
};
static_assert(sizeof(BlockQ5_0) == 22);

// value = d * q + m; high_bits as in Q5_0
struct BlockQ5_1 {
  uint16_t d;  // f16
  uint16_t m;  // f16
  uint8_t high_bits[4];
  uint8_t q[16];
};
static_assert(sizeof(BlockQ5_1) == 24);

// Eight groups of 32 elements, each with a 6-bit scale and a 6-bit minimum (q4_k_scale_min).
// value = d * scale * q - dmin * minimum. Of every 64 elements the low nibbles of 32 bytes are the
// first 32 and the high nibbles the next 32.
struct BlockQ4_K {
  uint16_t d;     // f16
  uint16_t dmin;  // f16
  uint8_t scales[12];
  uint8_t q[128];
};
static_assert(sizeof(BlockQ4_K) == 144);

// Q4_K with a fifth bit: bit g of high_bits[l] belongs to element l of group g.
struct BlockQ5_K {
  uint16_t d;     // f16
  uint16_t dmin;  // f16
  uint8_t scales[12];
  uint8_t high_bits[32];
  uint8_t q[128];
};
static_assert(sizeof(BlockQ5_K) == 176);

// Sixteen groups of 16 elements. value = d * scale * (q - 32). Of every 128 elements, low[64] holds
// the low four bits (32-element runs: low nibbles of bytes 0..31, of 32..63, then the high ones)
// and high[32] holds two bits for each of the four runs.
struct BlockQ6_K {
  uint8_t low[128];
  uint8_t high[64];
  int8_t scales[16];
  uint16_t d;  // f16
};
static_assert(sizeof(BlockQ6_K) == 210);

struct ScaleMin {
  uint8_t scale;
  uint8_t minimum;
};

// Group `group` (0..7) of the packed 6-bit pairs of Q4_K and Q5_K. Groups 0..3 sit in the low six
// bits of bytes 0..3 and 4..7; groups 4..7 have their low four bits in bytes 8..11 and their top
// two in the spare bits of the first eight bytes.
constexpr ScaleMin q4_k_scale_min(const uint8_t* scales, int group) {
  if (group < 4) {
    return {static_cast<uint8_t>(scales[group] & 63), static_cast<uint8_t>(scales[group + 4] & 63)};
  }
  return {static_cast<uint8_t>((scales[group + 4] & 0x0F) | ((scales[group - 4] >> 6) << 4)),
          static_cast<uint8_t>((scales[group + 4] >> 4) | ((scales[group] >> 6) << 4))};
}

// One block to floats and back, in the signatures of QuantFormat. The scale that a quantiser
// stores is rounded to f16 first and codes are rounded to nearest against that stored scale.
void dequantize_q8_0(const std::byte* block, float* out);
void dequantize_q4_0(const std::byte* block, float* out);
void dequantize_q4_1(const std::byte* block, float* out);
void dequantize_q5_0(const std::byte* block, float* out);
void dequantize_q5_1(const std::byte* block, float* out);
void dequantize_q4_k(const std::byte* block, float* out);
void dequantize_q5_k(const std::byte* block, float* out);
void dequantize_q6_k(const std::byte* block, float* out);
void quantize_q8_0(const float* in, std::byte* block);
void quantize_q4_0(const float* in, std::byte* block);
void quantize_q4_1(const float* in, std::byte* block);
void quantize_q5_0(const float* in, std::byte* block);
void quantize_q5_1(const float* in, std::byte* block);

}  // namespace slipstream
