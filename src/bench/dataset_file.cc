#include "bench/dataset_file.h"

#include <errno.h>
#include <zlib.h>

#include <array>
#include <cstring>
#include <filesystem>
#include <memory>

#include "base/strings.h"

namespace slipstream {
namespace {

constexpr size_t kMaxBytes = 256u << 20;

}  // namespace

Result<std::vector<std::string>> read_dataset_lines(const std::string& path) {
  std::error_code code;
  if (std::filesystem::is_directory(path, code)) return failed(str(path, ": is a folder"));
  errno = 0;
  // Reads plain files as they are.
  const std::unique_ptr<gzFile_s, int (*)(gzFile)> file(gzopen(path.c_str(), "rb"), gzclose);
  if (file == nullptr) return failed(str(path, ": ", errno != 0 ? strerror(errno) : "no memory"));
  std::string text;
  std::array<char, 64 << 10> buffer;
  for (;;) {
    const int count = gzread(file.get(), buffer.data(), buffer.size());
    if (count < 0) {
      int error = 0;
      return failed(str(path, ": cannot be read: ", gzerror(file.get(), &error)));
    }
    if (count == 0) break;
    text.append(buffer.data(), static_cast<size_t>(count));
    if (text.size() > kMaxBytes) return failed(str(path, ": larger than 256 MiB"));
  }
  std::vector<std::string> lines;
  for (std::string& line : split(text, '\n')) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (!line.empty()) lines.push_back(std::move(line));
  }
  if (lines.empty()) return failed(str(path, ": is empty"));
  return lines;
}

}  // namespace slipstream
