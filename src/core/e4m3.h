// FP8 E4M3 as storage (OCP 8-bit floating point, "FN": no infinities, largest 448).
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace slipstream {

constexpr float kE4m3Max = 448.0f;

constexpr float e4m3_to_f32(uint8_t value) {
  const uint32_t exponent = (value >> 3) & 15u;
  const uint32_t mantissa = value & 7u;
  float magnitude = 0.0f;
  if ((value & 0x7Fu) == 0x7Fu) {
    magnitude = std::bit_cast<float>(0x7FC00000u);
  } else if (exponent == 0) {
    magnitude = static_cast<float>(mantissa) * 0x1p-9f;
  } else {
    magnitude = std::bit_cast<float>(((exponent + 120) << 23) | (mantissa << 20));
  }
  return (value & 0x80u) != 0 ? -magnitude : magnitude;
}

// To nearest, ties to even; beyond the range to the largest value; NaN stays NaN.
constexpr uint8_t f32_to_e4m3(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint8_t>((bits >> 24) & 0x80u);
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) return static_cast<uint8_t>(sign | 0x7Fu);
  if (magnitude >= 0x43E80000u) return static_cast<uint8_t>(sign | 0x7Eu);  // 464 and above
  if (magnitude < 0x3C800000u) {  // below 2^-6: multiples of 2^-9
    const float scaled = std::bit_cast<float>(magnitude) * 0x1p9f;
    const auto whole = static_cast<uint32_t>(scaled);
    const float rest = scaled - static_cast<float>(whole);
    const uint32_t up = rest > 0.5f || (rest == 0.5f && (whole & 1u) != 0) ? 1u : 0u;
    return static_cast<uint8_t>(sign | (whole + up));
  }
  const uint32_t rebased = magnitude - (120u << 23);
  const uint32_t rounded = (rebased + 0x7FFFFu + ((rebased >> 20) & 1u)) >> 20;
  return static_cast<uint8_t>(sign | (rounded > 0x7Eu ? 0x7Eu : rounded));
}

}  // namespace slipstream
