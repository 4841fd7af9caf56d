#include "bench/campaign_folder.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include <filesystem>
#include <system_error>

#include "base/strings.h"

namespace slipstream {

Result<std::unique_ptr<CampaignFolder>> CampaignFolder::open(const std::string& store_path,
                                                             const std::string& campaign) {
  std::error_code code;
  const std::filesystem::path store = std::filesystem::absolute(store_path, code);
  const std::string base = store.parent_path().string();
  const std::string path = str(base, "/", store.stem().string(), ".runs/", campaign);
  for (const char* name : {"/logs", "/rows"}) {
    if (!code) std::filesystem::create_directories(path + name, code);
  }
  if (code) {
    return failed(
        str(path, ": cannot be made: ", code.message(), "; name another store with --store"));
  }
  const int fd = ::open((path + "/lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) return failed(str(path, "/lock: ", ::strerror(errno)));
  if (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
    ::close(fd);
    return failed(str("campaign ", quote(campaign), " is being run by another process on this",
                      " store; wait for it or name another store with --store"));
  }
  return std::unique_ptr<CampaignFolder>(new CampaignFolder(base, path, fd));
}

CampaignFolder::~CampaignFolder() { ::close(lock_fd_); }

std::string CampaignFolder::relative(const std::string& path) const {
  return starts_with(path, base_ + "/") ? path.substr(base_.size() + 1) : path;
}

Status CampaignFolder::add_failure(const Json& failure) {
  const std::string line = dump_json(failure) + "\n";
  const int fd = ::open(failures_path().c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  const bool is_kept = fd >= 0 &&
                       ::write(fd, line.data(), line.size()) == static_cast<ssize_t>(line.size()) &&
                       ::fsync(fd) == 0;
  const int error = errno;
  if (fd >= 0) ::close(fd);
  if (is_kept) return {};
  return failed(str(failures_path(), ": cannot be written: ", ::strerror(error),
                    "; free disk space and run it again: finished points are kept"));
}

}  // namespace slipstream
