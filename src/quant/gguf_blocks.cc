#include "quant/gguf_blocks.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/half.h"

namespace slipstream {
namespace {

constexpr float kMaxHalf = 65504.0f;

template <typename Block>
Block load(const std::byte* bytes) {
  Block block;
  std::memcpy(&block, bytes, sizeof(Block));
  return block;
}

template <typename Block>
void store(const Block& block, std::byte* bytes) {
  std::memcpy(bytes, &block, sizeof(Block));
}

uint32_t load_bits(const uint8_t* bytes) {
  return static_cast<uint32_t>(bytes[0]) | static_cast<uint32_t>(bytes[1]) << 8 |
         static_cast<uint32_t>(bytes[2]) << 16 | static_cast<uint32_t>(bytes[3]) << 24;
}

// Nearest code in [low, high]; NaN takes `low` so that no input is undefined.
int nearest_code(float value, int low, int high) {
  if (!(value > static_cast<float>(low))) return low;
  if (value >= static_cast<float>(high)) return high;
  return static_cast<int>(std::lrint(value));
}

// A scale too large for f16 is cut to the largest one: an infinite scale would turn zeros to NaN.
uint16_t half_scale(float scale) { return f32_to_f16(std::clamp(scale, -kMaxHalf, kMaxHalf)); }

float inverse(float scale) { return scale != 0.0f ? 1.0f / scale : 0.0f; }

// The element of largest magnitude, with its sign.
float signed_peak(const float* in) {
  float peak = 0.0f;
  for (int j = 0; j < kBlockElements; ++j) {
    if (std::fabs(in[j]) > std::fabs(peak)) peak = in[j];
  }
  return peak;
}

// Codes (at most 5 bits) of a block: nibbles to `nibbles`, bit 4 to the returned mask.
uint32_t pack_codes(const int* codes, uint8_t* nibbles) {
  uint32_t high_bits = 0;
  for (int j = 0; j < 16; ++j) {
    nibbles[j] = static_cast<uint8_t>((codes[j] & 0x0F) | (codes[j + 16] & 0x0F) << 4);
  }
  for (int j = 0; j < kBlockElements; ++j) {
    high_bits |= static_cast<uint32_t>(codes[j] >> 4 & 1) << j;
  }
  return high_bits;
}

void store_bits(uint32_t bits, uint8_t* bytes) {
  for (int i = 0; i < 4; ++i) bytes[i] = static_cast<uint8_t>(bits >> (8 * i));
}

void unpack_codes(const uint8_t* nibbles, uint32_t high_bits, int* codes) {
  for (int j = 0; j < 16; ++j) {
    codes[j] = (nibbles[j] & 0x0F) | static_cast<int>(high_bits >> j & 1u) << 4;
    codes[j + 16] = nibbles[j] >> 4 | static_cast<int>(high_bits >> (j + 16) & 1u) << 4;
  }
}

// Symmetric formats: codes 0..2*half-1 stand for -half..half-1, and the peak takes -half exactly,
// the end of the range that one more step reaches.
uint16_t symmetric_codes(const float* in, int half, int* codes) {
  const uint16_t d = half_scale(signed_peak(in) / static_cast<float>(-half));
  const float step_inverse = inverse(f16_to_f32(d));
  for (int j = 0; j < kBlockElements; ++j) {
    codes[j] = nearest_code(in[j] * step_inverse + static_cast<float>(half), 0, 2 * half - 1);
  }
  return d;
}

struct Affine {
  uint16_t d;
  uint16_t m;
};

// Formats with a minimum: codes 0..levels stand for m..m + levels * d.
Affine affine_codes(const float* in, int levels, int* codes) {
  const auto [low, high] = std::minmax_element(in, in + kBlockElements);
  const uint16_t m = half_scale(*low);
  const float stored_m = f16_to_f32(m);
  const uint16_t d = half_scale((*high - stored_m) / static_cast<float>(levels));
  const float step_inverse = inverse(f16_to_f32(d));
  for (int j = 0; j < kBlockElements; ++j) {
    codes[j] = nearest_code((in[j] - stored_m) * step_inverse, 0, levels);
  }
  return {d, m};
}

}  // namespace

void dequantize_q8_0(const std::byte* bytes, float* out) {
  const auto block = load<BlockQ8_0>(bytes);
  const float d = f16_to_f32(block.d);
  for (int j = 0; j < kBlockElements; ++j) out[j] = d * static_cast<float>(block.q[j]);
}

void dequantize_q4_0(const std::byte* bytes, float* out) {
  const auto block = load<BlockQ4_0>(bytes);
  const float d = f16_to_f32(block.d);
  int codes[kBlockElements];
  unpack_codes(block.q, 0, codes);
  for (int j = 0; j < kBlockElements; ++j) out[j] = d * static_cast<float>(codes[j] - 8);
}

void dequantize_q4_1(const std::byte* bytes, float* out) {
  const auto block = load<BlockQ4_1>(bytes);
  const float d = f16_to_f32(block.d);
  const float m = f16_to_f32(block.m);
  int codes[kBlockElements];
  unpack_codes(block.q, 0, codes);
  for (int j = 0; j < kBlockElements; ++j) out[j] = d * static_cast<float>(codes[j]) + m;
}

void dequantize_q5_0(const std::byte* bytes, float* out) {
  const auto block = load<BlockQ5_0>(bytes);
  const float d = f16_to_f32(block.d);
  int codes[kBlockElements];
  unpack_codes(block.q, load_bits(block.high_bits), codes);
  for (int j = 0; j < kBlockElements; ++j) out[j] = d * static_cast<float>(codes[j] - 16);
}

void dequantize_q5_1(const std::byte* bytes, float* out) {
  const auto block = load<BlockQ5_1>(bytes);
  const float d = f16_to_f32(block.d);
  const float m = f16_to_f32(block.m);
  int codes[kBlockElements];
  unpack_codes(block.q, load_bits(block.high_bits), codes);
  for (int j = 0; j < kBlockElements; ++j) out[j] = d * static_cast<float>(codes[j]) + m;
}

void dequantize_q4_k(const std::byte* bytes, float* out) {
  const auto block = load<BlockQ4_K>(bytes);
  const float d = f16_to_f32(block.d);
  const float dmin = f16_to_f32(block.dmin);
  for (int group = 0; group < 8; ++group) {
    const auto [scale, minimum] = q4_k_scale_min(block.scales, group);
    const float step = d * static_cast<float>(scale);
    const float offset = dmin * static_cast<float>(minimum);
    const uint8_t* q = block.q + group / 2 * 32;
    for (int l = 0; l < 32; ++l) {
      const int code = group % 2 == 0 ? q[l] & 0x0F : q[l] >> 4;
      out[group * 32 + l] = step * static_cast<float>(code) - offset;
    }
  }
}

void dequantize_q5_k(const std::byte* bytes, float* out) {
  const auto block = load<BlockQ5_K>(bytes);
  const float d = f16_to_f32(block.d);
  const float dmin = f16_to_f32(block.dmin);
  for (int group = 0; group < 8; ++group) {
    const auto [scale, minimum] = q4_k_scale_min(block.scales, group);
    const float step = d * static_cast<float>(scale);
    const float offset = dmin * static_cast<float>(minimum);
    const uint8_t* q = block.q + group / 2 * 32;
    for (int l = 0; l < 32; ++l) {
      const int low = group % 2 == 0 ? q[l] & 0x0F : q[l] >> 4;
      const int code = low | (block.high_bits[l] >> group & 1) << 4;
      out[group * 32 + l] = step * static_cast<float>(code) - offset;
    }
  }
}

void dequantize_q6_k(const std::byte* bytes, float* out) {
  const auto block = load<BlockQ6_K>(bytes);
  const float d = f16_to_f32(block.d);
  for (int element = 0; element < kSuperBlockElements; ++element) {
    const int half = element / 128;
    const int run = element % 128 / 32;  // which 32-element run of its half
    const int l = element % 32;
    const uint8_t packed = block.low[half * 64 + run % 2 * 32 + l];
    const int low = run < 2 ? packed & 0x0F : packed >> 4;
    const int high = block.high[half * 32 + l] >> (2 * run) & 3;
    const float step = d * static_cast<float>(block.scales[element / 16]);
    out[element] = step * static_cast<float>((low | high << 4) - 32);
  }
}

void quantize_q8_0(const float* in, std::byte* bytes) {
  BlockQ8_0 block;
  block.d = half_scale(std::fabs(signed_peak(in)) / 127.0f);
  const float step_inverse = inverse(f16_to_f32(block.d));
  for (int j = 0; j < kBlockElements; ++j) {
    block.q[j] = static_cast<int8_t>(nearest_code(in[j] * step_inverse, -127, 127));
  }
  store(block, bytes);
}

void quantize_q4_0(const float* in, std::byte* bytes) {
  BlockQ4_0 block;
  int codes[kBlockElements];
  block.d = symmetric_codes(in, 8, codes);
  pack_codes(codes, block.q);
  store(block, bytes);
}

void quantize_q4_1(const float* in, std::byte* bytes) {
  BlockQ4_1 block;
  int codes[kBlockElements];
  const Affine affine = affine_codes(in, 15, codes);
  block.d = affine.d;
  block.m = affine.m;
  pack_codes(codes, block.q);
  store(block, bytes);
}

void quantize_q5_0(const float* in, std::byte* bytes) {
  BlockQ5_0 block;
  int codes[kBlockElements];
  block.d = symmetric_codes(in, 16, codes);
  store_bits(pack_codes(codes, block.q), block.high_bits);
  store(block, bytes);
}

void quantize_q5_1(const float* in, std::byte* bytes) {
  BlockQ5_1 block;
  int codes[kBlockElements];
  const Affine affine = affine_codes(in, 31, codes);
  block.d = affine.d;
  block.m = affine.m;
  store_bits(pack_codes(codes, block.q), block.high_bits);
  store(block, bytes);
}

}  // namespace slipstream
