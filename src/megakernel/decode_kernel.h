// The persistent kernel, which decodes a sequence in one launch: see abi.h.
#pragma once

#include <cstdint>

#include "megakernel/abi.h"

namespace slipstream {

// What a kernel is compiled for.
struct KernelKey {
  int head_dim = 0;
  int heads_per_kv_head = 0;
  StreamFormat layers = StreamFormat::kBF16;
  StreamFormat lm_head = StreamFormat::kBF16;
};

struct DecodeKernel;
// Null: none is compiled for this key.
const DecodeKernel* find_decode_kernel(const KernelKey& key);
// Where the ring begins in shared memory.
int32_t ring_offset(const DecodeKernel& kernel, const ProductPhase* products);
// What the device has for CTAs of this kernel; zeros where it cannot launch it.
struct DeviceRoom {
  int num_multiprocessors = 0;
  int64_t shared_bytes = 0;  // of a CTA
};
DeviceRoom device_room(const DecodeKernel& kernel);
// Queues a launch on `stream`, a cudaStream_t. The name of the error, or null.
const char* launch_decode(const DecodeKernel& kernel, const DecodeArgs& args, int64_t shared_bytes,
                          void* stream);

}  // namespace slipstream
