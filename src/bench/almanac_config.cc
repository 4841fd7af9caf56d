#include "bench/almanac_config.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "base/check.h"
#include "base/mmap_file.h"
#include "base/strings.h"
#include "bench/almanac_check.h"

namespace slipstream {

Result<AlmanacFile> check_almanac_file(const std::string& path, const std::string& folder) {
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::string text, read_text_file(path, kMaxAlmanacFileBytes));
  SLIPSTREAM_ASSIGN_OR_RETURN(const TomlDocument document, parse_toml_with_lines(text, path));
  FileCheck check(document, path, folder);
  check.run();
  return AlmanacFile{ConfigChecker::text(document.value, "kind"),
                     ConfigChecker::text(document.value, "name"), document.value, check.problems()};
}

std::string almanac_file_path(const std::string& folder, const std::string& kind,
                              const std::string& name) {
  return almanac_folder(folder, kind) + "/" + name + ".toml";
}

Result<AddedFile> add_almanac_file(const std::string& path, const AlmanacFile& file,
                                   const std::string& folder) {
  SLIPSTREAM_CHECK(file.problems.empty(), "only a valid file is added");
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::string text, read_text_file(path, kMaxAlmanacFileBytes));
  const std::string to = almanac_folder(folder, file.kind);
  std::error_code code;
  std::filesystem::create_directories(to, code);
  if (code) return failed(str(to, ": cannot be made: ", code.message()));
  AddedFile added{almanac_file_path(folder, file.kind, file.name), false};
  if (std::filesystem::exists(added.path, code)) {
    const Result<std::string> there = read_text_file(added.path, kMaxAlmanacFileBytes);
    added.was_there = there.ok() && there.value() == text;
    if (added.was_there) return added;
    return failed(str(added.path,
                      ": another file of this name is there; choose another name or"
                      " remove it first"));
  }
  // Complete under another name first: a reader never sees half a file.
  const std::string part = added.path + ".part";
  const int fd = ::open(part.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  const bool written =
      fd >= 0 && ::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  const int error = errno;
  if (fd >= 0) ::close(fd);
  if (written) std::filesystem::rename(part, added.path, code);
  if (!written || code) {
    const std::string why = written ? code.message() : std::strerror(error);
    ::unlink(part.c_str());
    return failed(str(added.path, ": cannot be written: ", why));
  }
  return added;
}

}  // namespace slipstream
