// The parser of one GGUF file's bytes. Internal to loader: gguf.cc puts shards together.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "loader/gguf.h"

namespace slipstream {

struct GgufLimits {
  uint64_t max_keys = 65'536;
  uint64_t max_tensors = 1'000'000;
  uint64_t max_key_bytes = 65'535;
  uint64_t max_tensor_name_bytes = 1024;
  // Over all arrays together: one byte of the file can widen to eight here.
  uint64_t max_array_items = uint64_t{1} << 24;
  uint64_t max_alignment = 4096;
};

struct GgufContents {
  GgufMetadata metadata;
  std::vector<GgufTensor> tensors;
};

// Strings and tensor data point into `bytes`. `name` opens every message.
Result<GgufContents> parse_gguf(std::span<const std::byte> bytes, const std::string& name,
                                const GgufLimits& limits = {});

// How a ggml type is stored, also for types this program does not read: sizes are checked anyway.
struct GgmlType {
  uint32_t id;
  const char* name;
  uint32_t block_elements;
  uint32_t block_bytes;
};

// False when the id is unknown.
bool find_ggml_type(uint32_t id, GgmlType& out);

}  // namespace slipstream
