// PTX, and the words in which CTAs hand values to each other: every word says by itself whether it
// is the awaited one, so nothing is fenced and nothing counted.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

typedef unsigned long long u64;
typedef uint32_t u32;

__device__ __forceinline__ void mbarrier_init(u32 b, int n) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0],%1;" ::"r"(b), "r"(n));
}
__device__ __forceinline__ void mbarrier_expect(u32 b, u32 n) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _,[%0],%1;" ::"r"(b), "r"(n) : "memory");
}
__device__ __forceinline__ void mbarrier_arrive(u32 b) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _,[%0];" ::"r"(b) : "memory");
}
__device__ __forceinline__ void mbarrier_arrive_if(u32 b, u32 c) {
  asm volatile(
      "{.reg .pred P; setp.ne.u32 P,%1,0; @P mbarrier.arrive.shared::cta.b64 _,[%0];}" ::"r"(b),
      "r"(c)
      : "memory");
}
__device__ __forceinline__ void wait(u32 b, u32 parity) {
  asm volatile(
      "{\n.reg .pred P;\nL:\nmbarrier.try_wait.parity.shared::cta.b64 P,[%0],%1;\n@P bra D;\nbra "
      "L;\nD:\n}" ::"r"(b),
      "r"(parity)
      : "memory");
}
__device__ __forceinline__ void bulk_copy(u32 dst, const void* src, u32 n, u32 bar) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0],[%1],%2,[%3];" ::"r"(
          dst),
      "l"(src), "r"(n), "r"(bar)
      : "memory");
}
__device__ __forceinline__ uint4 poll4(const u32* p) {
  uint4 v;
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%0,%1,%2,%3},[%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p)
               : "memory");
  return v;
}
__device__ __forceinline__ uint2 poll2(const u32* p) {
  uint2 v;
  asm volatile("ld.relaxed.gpu.global.v2.u32 {%0,%1},[%2];"
               : "=r"(v.x), "=r"(v.y)
               : "l"(p)
               : "memory");
  return v;
}
__device__ __forceinline__ u32 poll1(const u32* p) {
  u32 v;
  asm volatile("ld.relaxed.gpu.global.u32 %0,[%1];" : "=r"(v) : "l"(p) : "memory");
  return v;
}
__device__ __forceinline__ u64 poll64(const u64* p) {
  u64 v;
  asm volatile("ld.relaxed.gpu.global.u64 %0,[%1];" : "=l"(v) : "l"(p) : "memory");
  return v;
}
__device__ __forceinline__ void publish(u32* p, u32 v) {
  asm volatile("st.relaxed.gpu.global.u32 [%0],%1;" ::"l"(p), "r"(v) : "memory");
}
__device__ __forceinline__ void publish64(u64* p, u64 v) {
  asm volatile("st.relaxed.gpu.global.u64 [%0],%1;" ::"l"(p), "l"(v) : "memory");
}
__device__ __forceinline__ uint4 lds128(u32 a) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3},[%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(a));
  return v;
}
__device__ __forceinline__ uint2 lds64(u32 a) {
  uint2 v;
  asm volatile("ld.shared.v2.u32 {%0,%1},[%2];" : "=r"(v.x), "=r"(v.y) : "r"(a));
  return v;
}
__device__ __forceinline__ u32 lds32(u32 a) {
  u32 v;
  asm volatile("ld.shared.u32 %0,[%1];" : "=r"(v) : "r"(a));
  return v;
}
__device__ __forceinline__ float ldsf(u32 a) { return __uint_as_float(lds32(a)); }
__device__ __forceinline__ void sts32(u32 a, u32 v) {
  asm volatile("st.shared.u32 [%0],%1;" ::"r"(a), "r"(v) : "memory");
}
__device__ __forceinline__ void stsf(u32 a, float v) { sts32(a, __float_as_uint(v)); }
__device__ __forceinline__ void sts64(u32 a, u32 x, u32 y) {
  asm volatile("st.shared.v2.u32 [%0],{%1,%2};" ::"r"(a), "r"(x), "r"(y) : "memory");
}
__device__ __forceinline__ void stsf_if(u32 a, float v, u32 c) {
  asm volatile("{.reg .pred P; setp.ne.u32 P,%2,0; @P st.shared.f32 [%0],%1;}" ::"r"(a), "f"(v),
               "r"(c)
               : "memory");
}
__device__ __forceinline__ float exp2_approx(float x) {
  float o;
  asm("ex2.approx.ftz.f32 %0,%1;" : "=f"(o) : "f"(x));
  return o;
}
__device__ __forceinline__ void mma_bf16(float* c, u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void mma_i8(int* c, u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
      "{%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
// 24-bit floats in the upper bits of a word, rounded to nearest.
__device__ __forceinline__ u32 to_float24(float v) {
  return (__float_as_uint(v) + 0x80u) & 0xffffff00u;
}
__device__ __forceinline__ float from_float24(u32 w) { return __uint_as_float(w & 0xffffff00u); }
__device__ __forceinline__ u32 pack_bf16(float lo, float hi) {
  __nv_bfloat162 p = __floats2bfloat162_rn(lo, hi);
  return *(u32*)&p;
}
__device__ __forceinline__ float bf16_low(u32 w) { return __uint_as_float(w << 16); }
__device__ __forceinline__ float bf16_high(u32 w) { return __uint_as_float(w & 0xffff0000u); }
