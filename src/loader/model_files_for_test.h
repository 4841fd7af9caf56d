// Builds small GGUF and safetensors files byte by byte, valid or broken on purpose. For tests.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/strings.h"
#include "base/temp_folder_for_test.h"

namespace slipstream {

inline std::vector<std::byte> to_bytes(std::string_view text) {
  const auto* data = reinterpret_cast<const std::byte*>(text.data());
  return {data, data + text.size()};
}

template <typename T>
std::string raw(T value) {
  std::string bytes(sizeof(T), '\0');
  std::memcpy(bytes.data(), &value, sizeof(T));
  return bytes;
}

inline std::string gguf_string(std::string_view text) {
  return raw<uint64_t>(text.size()) + std::string(text);
}

// GGUF value type ids, as files store them.
enum GgufTypeId : uint32_t {
  kGgufU8 = 0,
  kGgufU32 = 4,
  kGgufF32 = 6,
  kGgufBool = 7,
  kGgufString = 8,
  kGgufArray = 9,
  kGgufU64 = 10
};

// Fields are public so that a test can break any of them before text().
struct GgufBuilder {
  std::string magic = "GGUF";
  uint32_t version = 3;
  std::vector<std::string> keys;
  std::vector<std::string> tensors;
  std::string data;
  uint64_t alignment = 32;
  int64_t num_keys = -1;  // -1: as many as there are
  int64_t num_tensors = -1;

  GgufBuilder& key(std::string_view name, uint32_t type, std::string_view value) {
    keys.push_back(gguf_string(name) + raw(type) + std::string(value));
    return *this;
  }
  GgufBuilder& u32(std::string_view name, uint32_t value) {
    return key(name, kGgufU32, raw(value));
  }
  GgufBuilder& text_key(std::string_view name, std::string_view value) {
    return key(name, kGgufString, gguf_string(value));
  }
  // A directory entry alone; dims in the file's order, fastest first.
  GgufBuilder& entry(std::string_view name, const std::vector<uint64_t>& dims, uint32_t type,
                     uint64_t offset) {
    std::string info = gguf_string(name) + raw(static_cast<uint32_t>(dims.size()));
    for (const uint64_t dim : dims) info += raw(dim);
    tensors.push_back(info + raw(type) + raw(offset));
    return *this;
  }
  // An entry with its data, padded to the alignment.
  GgufBuilder& tensor(std::string_view name, const std::vector<uint64_t>& dims, uint32_t type,
                      std::string_view bytes) {
    entry(name, dims, type, data.size());
    data += bytes;
    data.resize((data.size() + alignment - 1) / alignment * alignment, '\0');
    return *this;
  }

  std::string header() const {
    std::string text = magic + raw(version);
    text += raw(num_tensors < 0 ? static_cast<int64_t>(tensors.size()) : num_tensors);
    text += raw(num_keys < 0 ? static_cast<int64_t>(keys.size()) : num_keys);
    for (const std::string& key_bytes : keys) text += key_bytes;
    for (const std::string& tensor_bytes : tensors) text += tensor_bytes;
    return text;
  }
  std::string text() const {
    std::string file = header();
    if (tensors.empty()) return file;
    file.resize((file.size() + alignment - 1) / alignment * alignment, '\0');
    return file + data;
  }
};

// A header with its length in front, and `num_data_bytes` of data behind.
inline std::string safetensors_text(std::string_view header, size_t num_data_bytes) {
  return raw<uint64_t>(header.size()) + std::string(header) + std::string(num_data_bytes, '\1');
}

// "name":{...} of a header.
inline std::string safetensors_entry(std::string_view name, std::string_view dtype,
                                     std::string_view shape, uint64_t begin, uint64_t end) {
  return str("\"", name, "\":{\"dtype\":\"", dtype, "\",\"shape\":", shape, ",\"data_offsets\":[",
             begin, ",", end, "]}");
}

// Tensors one after the other, as a writer lays them out.
struct SafetensorsBuilder {
  std::string header;
  std::string data;

  // shape as in JSON: "[2,3]".
  SafetensorsBuilder& tensor(std::string_view name, std::string_view dtype, std::string_view shape,
                             std::string_view bytes) {
    header += header.empty() ? "{" : ",";
    header += safetensors_entry(name, dtype, shape, data.size(), data.size() + bytes.size());
    data += bytes;
    return *this;
  }
  std::string text() const {
    const std::string whole = header.empty() ? "{}" : header + "}";
    return raw<uint64_t>(whole.size()) + whole + data;
  }
};

}  // namespace slipstream
