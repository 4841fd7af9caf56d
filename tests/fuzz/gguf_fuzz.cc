// Any bytes as a GGUF file: refused with a Status, or readable to the last byte that the tensor
// directory and the metadata promise.
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/check.h"
#include "loader/gguf.h"
#include "quant/format.h"

namespace {

using namespace slipstream;

uint64_t sum_of_strings(const GgufMetadata& metadata) {
  uint64_t sum = 0;
  for (const auto& [key, value] : metadata.values) {
    if (const auto* text = std::get_if<std::string_view>(&value)) {
      for (const char c : *text) sum += static_cast<unsigned char>(c);
    }
    const auto items = metadata.get_strings(key);
    if (!items.ok()) continue;
    for (const std::string_view text : *items.value()) {
      for (const char c : text) sum += static_cast<unsigned char>(c);
    }
  }
  return sum;
}

uint64_t sum_of_bytes(const GgufTensor& tensor) {
  uint64_t sum = 0;
  for (uint64_t i = 0; i < tensor.bytes; ++i) sum += static_cast<uint64_t>(tensor.data[i]);
  return sum;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto* bytes = reinterpret_cast<const std::byte*>(data);
  const auto file = GgufFile::from_bytes({bytes, bytes + size}, "fuzz.gguf");
  if (!file.ok()) {
    SLIPSTREAM_CHECK(!file.status().message().empty(), "an error without a message");
    return 0;
  }
  // The sums cannot be left out by the compiler: they are compared with what the size allows.
  uint64_t sum = sum_of_strings(file->metadata());
  for (const GgufTensor& tensor : file->tensors()) {
    SLIPSTREAM_CHECK(file->find_tensor(tensor.name) == &tensor, "the directory finds its tensors");
    sum += sum_of_bytes(tensor);
    if (tensor.format != nullptr) {
      std::vector<float> block(static_cast<size_t>(tensor.format->block_elements));
      tensor.format->dequantize_block(tensor.data, block.data());
    }
  }
  SLIPSTREAM_CHECK(sum <= uint64_t{255} * size, "more was read than the file holds");
  return 0;
}
