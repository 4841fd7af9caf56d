// One block a row; a row is read once into registers, reduced, and written once.
// Bytes: rows in and out. Bound: memory, launch latency for few rows. Reference: ops/cpu/ref.
#include "ops/cuda/common/launch.cuh"
#include "ops/cuda/common/reduce.cuh"
#include "ops/cuda/common/vec.cuh"
#include "ops/cuda/rowwise.h"

namespace slipstream::cuda {
namespace {

constexpr int kMaxThreads = 512;
constexpr int kMaxVecs = 8;  // of 8 values a thread

// Calls f(vec, column) for the thread's vectors of a row of `num_cols`.
template <int kVecs, typename F>
__device__ __forceinline__ void for_columns(int num_cols, F&& f) {
#pragma unroll
  for (int vec = 0; vec < kVecs; ++vec) {
    const int column = (vec * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x)) * 8;
    if (column < num_cols) f(vec, column);
  }
}

// Writes the row as bf16, or as E4M3 with the scale that its largest value needs.
template <int kVecs, bool kFp8>
__device__ __forceinline__ void store_row(Floats8 (&x)[kVecs], int row, int num_cols,
                                          const RowOutput& out, float* shares) {
  if constexpr (kFp8) {
    float largest = 0.0f;
    for_columns<kVecs>(num_cols, [&](int vec, int) {
#pragma unroll
      for (int i = 0; i < 8; ++i) largest = fmaxf(largest, fabsf(x[vec].v[i]));
    });
    largest = block_reduce<Max>(largest, shares);
    const float scale = largest > 0.0f ? largest / kE4m3Max : 1.0f;
    const float inverse = 1.0f / scale;
    auto* const to = static_cast<uint8_t*>(out.values) + int64_t{row} * num_cols;
    for_columns<kVecs>(num_cols, [&](int vec, int column) {
#pragma unroll
      for (int i = 0; i < 8; ++i) x[vec].v[i] *= inverse;
      store_e4m3x8(to + column, x[vec]);
    });
    if (threadIdx.x == 0) out.row_scales[row] = scale;
  } else {
    auto* const to = static_cast<__nv_bfloat16*>(out.values) + int64_t{row} * num_cols;
    for_columns<kVecs>(num_cols, [&](int vec, int column) { store_bf16x8(to + column, x[vec]); });
  }
}

__device__ __forceinline__ Floats8 load_f32x8(const float* from) {
  const float4 low = *reinterpret_cast<const float4*>(from);
  const float4 high = *reinterpret_cast<const float4*>(from + 4);
  return {{low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w}};
}

template <int kVecs, bool kFp8>
__global__ void __launch_bounds__(kMaxThreads)
    rms_norm_kernel(const __grid_constant__ RmsNormArgs a) {
  __shared__ float shares[2][32];
  const int row = blockIdx.x;
  const int64_t offset = int64_t{row} * a.num_cols;
  const auto* const in = static_cast<const __nv_bfloat16*>(a.x) + offset;
  auto* const residual =
      a.residual != nullptr ? static_cast<__nv_bfloat16*>(a.residual) + offset : nullptr;
  Floats8 x[kVecs];
  float sum = 0.0f;
  begin_after_previous();
  for_columns<kVecs>(a.num_cols, [&](int vec, int column) {
    x[vec] = load_bf16x8(in + column);
    if (residual != nullptr) {
      const Floats8 before = load_bf16x8(residual + column);
#pragma unroll
      for (int i = 0; i < 8; ++i) x[vec].v[i] += before.v[i];
      store_bf16x8(residual + column, x[vec]);
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) sum += x[vec].v[i] * x[vec].v[i];
  });
  sum = block_reduce<Sum>(sum, shares[0]);
  const float factor = rsqrtf(sum / static_cast<float>(a.num_cols) + a.eps);
  for_columns<kVecs>(a.num_cols, [&](int vec, int column) {
    const Floats8 w = load_f32x8(a.weight + column);
#pragma unroll
    for (int i = 0; i < 8; ++i) x[vec].v[i] *= factor * w.v[i];
  });
  store_row<kVecs, kFp8>(x, row, a.num_cols, a.out, shares[1]);
}

// Products wait for the row's largest as bf16: twice the columns fit a thread's registers, and with
// fewer threads a row all rows of a decode step are on the device at once.
template <int kVecs, bool kFp8>
__global__ void __launch_bounds__(kMaxThreads)
    silu_mul_kernel(const __nv_bfloat16* gate_up, int num_cols, RowOutput out) {
  __shared__ float shares[32];
  const int row = blockIdx.x;
  const __nv_bfloat16* const gate = gate_up + int64_t{row} * 2 * num_cols;
  const __nv_bfloat16* const up = gate + num_cols;
  uint4 packed[kVecs];
  float largest = 0.0f;
  begin_after_previous();
  for_columns<kVecs>(num_cols, [&](int vec, int column) {
    Floats8 x = load_bf16x8(gate + column);
    const Floats8 other = load_bf16x8(up + column);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      x.v[i] = __fdividef(x.v[i], 1.0f + __expf(-x.v[i])) * other.v[i];
      largest = fmaxf(largest, fabsf(x.v[i]));
    }
    packed[vec] = pack_bf16x8(x);
    if constexpr (!kFp8) {
      auto* const to = static_cast<__nv_bfloat16*>(out.values) + int64_t{row} * num_cols;
      *reinterpret_cast<uint4*>(to + column) = packed[vec];
    }
  });
  if constexpr (kFp8) {
    largest = block_reduce<Max>(largest, shares);
    const float scale = largest > 0.0f ? largest / kE4m3Max : 1.0f;
    const float inverse = 1.0f / scale;
    auto* const to = static_cast<uint8_t*>(out.values) + int64_t{row} * num_cols;
    for_columns<kVecs>(num_cols, [&](int vec, int column) {
      Floats8 x = unpack_bf16x8(packed[vec]);
#pragma unroll
      for (int i = 0; i < 8; ++i) x.v[i] *= inverse;
      store_e4m3x8(to + column, x);
    });
    if (threadIdx.x == 0) out.row_scales[row] = scale;
  }
}

