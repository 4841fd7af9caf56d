// Warpgroup products (wgmma), barriers in shared memory, and what both need.
//
// Operands in shared memory are tiles of rows of 64 16-bit values (128 bytes), 8 rows a swizzle
// atom of 1,024 bytes, the 16-byte chunks of row r in order chunk ^ (r % 8). Accumulators d[n][4]
// are as of mma.m16n8: a lane has rows lane / 4 and lane / 4 + 8 of its warp's 16, columns
// 8 n + 2 (lane % 4) and the next. Source: PTX ISA, "Asynchronous Warpgroup Level Matrix".
#pragma once

#include <cstdint>

namespace slipstream::cuda {

constexpr int kSwizzleRowBytes = 128;
constexpr int kSwizzleAtomBytes = 8 * kSwizzleRowBytes;

// Where chunk `chunk` (of 16 bytes) of row `row` lies in a tile of 128-byte rows.
__device__ __forceinline__ uint32_t swizzled(int row, int chunk) {
  return static_cast<uint32_t>(row * kSwizzleRowBytes + ((chunk ^ (row & 7)) << 4));
}

// A tile at `address` whose groups of 8 rows follow each other. `group_bytes`: from the rows' first
// 64 values to the next 64 where a product takes the tile transposed; else without meaning.
__device__ __forceinline__ uint64_t tile_descriptor(uint32_t address, uint32_t group_bytes) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  return static_cast<uint64_t>((address & 0x3FFFF) >> 4) |
         static_cast<uint64_t>(group_bytes >> 4) << 16 |
         static_cast<uint64_t>(kSwizzleAtomBytes >> 4) << 32 | kSwizzle128;
}

__device__ __forceinline__ void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Makes what this thread has written to shared memory visible to wgmma.
__device__ __forceinline__ void fence_for_wgmma() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

__device__ __forceinline__ void barrier_init(uint32_t barrier, int num_arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(num_arrivals));
}
__device__ __forceinline__ void barrier_arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// Waits until the phase of this parity has ended.
__device__ __forceinline__ void barrier_wait(uint32_t barrier, int parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

template <int kRegisters>
__device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// clang-format off
#define SLIPSTREAM_D4(d, n) "+f"(d[n][0]), "+f"(d[n][1]), "+f"(d[n][2]), "+f"(d[n][3])
#define SLIPSTREAM_D32(d, n) \
  SLIPSTREAM_D4(d, n), SLIPSTREAM_D4(d, n + 1), SLIPSTREAM_D4(d, n + 2), SLIPSTREAM_D4(d, n + 3), \
  SLIPSTREAM_D4(d, n + 4), SLIPSTREAM_D4(d, n + 5), SLIPSTREAM_D4(d, n + 6), SLIPSTREAM_D4(d, n + 7)
#define SLIPSTREAM_R32 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define SLIPSTREAM_R64 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
// clang-format on

// d (+)= A B, A [64, 16] and B [16, 8 kBlocks] in shared memory: rows of A and columns of B are the
// tiles' rows.
template <bool kIsBf16, int kBlocks>
__device__ __forceinline__ void wgmma_tiles(float (&d)[kBlocks][4], uint64_t a, uint64_t b,
                                            bool accumulate) {
  static_assert(kBlocks == 8 || kBlocks == 16);
  const int scale_d = accumulate ? 1 : 0;
  if constexpr (kBlocks == 8 && kIsBf16) {
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "setp.ne.b32 p, %34, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" SLIPSTREAM_R32
        "}, %32, %33, p, 1, 1, 0, 0;\n"
        "}"
        : SLIPSTREAM_D32(d, 0)
        : "l"(a), "l"(b), "r"(scale_d));
  } else if constexpr (kBlocks == 8) {
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "setp.ne.b32 p, %34, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {" SLIPSTREAM_R32
        "}, %32, %33, p, 1, 1, 0, 0;\n"
        "}"
        : SLIPSTREAM_D32(d, 0)
        : "l"(a), "l"(b), "r"(scale_d));
  } else if constexpr (kIsBf16) {
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "setp.ne.b32 p, %66, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" SLIPSTREAM_R64
        "}, %64, %65, p, 1, 1, 0, 0;\n"
        "}"
        : SLIPSTREAM_D32(d, 0), SLIPSTREAM_D32(d, 8)
        : "l"(a), "l"(b), "r"(scale_d));
  } else {
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "setp.ne.b32 p, %66, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {" SLIPSTREAM_R64
        "}, %64, %65, p, 1, 1, 0, 0;\n"
        "}"
        : SLIPSTREAM_D32(d, 0), SLIPSTREAM_D32(d, 8)
        : "l"(a), "l"(b), "r"(scale_d));
  }
}

// d (+)= A B, A [64, 16] in registers (as of mma.m16n8k16), B [16, 8 kBlocks] in shared memory, of
// which the tile's rows are the rows.
template <bool kIsBf16, int kBlocks>
__device__ __forceinline__ void wgmma_registers(float (&d)[kBlocks][4], const uint32_t (&a)[4],
                                                uint64_t b, bool accumulate) {
  static_assert(kBlocks == 8 || kBlocks == 16);
  const int scale_d = accumulate ? 1 : 0;
  if constexpr (kBlocks == 8 && kIsBf16) {
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "setp.ne.b32 p, %37, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" SLIPSTREAM_R32
        "}, {%32, %33, %34, %35}, %36, p, 1, 1, 1;\n"
        "}"
        : SLIPSTREAM_D32(d, 0)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(scale_d));
  } else if constexpr (kBlocks == 8) {
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "setp.ne.b32 p, %37, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {" SLIPSTREAM_R32
        "}, {%32, %33, %34, %35}, %36, p, 1, 1, 1;\n"
        "}"
        : SLIPSTREAM_D32(d, 0)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(scale_d));
  } else if constexpr (kIsBf16) {
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "setp.ne.b32 p, %69, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" SLIPSTREAM_R64
        "}, {%64, %65, %66, %67}, %68, p, 1, 1, 1;\n"
        "}"
        : SLIPSTREAM_D32(d, 0), SLIPSTREAM_D32(d, 8)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(scale_d));
  } else {
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "setp.ne.b32 p, %69, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {" SLIPSTREAM_R64
        "}, {%64, %65, %66, %67}, %68, p, 1, 1, 1;\n"
        "}"
        : SLIPSTREAM_D32(d, 0), SLIPSTREAM_D32(d, 8)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(scale_d));
  }
}

#undef SLIPSTREAM_D4
#undef SLIPSTREAM_D32
#undef SLIPSTREAM_R32
#undef SLIPSTREAM_R64

}  // namespace slipstream::cuda
