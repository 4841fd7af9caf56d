// safetensors files (https://github.com/huggingface/safetensors), mapped read-only, alone or in
// shards listed by an index.
//
// Owns the mappings and the tensor directories. The header is checked whole before any tensor is
// handed out: ranges inside the file, without holes or overlaps, as large as shape and dtype say.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "core/dtype.h"
#include "loader/byte_source.h"
#include "quant/format.h"

namespace slipstream {

struct SafetensorsTensor {
  std::string name;
  const char* dtype_name = "";          // the file's word: "BF16", "F8_E4M3"
  std::optional<DType> dtype;           // none: core has no such type
  const QuantFormat* format = nullptr;  // null unless F32, F16, BF16 or F8_E4M3
  std::vector<int64_t> shape;           // slowest first; empty for a scalar
  const std::byte* data = nullptr;
  uint64_t bytes = 0;
};

struct SafetensorsLimits {
  uint64_t max_header_bytes = 100'000'000;
  size_t max_tensors = 262'144;  // per file
  size_t max_dims = 8;
  size_t max_name_bytes = 1024;
};

class SafetensorsFile {
 public:
  static Result<SafetensorsFile> open(const std::string& path);
  // One whole file held in memory; `name` stands for its path in messages.
  static Result<SafetensorsFile> from_bytes(std::vector<std::byte> bytes, const std::string& name);

  const std::vector<SafetensorsTensor>& tensors() const { return tensors_; }  // by name
  const SafetensorsTensor* find(const std::string& name) const;
  const std::string& path() const { return source_->name(); }
  uint64_t file_bytes() const { return source_->bytes().size(); }
  const std::shared_ptr<const ByteSource>& source() const { return source_; }

 private:
  static Result<SafetensorsFile> from_source(std::shared_ptr<const ByteSource> source);

  // Shared with whoever keeps a tensor's data beyond this object.
  std::shared_ptr<const ByteSource> source_;
  std::vector<SafetensorsTensor> tensors_;
};

// The header's checks on their own: the tensors of a file's bytes, sorted by name.
Result<std::vector<SafetensorsTensor>> parse_safetensors(std::span<const std::byte> bytes,
                                                         const std::string& name,
                                                         const SafetensorsLimits& limits = {});

// The weights of a folder: model.safetensors, or the shards of model.safetensors.index.json. A
// shard is a plain file name in the folder; a symbolic link may lead only to another name there,
// or, in a Hugging Face cache, from snapshots/ to the blobs/ beside it.
class ShardedSafetensors {
 public:
  static Result<ShardedSafetensors> open(const std::string& folder);

  const std::vector<SafetensorsFile>& files() const { return files_; }

 private:
  Status open_index(const std::string& folder, const std::string& index_path);

  std::vector<SafetensorsFile> files_;
};

}  // namespace slipstream
