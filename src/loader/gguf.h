// GGUF files (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), mapped read-only.
//
// Owns the mapping, the metadata and the tensor directory. Every count, length, offset and size is
// checked against the file before it is used; nothing is read past the end. Does not interpret
// model keys: families do, through `GgufFile::metadata()`.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/status.h"
#include "loader/byte_source.h"
#include "quant/format.h"

namespace slipstream {

// Arrays are typed; numeric arrays are widened to 64 bits, strings view the mapped file.
struct GgufArray {
  std::variant<std::vector<int64_t>, std::vector<double>, std::vector<std::string_view>> items;
  uint32_t element_type = 0;  // the file's GGUF type id
  size_t size() const;
};

// u8..i64 and bool widen to int64 (u64 above INT64_MAX is refused), f32/f64 to double.
using GgufValue = std::variant<int64_t, double, bool, std::string_view, GgufArray>;

struct GgufTensor {
  std::string name;
  const QuantFormat* format = nullptr;  // null: a type this program does not read
  uint32_t ggml_type = 0;
  std::vector<int64_t> shape;  // slowest first, as everywhere in this program (GGUF stores reverse)
  const std::byte* data = nullptr;
  uint64_t bytes = 0;
  size_t shard_idx = 0;
};

class GgufMetadata {
 public:
  const GgufValue* find(const std::string& key) const;
  bool contains(const std::string& key) const { return find(key) != nullptr; }

  // Typed getters: absent gives `fallback`, another type is an error naming the key. Numbers may be
  // stored as integers; one that is not finite is an error.
  Result<int64_t> get_int(const std::string& key, int64_t fallback) const;
  Result<double> get_number(const std::string& key, double fallback) const;
  Result<bool> get_bool(const std::string& key, bool fallback) const;
  Result<std::string> get_string(const std::string& key, const std::string& fallback) const;
  // Null when absent; an error when present with another element type.
  Result<const std::vector<std::string_view>*> get_strings(const std::string& key) const;
  Result<const std::vector<int64_t>*> get_ints(const std::string& key) const;
  Result<const std::vector<double>*> get_numbers(const std::string& key) const;

  std::map<std::string, GgufValue> values;
};

class GgufFile {
 public:
  // Opens one file, or every shard of a split when `path` is its first shard
  // (-00001-of-0000N.gguf). Vocabulary-only files have no tensors.
  static Result<GgufFile> open(const std::string& path);
  // One whole file held in memory; `name` stands for its path in messages.
  static Result<GgufFile> from_bytes(std::vector<std::byte> bytes, const std::string& name);

  const GgufMetadata& metadata() const { return metadata_; }
  const std::vector<GgufTensor>& tensors() const { return tensors_; }
  const GgufTensor* find_tensor(const std::string& name) const;
  const std::string& path() const { return path_; }
  // The path of the shard that holds `tensor`.
  const std::string& tensor_path(const GgufTensor& tensor) const;
  uint64_t file_bytes() const;
  // Releases the resident pages of one tensor's bytes (MmapFile::drop).
  void drop(const GgufTensor& tensor) const;
  // The shard's bytes, for whoever keeps a tensor's data beyond this object.
  std::shared_ptr<const ByteSource> source(const GgufTensor& tensor) const {
    return shards_[tensor.shard_idx];
  }

 private:
  Status add_shard(std::shared_ptr<const ByteSource> source);
  Status add_following_shards(int64_t num_shards);

  std::string path_;
  // Shared so that a moved GgufFile keeps the addresses its tensors and strings point to.
  std::vector<std::shared_ptr<const ByteSource>> shards_;
  GgufMetadata metadata_;
  std::vector<GgufTensor> tensors_;
  std::map<std::string, size_t> tensor_idx_;
};

// "Q4_K", "IQ4_XS", or "type 99" for an id this program does not know at all.
std::string ggml_type_name(uint32_t ggml_type);

}  // namespace slipstream
