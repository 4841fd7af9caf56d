// The kernels behind a machine's limits. They compute nothing, so there is no reference.
//
//   read_pieces   block b reads pieces b, b + grid, ...; 256 threads with 8 loads of 16 bytes each
//                 under way make a piece. As many blocks as fit at once: up to 192 KB under way on
//                 a multiprocessor, where 3.35 TB/s at 1 us of latency need 25 and 4.8 TB/s
//                 need 37. Bytes: those of the pieces, and 16 a piece. Bound: memory.
//   write_bytes   grid-stride, 4 stores of 16 bytes each under way. Bound: memory.
//   run_barriers  one counter, added to and polled by a thread of each block. Bound: the way to the
//                 L2 cache and back.
//
// All pieces are read by one launch. One for each of a model's matrices, of 5 to 15 us, would wait
// for the last block of the one before and then fill the GPU anew.
#include <algorithm>

#include "ops/cuda/limits.h"

namespace slipstream::cuda {
namespace {

constexpr int kReadThreads = 256;
constexpr int kReadVecs = 8;
static_assert(kReadThreads * kReadVecs == kReadPieceVecs);
constexpr int kWriteThreads = 512;
constexpr int kWriteVecs = 4;

// Past L1: nothing is read twice. Volatile, so that all loads of a piece are issued before the
// first is used.
__device__ __forceinline__ uint4 load_once(const uint4* from) {
  uint4 v;
  asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from));
  return v;
}

__global__ void __launch_bounds__(kReadThreads)
    read_pieces_kernel(const ReadPiece* pieces, int num_pieces, uint32_t* sink) {
  uint32_t mixed = 0;
  int idx = static_cast<int>(blockIdx.x);
  ReadPiece piece = idx < num_pieces ? pieces[idx] : ReadPiece();
  while (idx < num_pieces) {
    const auto* const data = static_cast<const uint4*>(piece.data) + threadIdx.x;
    uint4 values[kReadVecs];
    if (piece.num_vecs == kReadPieceVecs) {
#pragma unroll
      for (int v = 0; v < kReadVecs; ++v) values[v] = load_once(data + v * kReadThreads);
    } else {
#pragma unroll
      for (int v = 0; v < kReadVecs; ++v) {
        const bool inside = v * kReadThreads + threadIdx.x < piece.num_vecs;
        values[v] = inside ? load_once(data + v * kReadThreads) : uint4();
      }
    }
    // Where the next piece is, is known before this one has come.
    idx += static_cast<int>(gridDim.x);
    if (idx < num_pieces) piece = pieces[idx];
#pragma unroll
    for (int v = 0; v < kReadVecs; ++v) {
      mixed ^= values[v].x ^ values[v].y ^ values[v].z ^ values[v].w;
    }
  }
  if (mixed == 0x9E3779B9u) *sink = mixed;  // keeps the reads; no value is expected
}

__global__ void __launch_bounds__(kWriteThreads) write_bytes_kernel(uint4* data, size_t count) {
  const size_t stride = size_t{gridDim.x} * blockDim.x;
  size_t i = size_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const auto value = [](size_t at) {
    const auto word = static_cast<uint32_t>(at) * 0x9E3779B1u;
    return uint4{word, word ^ 0x85EBCA6Bu, word + 0xC2B2AE35u, ~word};
  };
  for (; i + (kWriteVecs - 1) * stride < count; i += kWriteVecs * stride) {
#pragma unroll
    for (int v = 0; v < kWriteVecs; ++v) __stcs(data + i + v * stride, value(i + v * stride));
  }
  for (; i < count; i += stride) __stcs(data + i, value(i));
}

__global__ void barriers_kernel(uint32_t* counter, int num_barriers) {
  for (int barrier = 1; barrier <= num_barriers; ++barrier) {
    __syncthreads();
    if (threadIdx.x == 0) {
      const uint32_t wanted = static_cast<uint32_t>(barrier) * gridDim.x;
      // What the block has written is seen by whoever sees the counter.
      asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
      uint32_t arrived;
      do {
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];"
                     : "=r"(arrived)
                     : "l"(counter)
                     : "memory");
      } while (arrived < wanted);
    }
    __syncthreads();
  }
}

__global__ void nothing_kernel() {}

// Blocks of a kernel that fit the GPU at once.
template <typename Kernel>
cudaError_t resident_blocks(Kernel kernel, int threads, int num_sms, int& blocks) {
  int per_sm = 0;
  const cudaError_t error =
      cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_sm, kernel, threads, 0);
  blocks = per_sm * num_sms;
  return error;
}

}  // namespace

cudaError_t read_pieces(const ReadPiece* pieces, int num_pieces, int num_sms, uint32_t* sink,
                        cudaStream_t stream) {
  if (num_pieces == 0) return cudaSuccess;
  int blocks = 0;
  const cudaError_t error = resident_blocks(read_pieces_kernel, kReadThreads, num_sms, blocks);
  if (error != cudaSuccess) return error;
  const auto grid = static_cast<unsigned>(std::min(blocks, num_pieces));
  read_pieces_kernel<<<grid, kReadThreads, 0, stream>>>(pieces, num_pieces, sink);
  return cudaGetLastError();
}

cudaError_t write_bytes(void* data, size_t bytes, int num_sms, cudaStream_t stream) {
  int blocks = 0;
  const cudaError_t error = resident_blocks(write_bytes_kernel, kWriteThreads, num_sms, blocks);
  if (error != cudaSuccess) return error;
  write_bytes_kernel<<<static_cast<unsigned>(blocks), kWriteThreads, 0, stream>>>(
      static_cast<uint4*>(data), bytes / 16);
  return cudaGetLastError();
}

cudaError_t run_barriers(uint32_t* counter, int num_barriers, int num_sms, cudaStream_t stream) {
  constexpr unsigned kThreads = 256;
  void* arguments[] = {&counter, &num_barriers};
  // Cooperative: no block waits for one that has no place to run.
  return cudaLaunchCooperativeKernel(reinterpret_cast<const void*>(barriers_kernel),
                                     dim3(static_cast<unsigned>(num_sms)), dim3(kThreads),
                                     arguments, 0, stream);
}

cudaError_t launch_nothing(int num_sms, cudaStream_t stream) {
  nothing_kernel<<<static_cast<unsigned>(num_sms), 128, 0, stream>>>();
  return cudaGetLastError();
}

}  // namespace slipstream::cuda
