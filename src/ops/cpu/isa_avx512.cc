// The kernels for AVX-512 (F, BW, VL, DQ, VNNI). Compiled with flags of its own (CMakeLists.txt)
// and reached only after dispatch.cc has asked the processor.
#include <immintrin.h>

#include "ops/cpu/kernels.h"

#define SLIPSTREAM_INLINE [[gnu::always_inline]] inline
#define SLIPSTREAM_INLINE_LAMBDA __attribute__((always_inline))

namespace slipstream {
namespace {
constexpr const char* kIsaName = "avx512";
#include "ops/cpu/simd_avx512.h"
//
#include "ops/cpu/kernels.inl"
}  // namespace

const CpuKernels& avx512_kernels() { return kKernels; }

}  // namespace slipstream
