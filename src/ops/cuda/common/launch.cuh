// Launches that overlap the end of the kernel before them (programmatic dependent launch).
//
// Every kernel launched so calls begin_after_previous() before it touches what a kernel before it
// may write or read, so that a kernel that has ended has all of its predecessors behind it.
#pragma once

#include <cuda_runtime.h>

#include <utility>

namespace slipstream::cuda {

// Waits for the kernel before, then lets the next one's blocks come as places get free.
__device__ __forceinline__ void begin_after_previous() {
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

struct LaunchShape {
  dim3 grid;
  dim3 block;
  size_t smem_bytes = 0;
};

template <typename... Params, typename... Args>
cudaError_t launch_overlapped(void (*kernel)(Params...), const LaunchShape& shape,
                              cudaStream_t stream, Args&&... args) {
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.smem_bytes;
  config.stream = stream;
  config.attrs = &overlap;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, std::forward<Args>(args)...);
}

}  // namespace slipstream::cuda
