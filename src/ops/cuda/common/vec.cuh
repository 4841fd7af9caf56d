// Eight bf16 values as one 16-byte access.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include <cstdint>

namespace slipstream::cuda {

struct Floats8 {
  float v[8];
};

__device__ __forceinline__ Floats8 unpack_bf16x8(uint4 raw) {
  const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
  Floats8 out;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    // A bf16 is the upper half of a float.
    out.v[2 * i] = __uint_as_float(words[i] << 16);
    out.v[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
  }
  return out;
}
__device__ __forceinline__ Floats8 load_bf16x8(const __nv_bfloat16* from) {
  return unpack_bf16x8(*reinterpret_cast<const uint4*>(from));
}
__device__ __forceinline__ uint4 pack_bf16x8(const Floats8& x) {
  uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(x.v[2 * i], x.v[2 * i + 1]);
    words[i] = *reinterpret_cast<const uint32_t*>(&pair);
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}
__device__ __forceinline__ void store_bf16x8(__nv_bfloat16* to, const Floats8& x) {
  *reinterpret_cast<uint4*>(to) = pack_bf16x8(x);
}
// Values are divided by the row's scale before.
__device__ __forceinline__ void store_e4m3x8(uint8_t* to, const Floats8& x) {
  uint32_t words[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const auto low = __nv_cvt_float2_to_fp8x2(make_float2(x.v[4 * i], x.v[4 * i + 1]),
                                              __NV_SATFINITE, __NV_E4M3);
    const auto high = __nv_cvt_float2_to_fp8x2(make_float2(x.v[4 * i + 2], x.v[4 * i + 3]),
                                               __NV_SATFINITE, __NV_E4M3);
    words[i] = static_cast<uint32_t>(low) | (static_cast<uint32_t>(high) << 16);
  }
  *reinterpret_cast<uint2*>(to) = make_uint2(words[0], words[1]);
}

constexpr float kE4m3Max = 448.0f;

}  // namespace slipstream::cuda
