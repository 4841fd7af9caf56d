// Any bytes as a safetensors file: refused with a Status, or a directory that covers the data
// section exactly once and is readable to its last byte.
#include <cstddef>
#include <cstdint>

#include "base/check.h"
#include "loader/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace slipstream;
  const auto* bytes = reinterpret_cast<const std::byte*>(data);
  const auto file = SafetensorsFile::from_bytes({bytes, bytes + size}, "fuzz.safetensors");
  if (!file.ok()) {
    SLIPSTREAM_CHECK(!file.status().message().empty(), "an error without a message");
    return 0;
  }
  uint64_t sum = 0;
  uint64_t total_bytes = 0;
  for (const SafetensorsTensor& tensor : file->tensors()) {
    SLIPSTREAM_CHECK(file->find(tensor.name) == &tensor, "the directory finds its tensors");
    for (uint64_t i = 0; i < tensor.bytes; ++i) sum += static_cast<uint64_t>(tensor.data[i]);
    total_bytes += tensor.bytes;
  }
  SLIPSTREAM_CHECK(total_bytes <= size - 8, "tensors overlap or leave the file");
  SLIPSTREAM_CHECK(sum <= 255 * total_bytes, "more was read than the file holds");
  return 0;
}
