#include "loader/byte_source.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/strings.h"

namespace slipstream {

Result<ByteSource::FileState> ByteSource::file_state(int fd, const std::string& name) {
  struct stat info{};
  if (::fstat(fd, &info) != 0) return failed(str(name, ": ", std::strerror(errno)));
  const int64_t seconds = info.st_mtim.tv_sec;
  return FileState{.size = info.st_size,
                   .modified_ns = seconds * 1'000'000'000 + info.st_mtim.tv_nsec};
}

Result<std::shared_ptr<const ByteSource>> ByteSource::map(const std::string& path) {
  SLIPSTREAM_ASSIGN_OR_RETURN(MmapFile mapping, MmapFile::open(path));
  std::shared_ptr<ByteSource> source(new ByteSource());
  source->name_ = path;
  source->mapping_ = std::move(mapping);
  source->fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (source->fd_ < 0) return failed(str("cannot open ", path, ": ", std::strerror(errno)));
  SLIPSTREAM_ASSIGN_OR_RETURN(source->state_, file_state(source->fd_, path));
  if (source->state_.size != static_cast<int64_t>(source->bytes().size())) {
    return failed(str(path, ": the file changed while it was opened; try again"));
  }
  return std::shared_ptr<const ByteSource>(std::move(source));
}

std::shared_ptr<const ByteSource> ByteSource::own(std::vector<std::byte> bytes, std::string name) {
  std::shared_ptr<ByteSource> source(new ByteSource());
  source->name_ = std::move(name);
  source->owned_ = std::move(bytes);
  return source;
}

ByteSource::~ByteSource() {
  if (fd_ >= 0) ::close(fd_);
}

void ByteSource::drop(const std::byte* data, uint64_t size) const {
  if (mapping_) mapping_->drop(static_cast<uint64_t>(data - bytes().data()), size);
}

Status ByteSource::check_unchanged() const {
  if (!mapping_) return {};
  SLIPSTREAM_ASSIGN_OR_RETURN(const FileState now, file_state(fd_, name_));
  if (now == state_) return {};
  return failed(str(name_, ": the file was changed while it was being loaded (", state_.size,
                    " bytes at opening, ", now.size, " now); load it again"));
}

}  // namespace slipstream
