#include "loader/gguf.h"

#include <cstdio>
#include <optional>
#include <utility>

#include "base/strings.h"
#include "loader/gguf_parse.h"

namespace slipstream {
namespace {

constexpr std::string_view kExtension = ".gguf";
constexpr int64_t kMaxShards = 99'999;  // five digits in a shard's name

// "name-00001-of-00003.gguf" as {"name", 1, 3}.
struct ShardName {
  std::string stem;
  int64_t number = 0;
  int64_t count = 0;

  std::string path_of(int64_t shard) const {
    char digits[32];
    std::snprintf(digits, sizeof(digits), "-%05d-of-%05d", static_cast<int>(shard),
                  static_cast<int>(count));
    return stem + digits + std::string(kExtension);
  }
};

std::optional<int64_t> five_digits(std::string_view text) {
  int64_t value = 0;
  for (const char c : text) {
    if (c < '0' || c > '9') return std::nullopt;
    value = value * 10 + (c - '0');
  }
  return value;
}

std::optional<ShardName> parse_shard_name(std::string_view path) {
  constexpr std::string_view kOf = "-of-";
  constexpr size_t kSuffix = 1 + 5 + kOf.size() + 5 + kExtension.size();
  if (path.size() <= kSuffix || !ends_with(path, kExtension)) return std::nullopt;
  const std::string_view suffix = path.substr(path.size() - kSuffix);
  if (suffix[0] != '-' || suffix.substr(6, kOf.size()) != kOf) return std::nullopt;
  const auto number = five_digits(suffix.substr(1, 5));
  const auto count = five_digits(suffix.substr(10, 5));
  if (!number || !count || *number < 1 || *number > *count) return std::nullopt;
  return ShardName{std::string(path.substr(0, path.size() - kSuffix)), *number, *count};
}

struct SplitKeys {
  int64_t number = 0;  // from 0
  int64_t count = 1;
  int64_t num_tensors = -1;  // over all shards; -1 when not stated
};

Result<SplitKeys> read_split_keys(const GgufMetadata& metadata, const std::string& name) {
  const auto number = metadata.get_int("split.no", 0);
  if (!number.ok()) return number.status().in(name);
  const auto count = metadata.get_int("split.count", 1);
  if (!count.ok()) return count.status().in(name);
  const auto num_tensors = metadata.get_int("split.tensors.count", -1);
  if (!num_tensors.ok()) return num_tensors.status().in(name);
  // Some writers leave count 0 in files that are not split.
  const SplitKeys keys{number.value(), count.value() == 0 ? 1 : count.value(), num_tensors.value()};
  if (keys.count < 1 || keys.count > kMaxShards || keys.number < 0 || keys.number >= keys.count) {
    return invalid_model(str(name, ": keys 'split.no' and 'split.count' say shard ", keys.number,
                             " (from 0) of ", keys.count));
  }
  return keys;
}

}  // namespace

Status GgufFile::add_shard(std::shared_ptr<const ByteSource> source) {
  SLIPSTREAM_ASSIGN_OR_RETURN(GgufContents contents, parse_gguf(source->bytes(), source->name()));
  const size_t shard_idx = shards_.size();
  for (GgufTensor& tensor : contents.tensors) {
    tensor.shard_idx = shard_idx;
    if (!tensor_idx_.emplace(tensor.name, tensors_.size()).second) {
      return invalid_model(str(source->name(), ": tensor ", quote(tensor.name), " appears twice"));
    }
    tensors_.push_back(std::move(tensor));
  }
  SLIPSTREAM_ASSIGN_OR_RETURN(const SplitKeys keys,
                              read_split_keys(contents.metadata, source->name()));
  if (keys.number != static_cast<int64_t>(shard_idx)) {
    return invalid_model(str(source->name(), ": key 'split.no': the file is shard ",
                             keys.number + 1, " of ", keys.count, ", expected shard ",
                             shard_idx + 1,
                             shard_idx == 0 ? "; open the first shard (-00001-of-...)" : ""));
  }
  if (shard_idx == 0) metadata_ = std::move(contents.metadata);
  shards_.push_back(std::move(source));
  return {};
}

Status GgufFile::add_following_shards(int64_t num_shards) {
  const auto shard_name = parse_shard_name(path_);
  if (!shard_name || shard_name->number != 1 || shard_name->count != num_shards) {
    return invalid_model(str(path_, ": the first of ", num_shards,
                             " shards, but the name does not "
                             "end in -00001-of-NNNNN.gguf for that count, so the others cannot be "
                             "found; give the shards their original names"));
  }
  for (int64_t shard = 2; shard <= num_shards; ++shard) {
    auto source = ByteSource::map(shard_name->path_of(shard));
    if (!source.ok()) {
      return invalid_model(str(path_, ": shard ", shard, " of ", num_shards,
                               " is missing: ", source.status().message()));
    }
    SLIPSTREAM_RETURN_IF_ERROR(add_shard(std::move(source).value()));
  }
  return {};
}

Result<GgufFile> GgufFile::open(const std::string& path) {
  const auto shard_name = parse_shard_name(path);
  if (shard_name && shard_name->number > 1) {
    return bad_usage(str(path, ": shard ", shard_name->number, " of a split model; open its first ",
                         "shard, ", shard_name->path_of(1)));
  }
  SLIPSTREAM_ASSIGN_OR_RETURN(auto source, ByteSource::map(path));
  GgufFile file;
  file.path_ = path;
  SLIPSTREAM_RETURN_IF_ERROR(file.add_shard(std::move(source)));
  SLIPSTREAM_ASSIGN_OR_RETURN(const SplitKeys keys, read_split_keys(file.metadata_, path));
  if (keys.count > 1) SLIPSTREAM_RETURN_IF_ERROR(file.add_following_shards(keys.count));
  if (keys.num_tensors >= 0 && keys.num_tensors != static_cast<int64_t>(file.tensors_.size())) {
    return invalid_model(str(path, ": key 'split.tensors.count' says ", keys.num_tensors,
                             " tensors, the files hold ", file.tensors_.size()));
  }
  return file;
}

Result<GgufFile> GgufFile::from_bytes(std::vector<std::byte> bytes, const std::string& name) {
  GgufFile file;
  file.path_ = name;
  SLIPSTREAM_RETURN_IF_ERROR(file.add_shard(ByteSource::own(std::move(bytes), name)));
  SLIPSTREAM_ASSIGN_OR_RETURN(const SplitKeys keys, read_split_keys(file.metadata_, name));
  if (keys.count > 1) return invalid_model(str(name, ": one shard of ", keys.count));
  return file;
}

const GgufTensor* GgufFile::find_tensor(const std::string& name) const {
  const auto it = tensor_idx_.find(name);
  return it == tensor_idx_.end() ? nullptr : &tensors_[it->second];
}

const std::string& GgufFile::tensor_path(const GgufTensor& tensor) const {
  return shards_[tensor.shard_idx]->name();
}

uint64_t GgufFile::file_bytes() const {
  uint64_t total = 0;
  for (const auto& shard : shards_) total += shard->bytes().size();
  return total;
}

void GgufFile::drop(const GgufTensor& tensor) const {
  shards_[tensor.shard_idx]->drop(tensor.data, tensor.bytes);
}

}  // namespace slipstream