template <int kVecs, bool kFp8>
__global__ void __launch_bounds__(kMaxThreads)
    quantize_rows_kernel(const __nv_bfloat16* in, int num_cols, RowOutput out) {
  __shared__ float shares[32];
  const int row = blockIdx.x;
  Floats8 x[kVecs];
  begin_after_previous();
  for_columns<kVecs>(num_cols, [&](int vec, int column) {
    x[vec] = load_bf16x8(in + int64_t{row} * num_cols + column);
  });
  store_row<kVecs, kFp8>(x, row, num_cols, out, shares);
}

__global__ void add_bias_kernel(__nv_bfloat16* y, int64_t stride, const float* bias, int num_cols) {
  __nv_bfloat16* const row = y + blockIdx.x * stride;
  begin_after_previous();
  for (int i = threadIdx.x; i < num_cols; i += blockDim.x) {
    row[i] = __float2bfloat16(__bfloat162float(row[i]) + bias[i]);
  }
}

__global__ void gather_rows_kernel(const uint4* table, const int32_t* ids, int64_t row_vecs,
                                   uint4* out) {
  begin_after_previous();
  const uint4* const from = table + ids[blockIdx.x] * row_vecs;
  uint4* const to = out + blockIdx.x * row_vecs;
  for (int64_t i = threadIdx.x; i < row_vecs; i += blockDim.x) to[i] = from[i];
}

// f.template operator()<kVecs>(shape) for rows spread over so many threads: kVecs vectors each.
template <typename F>
cudaError_t dispatch_vecs(int num_rows, int num_cols, int threads, F&& f) {
  if (num_rows == 0) return cudaSuccess;
  if (num_cols <= 0 || num_cols % 8 != 0) return cudaErrorInvalidValue;
  const int vecs = (num_cols + threads * 8 - 1) / (threads * 8);
  const LaunchShape shape{static_cast<unsigned>(num_rows), static_cast<unsigned>(threads)};
  if (vecs == 1) return f.template operator()<1>(shape);
  if (vecs == 2) return f.template operator()<2>(shape);
  if (vecs == 3) return f.template operator()<3>(shape);
  if (vecs == 4) return f.template operator()<4>(shape);
  if (vecs <= 6) return f.template operator()<6>(shape);
  if (vecs <= kMaxVecs) return f.template operator()<kMaxVecs>(shape);
  return cudaErrorInvalidValue;
}

// Narrow rows take few threads, so that many rows are in flight.
int threads_for(int num_cols) { return num_cols > 4096 ? 512 : num_cols > 1024 ? 256 : 128; }
int silu_threads_for(int num_cols) { return num_cols > 16384 ? 512 : num_cols > 4096 ? 256 : 128; }

}  // namespace

cudaError_t rms_norm(const RmsNormArgs& args, cudaStream_t stream) {
  return dispatch_vecs(args.num_rows, args.num_cols, threads_for(args.num_cols),
                       [&]<int kVecs>(const LaunchShape& shape) {
                         const auto kernel = args.out.row_scales != nullptr
                                                 ? rms_norm_kernel<kVecs, true>
                                                 : rms_norm_kernel<kVecs, false>;
                         return launch_overlapped(kernel, shape, stream, args);
                       });
}

cudaError_t silu_mul(const void* gate_up, int num_rows, int num_cols, RowOutput out,
                     cudaStream_t stream) {
  const auto* const in = static_cast<const __nv_bfloat16*>(gate_up);
  return dispatch_vecs(
      num_rows, num_cols, silu_threads_for(num_cols), [&]<int kVecs>(const LaunchShape& shape) {
        const auto kernel = out.row_scales != nullptr ? silu_mul_kernel<kVecs, true>
                                                      : silu_mul_kernel<kVecs, false>;
        return launch_overlapped(kernel, shape, stream, in, num_cols, out);
      });
}

cudaError_t quantize_rows(const void* x, int num_rows, int num_cols, RowOutput out,
                          cudaStream_t stream) {
  const auto* const in = static_cast<const __nv_bfloat16*>(x);
  return dispatch_vecs(num_rows, num_cols, threads_for(num_cols),
                       [&]<int kVecs>(const LaunchShape& shape) {
                         return launch_overlapped(quantize_rows_kernel<kVecs, true>, shape, stream,
                                                  in, num_cols, out);
                       });
}

cudaError_t add_bias(void* y, int64_t stride, const float* bias, int num_rows, int num_cols,
                     cudaStream_t stream) {
  if (num_rows == 0) return cudaSuccess;
  return launch_overlapped(add_bias_kernel, {static_cast<unsigned>(num_rows), 256}, stream,
                           static_cast<__nv_bfloat16*>(y), stride, bias, num_cols);
}

cudaError_t gather_rows(const void* table, const int32_t* ids, int num_rows, int64_t row_bytes,
                        void* out, cudaStream_t stream) {
  if (num_rows == 0) return cudaSuccess;
  if (row_bytes % 16 != 0) return cudaErrorInvalidValue;
  return launch_overlapped(gather_rows_kernel, {static_cast<unsigned>(num_rows), 128}, stream,
                           static_cast<const uint4*>(table), ids, row_bytes / 16,
                           static_cast<uint4*>(out));
}

}  // namespace slipstream::cuda
