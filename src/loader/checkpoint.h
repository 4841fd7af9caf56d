// Checkpoint: the weights and configuration of a model, whatever files hold them.
//
// Owns the opened files and the directory of tensors under the files' own names; families map
// names. Shapes and types are checked here, and values of vectors (a NaN in a norm ruins every
// token); those of matrices on demand. Everything handed out borrows from the checkpoint and is
// valid while it lives. Immutable after open(): any thread may call any method. If a file is
// truncated in place while a tensor is being read, see byte_source.h.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "loader/byte_source.h"
#include "loader/gguf.h"
#include "loader/hf_config.h"
#include "quant/format.h"

namespace slipstream {

struct TensorInfo {
  std::string name;
  std::vector<int64_t> shape;           // slowest first
  const QuantFormat* format = nullptr;  // null: stored in a type this program does not read
  std::string type_name;                // "Q4_1", "BF16", "F8_E4M3": the file's word
  uint64_t bytes = 0;
};

class Checkpoint {
 public:
  enum Kind { kGguf, kHuggingFace };

  // A .gguf file (the first shard of a split) or a folder in Hugging Face layout. What a file is
  // is decided by its content, not its name.
  static Result<std::unique_ptr<Checkpoint>> open(const std::string& path);

  Kind kind() const { return gguf_ ? kGguf : kHuggingFace; }
  const std::string& path() const { return path_; }
  // Null for the other kind.
  const GgufMetadata* gguf() const { return gguf_ ? &gguf_->metadata() : nullptr; }
  const GgufFile* gguf_file() const { return gguf_.get(); }
  const HfConfig* hf() const { return hf_.get(); }
  // Empty for a GGUF file.
  const GenerationDefaults& generation_defaults() const { return generation_; }

  bool contains(const std::string& name) const { return tensors_.contains(name); }
  const TensorInfo* find(const std::string& name) const;
  std::vector<TensorInfo> tensors() const;  // by name
  // One error naming every missing tensor.
  Status require(std::span<const std::string> names) const;
  // Tensors of the files that are neither in `used` nor the scales of one that is.
  std::vector<std::string> unused(const std::set<std::string>& used) const;

  // Whether any tensor is stored in this format.
  bool stores(QuantType type) const;

  // The matrix as stored, [rows, cols], with its scales if it is E4M3 (fp8_scales.h). The error on
  // another shape prints both.
  Result<SourceMatrix> matrix(const std::string& name, int64_t rows, int64_t cols) const;
  // An error naming the row when the matrix, found by matrix(), holds NaN or infinity, or the
  // element when a scale is not a finite number above zero. Reads all of it: call it where the
  // bytes are about to be packed. Its first row is the tensor's `first_row`, for messages.
  Status check_finite(const std::string& name, const SourceMatrix& matrix,
                      int64_t first_row = 0) const;
  // A norm weight or bias [size] of any float type. NaN and infinity are errors.
  Result<std::vector<float>> vector(const std::string& name, int64_t size) const;

  // Releases the tensor's resident pages once it is packed; later reads fault them in again.
  void drop(const std::string& name) const;

  uint64_t file_bytes() const { return file_bytes_; }  // of all weight files

 private:
  struct Entry {
    TensorInfo info;
    const std::byte* data = nullptr;
    std::shared_ptr<const ByteSource> source;  // shared by all tensors of one file
  };

  Checkpoint() = default;
  Status open_gguf(const std::string& path);
  Status open_folder(const std::string& path);
  std::string quantization_hint() const;
  Result<const Entry*> scales_of(const std::string& name) const;
  Result<ScaleGrid> scale_grid(const std::string& name, int64_t rows, int64_t cols) const;
  Result<const Entry*> lookup(const std::string& name, const std::vector<int64_t>& shape) const;

  std::string path_;
  std::unique_ptr<GgufFile> gguf_;
  std::unique_ptr<HfConfig> hf_;
  GenerationDefaults generation_;
  std::map<std::string, Entry> tensors_;
  uint64_t file_bytes_ = 0;
};

}  // namespace slipstream
