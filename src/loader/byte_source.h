// The bytes of one model file: mapped read-only, or owned in memory (tests, fuzzers).
//
// A mapping has one hazard: if another program shortens the file in place, touching the lost pages
// raises SIGBUS. Nothing global (no signal handler) is installed against it. Instead the file stays
// open, and check_unchanged() compares its size and time of change with those at opening;
// Checkpoint calls it before it hands out a tensor, so a file that was truncated or rewritten gives
// an error line, and the hazard is left only for a change within the moment of one tensor's
// packing. A file replaced by rename is no hazard: the mapping keeps the old one. After packing,
// engines no longer touch the mapping.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/mmap_file.h"
#include "base/status.h"

namespace slipstream {

class ByteSource {
 public:
  static Result<std::shared_ptr<const ByteSource>> map(const std::string& path);
  static std::shared_ptr<const ByteSource> own(std::vector<std::byte> bytes, std::string name);

  ByteSource(const ByteSource&) = delete;
  ByteSource& operator=(const ByteSource&) = delete;
  ~ByteSource();

  std::span<const std::byte> bytes() const {
    return mapping_ ? mapping_->bytes() : std::span<const std::byte>(owned_);
  }
  // The path, as messages print it.
  const std::string& name() const { return name_; }

  // MmapFile::drop for bytes that lie inside this source; nothing for owned bytes.
  void drop(const std::byte* data, uint64_t size) const;

  // An error when the file on disk is no longer the one that was mapped.
  Status check_unchanged() const;

 private:
  struct FileState {
    int64_t size = 0;
    int64_t modified_ns = 0;
    bool operator==(const FileState&) const = default;
  };
  static Result<FileState> file_state(int fd, const std::string& name);

  ByteSource() = default;

  std::string name_;
  std::optional<MmapFile> mapping_;
  std::vector<std::byte> owned_;
  int fd_ = -1;
  FileState state_;
};

}  // namespace slipstream
