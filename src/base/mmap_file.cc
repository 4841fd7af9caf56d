#include "base/mmap_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <utility>

#include "base/strings.h"

namespace slipstream {
namespace {

constexpr uint64_t kPageBytes = 4096;

Result<uint64_t> regular_file_size(int fd, const std::string& path) {
  struct stat info{};
  if (::fstat(fd, &info) != 0) return failed(str(path, ": ", std::strerror(errno)));
  if (!S_ISREG(info.st_mode)) return bad_usage(str(path, ": is not a regular file"));
  return static_cast<uint64_t>(info.st_size);
}

}  // namespace

Result<MmapFile> MmapFile::open(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    const int error = errno;
    const std::string message = str("cannot open ", path, ": ", std::strerror(error));
    return error == ENOENT ? bad_usage(message) : failed(message);
  }
  auto size = regular_file_size(fd, path);
  if (!size.ok() || size.value() == 0) {
    ::close(fd);
    return size.ok() ? invalid_model(str(path, ": the file is empty")) : size.status();
  }
  void* data = ::mmap(nullptr, size.value(), PROT_READ, MAP_SHARED, fd, 0);
  ::close(fd);
  if (data == MAP_FAILED) return failed(str("cannot map ", path, ": ", std::strerror(errno)));
  return MmapFile(path, static_cast<const std::byte*>(data), size.value());
}

MmapFile::MmapFile(MmapFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

MmapFile& MmapFile::operator=(MmapFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MmapFile::~MmapFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

void MmapFile::drop(uint64_t offset, uint64_t size) const {
  // Only whole pages inside the range: its neighbours may still be in use.
  const uint64_t begin = (offset + kPageBytes - 1) / kPageBytes * kPageBytes;
  const uint64_t end = (offset + size) / kPageBytes * kPageBytes;
  if (end <= begin || end > size_) return;
  ::madvise(const_cast<std::byte*>(data_) + begin, end - begin, MADV_DONTNEED);
}

Result<std::string> read_text_file(const std::string& path, uint64_t max_bytes) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return bad_usage(str("cannot open ", path, ": ", std::strerror(errno)));
  std::string text;
  std::string chunk(1 << 16, '\0');
  while (in) {
    in.read(chunk.data(), static_cast<std::streamsize>(chunk.size()));
    text.append(chunk.data(), static_cast<size_t>(in.gcount()));
    if (text.size() > max_bytes) {
      return failed(str(path, ": is larger than the limit of ", human_bytes(max_bytes)));
    }
  }
  if (in.bad()) return failed(str("cannot read ", path, ": ", std::strerror(errno)));
  return text;
}

}  // namespace slipstream
