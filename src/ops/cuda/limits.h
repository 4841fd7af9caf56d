// Kernels that do one thing as fast as the GPU can: what ops are compared with. See limits.cu.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace slipstream::cuda {

// A part of the memory to read, aligned to 16 bytes.
struct ReadPiece {
  const void* data = nullptr;
  int64_t num_vecs = 0;  // of 16 bytes
};
constexpr int64_t kReadPieceVecs = 2048;  // at most

// Reads all pieces, a list in the device's memory, and keeps nothing; `sink` is writable.
cudaError_t read_pieces(const ReadPiece* pieces, int num_pieces, int num_sms, uint32_t* sink,
                        cudaStream_t stream);

// Writes `bytes` bytes (a multiple of 16 counts), no two vectors the same.
cudaError_t write_bytes(void* data, size_t bytes, int num_sms, cudaStream_t stream);

// A block on each multiprocessor; all wait for each other so many times. `counter` starts at 0.
cudaError_t run_barriers(uint32_t* counter, int num_barriers, int num_sms, cudaStream_t stream);

// A block on each multiprocessor that does nothing.
cudaError_t launch_nothing(int num_sms, cudaStream_t stream);

}  // namespace slipstream::cuda
