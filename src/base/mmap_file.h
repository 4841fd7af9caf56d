// A file mapped read-only. Pages are shared with the page cache, so opening is cheap.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "base/status.h"

namespace slipstream {

class MmapFile {
 public:
  // Regular, non-empty files only. The error names the path and the reason.
  static Result<MmapFile> open(const std::string& path);

  MmapFile(MmapFile&& other) noexcept;
  MmapFile& operator=(MmapFile&& other) noexcept;
  MmapFile(const MmapFile&) = delete;
  MmapFile& operator=(const MmapFile&) = delete;
  ~MmapFile();

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::string& path() const { return path_; }

  // Tells the kernel that the pages of [offset, offset + size) are no longer needed, so packed
  // originals do not count as resident memory. A hint: later reads fault the pages in again.
  void drop(uint64_t offset, uint64_t size) const;

 private:
  MmapFile(std::string path, const std::byte* data, size_t size)
      : path_(std::move(path)), data_(data), size_(size) {}

  std::string path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// The whole of a small text file; refuses files above `max_bytes`.
Result<std::string> read_text_file(const std::string& path, uint64_t max_bytes);

}  // namespace slipstream
