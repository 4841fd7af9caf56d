#include "ops/gemm_choices.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <ios>
#include <optional>
#include <sstream>
#include <system_error>
#include <utility>

#include "base/log.h"

namespace slipstream {
namespace {

// Far more than the shapes of any model; a file that is longer is not this one.
constexpr size_t kMostShapes = 100'000;

std::optional<std::pair<GemmShape, GemmChoices::Algorithm>> parse(const std::string& line) {
  std::istringstream in(line);
  GemmShape shape;
  int input = 0;
  int output = 0;
  in >> shape.num_tokens >> shape.num_rows >> shape.num_cols >> input >> output >> shape.y_stride;
  shape.input = static_cast<DType>(input);
  shape.output = static_cast<DType>(output);
  GemmChoices::Algorithm algorithm{};
  in >> std::hex;
  for (uint64_t& word : algorithm) in >> word;
  std::string rest;
  if (in.fail() || in >> rest || shape.num_tokens <= 0) return std::nullopt;
  return std::pair(shape, algorithm);
}

std::string line_of(const GemmShape& shape, const GemmChoices::Algorithm& algorithm) {
  std::ostringstream out;
  out << shape.num_tokens << ' ' << shape.num_rows << ' ' << shape.num_cols << ' '
      << static_cast<int>(shape.input) << ' ' << static_cast<int>(shape.output) << ' '
      << shape.y_stride << std::hex;
  for (const uint64_t word : algorithm) out << ' ' << word;
  out << '\n';
  return out.str();
}

// In one write, so that lines of two processes do not mix.
bool append(const std::string& path, const std::string& line) {
  std::error_code ignored;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), ignored);
  const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (file < 0) return false;
  const ssize_t written = ::write(file, line.data(), line.size());
  const int error = errno;
  ::close(file);
  errno = error;
  return written == static_cast<ssize_t>(line.size());
}

}  // namespace

size_t GemmShapeHash::operator()(const GemmShape& shape) const {
  uint64_t hash = 0;
  for (const int64_t part :
       {shape.num_tokens, shape.num_rows, shape.num_cols, shape.y_stride,
        static_cast<int64_t>(shape.input) * 16 + static_cast<int64_t>(shape.output)}) {
    hash = (hash ^ static_cast<uint64_t>(part)) * 0x9E3779B97F4A7C15u;
    hash ^= hash >> 29;
  }
  return hash;
}

GemmChoices::GemmChoices(std::string path) : path_(std::move(path)) {
  if (!path_.empty()) read();
}

void GemmChoices::read() {
  std::ifstream file(path_);
  std::string line;
  while (known_.size() < kMostShapes && std::getline(file, line)) {
    if (const auto choice = parse(line)) known_.insert_or_assign(choice->first, choice->second);
  }
}

const GemmChoices::Algorithm* GemmChoices::find(const GemmShape& shape) const {
  const auto found = known_.find(shape);
  return found == known_.end() ? nullptr : &found->second;
}

void GemmChoices::add(const GemmShape& shape, const Algorithm& algorithm) {
  known_.insert_or_assign(shape, algorithm);
  if (path_.empty() || append(path_, line_of(shape, algorithm))) return;
  log_warn("cuda", "what was measured is not kept: ", path_, ": ", std::strerror(errno));
  path_.clear();
}

}  // namespace slipstream
