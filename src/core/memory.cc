#include "core/memory.h"

#include <cstring>
#include <new>

#include "base/machine.h"

namespace slipstream {
namespace {

constexpr auto kAlignment = std::align_val_t{64};

void* allocate(size_t bytes) { return ::operator new(bytes, kAlignment); }
void release(void* data) noexcept { ::operator delete(data, kAlignment); }
void copy_in(void* device, const void* host, size_t bytes) { std::memcpy(device, host, bytes); }
void copy_out(void* host, const void* device, size_t bytes) { std::memcpy(host, device, bytes); }
void fill(void* device, int byte, size_t bytes) { std::memset(device, byte, bytes); }
size_t free_bytes() { return static_cast<size_t>(physical_memory_bytes()); }

}  // namespace

const DeviceMemory& host_memory() {
  static constexpr DeviceMemory kHost = {.name = "cpu",
                                         .allocate = allocate,
                                         .release = release,
                                         .copy_in = copy_in,
                                         .copy_out = copy_out,
                                         .fill = fill,
                                         .free_bytes = free_bytes};
  return kHost;
}

}  // namespace slipstream
