// The persistent kernel: kConsumerWarps consumer warps, two producers, a reducer. kDecodeCtas CTAs,
// one on a multiprocessor, launched cooperatively so that all of them are there.
//
// Bytes: the weights, the LM head and the context's K and V, once. Bound: memory. Reference: the
// forward pass, see decoder_test.cc.
#include "megakernel/decode_kernel.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <array>

#include "megakernel/attention.cuh"
#include "megakernel/producer.cuh"
#include "megakernel/products.cuh"
#include "megakernel/products_i4.cuh"
#include "megakernel/reducer_exchange.cuh"

namespace slipstream {
namespace megakernel {
namespace {

constexpr int kThreads = kConsumerThreads + 96;

template <typename Model>
__global__ void __launch_bounds__(kThreads, 1) decode_kernel(const __grid_constant__ DecodeArgs p) {
  using Map = typename Model::Map;
  extern __shared__ __align__(128) char smem[];
  // By way of a shuffle the compiler cannot know what these are, and does not read the special
  // registers again wherever it is short of others.
  Place at;
  at.smem = __shfl_sync(~0u, static_cast<uint32_t>(__cvta_generic_to_shared(smem)), 0);
  at.warp = __shfl_sync(~0u, threadIdx.x >> 5, 0);
  at.lane = __shfl_xor_sync(~0u, threadIdx.x & 31, 1) ^ 1;
  at.cta = __shfl_sync(~0u, blockIdx.x, 0);
  if (threadIdx.x == 0) {
    for (int i = 0; i < kMaxRingSlots * 2; ++i) {
      init_barrier(at.smem + Map::full + i * 8, 1);
      init_barrier(at.smem + Map::empty + i * 8, kConsumerWarps / 2);
    }
    for (int i = 0; i < kPairSlots; ++i) {
      init_barrier(at.smem + Map::sums_full + i * 8, kConsumerWarps);
      init_barrier(at.smem + Map::sums_empty + i * 8, 1);
    }
    init_barrier(at.smem + Map::published, 1);
    init_barrier(at.smem + Map::kv_written, 2);
    init_barrier(at.smem + Map::parts_out, kConsumerWarps);
    sts32(at.smem + Map::token, p.first_token);
    sts32(at.smem + Map::progress, 0);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  for (int layer = static_cast<int>(threadIdx.x); layer < p.num_layers; layer += kThreads) {
    const auto pages = reinterpret_cast<uint64_t>(p.kv_layers[layer]);
    sts64(at.smem + Map::kv_layers + layer * 8, static_cast<uint32_t>(pages),
          static_cast<uint32_t>(pages >> 32));
  }
  __syncthreads();
  if (at.warp > kConsumerWarps) {
    if (at.lane == 0) {
      Producer<Model>(p, at, static_cast<int>(at.warp) - kConsumerWarps - 1).run();
    }
  } else if (at.warp == kConsumerWarps) {
    Reducer<Model>(p, at).run();
  } else {
    Consumer<Model>(p, at).run();
  }
}

}  // namespace
}  // namespace megakernel

struct DecodeKernel {
  KernelKey key;
  const void* function = nullptr;
  int32_t (*ring_offset)(const ProductPhase* products) = nullptr;
};

namespace {

template <int kHeadDim, int kHeads, StreamFormat kLayers, StreamFormat kLmHead>
DecodeKernel compiled() {
  using Model = megakernel::KernelModel<kHeadDim, kHeads, kLayers, kLmHead>;
  return {.key = {kHeadDim, kHeads, kLayers, kLmHead},
          .function = reinterpret_cast<const void*>(&megakernel::decode_kernel<Model>),
          .ring_offset = [](const ProductPhase* products) -> int32_t {
            int x_bytes = 0;
            for (int i = 0; i < kNumProducts; ++i) {
              x_bytes = std::max(
                  x_bytes, products[i].num_slices * Model::Map::slice_bytes(products[i].format));
            }
            return Model::Map::ring(x_bytes);
          }};
}

}  // namespace

const DecodeKernel* find_decode_kernel(const KernelKey& key) {
  constexpr StreamFormat kBF16 = StreamFormat::kBF16;
  constexpr StreamFormat kF8 = StreamFormat::kF8E4M3;
  constexpr StreamFormat kI4 = StreamFormat::kI4;
  static const std::array kernels = {
      compiled<64, 4, kBF16, kBF16>(),  compiled<128, 4, kBF16, kBF16>(),
      compiled<128, 6, kBF16, kBF16>(), compiled<128, 8, kBF16, kBF16>(),
      compiled<96, 2, kBF16, kBF16>(),  compiled<128, 4, kF8, kBF16>(),
      compiled<96, 2, kF8, kBF16>(),    compiled<64, 4, kI4, kBF16>(),
      compiled<128, 4, kI4, kBF16>(),   compiled<128, 6, kI4, kBF16>(),
      compiled<96, 2, kI4, kBF16>()};
  for (const DecodeKernel& kernel : kernels) {
    if (kernel.key.head_dim == key.head_dim &&
        kernel.key.heads_per_kv_head >= key.heads_per_kv_head && kernel.key.layers == key.layers &&
        kernel.key.lm_head == key.lm_head) {
      return &kernel;
    }
  }
  return nullptr;
}

int32_t ring_offset(const DecodeKernel& kernel, const ProductPhase* products) {
  return kernel.ring_offset(products);
}

DeviceRoom device_room(const DecodeKernel& kernel) {
  int device = 0;
  int num_sms = 0;
  int most_bytes = 0;
  int cooperative = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&num_sms, cudaDevAttrMultiProcessorCount, device) != cudaSuccess ||
      cudaDeviceGetAttribute(&cooperative, cudaDevAttrCooperativeLaunch, device) != cudaSuccess ||
      cudaDeviceGetAttribute(&most_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) !=
          cudaSuccess ||
      cudaFuncSetAttribute(kernel.function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           most_bytes) != cudaSuccess ||
      cooperative == 0) {
    return {};
  }
  return {.num_multiprocessors = num_sms, .shared_bytes = most_bytes};
}

const char* launch_decode(const DecodeKernel& kernel, const DecodeArgs& args, int64_t shared_bytes,
                          void* stream) {
  DecodeArgs copy = args;
  void* params[] = {&copy};
  const cudaError_t error = cudaLaunchCooperativeKernel(
      kernel.function, dim3(kDecodeCtas), dim3(megakernel::kThreads), params,
      static_cast<size_t>(shared_bytes), static_cast<cudaStream_t>(stream));
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace slipstream
