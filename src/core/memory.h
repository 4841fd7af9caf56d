// DeviceMemory: how one device takes and gives back memory, and how bytes get there and back.
//
// The host's is the ordinary heap; a backend brings its own (ops/cuda). Copies are complete when
// the call returns. Thread-safe.
#pragma once

#include <cstddef>

namespace slipstream {

struct DeviceMemory {
  const char* name = "";  // "cpu"
  // Aligned to 64 bytes at least. Throws std::bad_alloc.
  void* (*allocate)(size_t bytes) = nullptr;
  void (*release)(void* data) noexcept = nullptr;
  void (*copy_in)(void* device, const void* host, size_t bytes) = nullptr;
  void (*copy_out)(void* host, const void* device, size_t bytes) = nullptr;
  void (*fill)(void* device, int byte, size_t bytes) = nullptr;
  // Bytes that an allocation could still get.
  size_t (*free_bytes)() = nullptr;
};

const DeviceMemory& host_memory();

}  // namespace slipstream
