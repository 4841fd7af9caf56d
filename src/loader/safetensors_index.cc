// Which safetensors files a folder's weights lie in, and the checks on the index that says so.
#include <algorithm>
#include <filesystem>
#include <map>
#include <set>
#include <system_error>
#include <utility>

#include "base/mmap_file.h"
#include "base/strings.h"
#include "loader/json_stream.h"
#include "loader/safetensors.h"

namespace slipstream {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";
constexpr uint64_t kMaxIndexBytes = 64u << 20;
constexpr size_t kMaxIndexTensors = 1'000'000;
constexpr size_t kMaxShards = 4096;
constexpr int kMaxDepth = 16;
constexpr size_t kMaxListed = 8;  // names in one message

// {"metadata": {...}, "weight_map": {"tensor": "file", ...}}
class IndexReader : public JsonEvents {
 public:
  bool on_key(int depth, std::string& key) override {
    if (depth == 1) {
      in_map_ = key == "weight_map";
      if (in_map_ && std::exchange(map_seen_, true)) return stop("'weight_map' appears twice");
    } else if (in_map_) {
      tensor_ = key;
    }
    return true;
  }
  bool on_object(int depth) override {
    return !in_map_ || depth <= 2 || stop(str("tensor ", quote(tensor_), ": not a file name"));
  }
  bool on_array(int depth) override {
    if (depth == 1) return stop("an array, expected an object");
    return !in_map_ || stop("'weight_map' maps tensor names to file names, found an array");
  }
  bool on_end(int) override { return true; }
  bool on_string(int depth, std::string& text) override {
    if (!in_map_) return true;
    if (depth != 2) return stop("'weight_map' is a string, expected an object");
    if (file_of_.size() == kMaxIndexTensors) {
      return stop(str("more than ", kMaxIndexTensors, " tensors"));
    }
    const auto file = files_.insert(text).first;
    if (files_.size() > kMaxShards) return stop(str("more than ", kMaxShards, " shards"));
    if (!file_of_.emplace(tensor_, &*file).second) {
      return stop(str("tensor ", quote(tensor_), " appears twice"));
    }
    return true;
  }
  bool on_unsigned(int depth, uint64_t) override { return on_other(depth, "a number"); }
  bool on_other(int depth, const char* what) override {
    if (!in_map_) return true;
    if (depth == 1) return stop(str("'weight_map' is ", what, ", expected an object"));
    return stop(str("tensor ", quote(tensor_), ": ", what, ", expected a file name"));
  }

  const std::map<std::string, const std::string*>& file_of() const { return file_of_; }
  const std::set<std::string>& files() const { return files_; }

 private:
  std::set<std::string> files_;
  std::map<std::string, const std::string*> file_of_;  // tensor name -> element of files_
  std::string tensor_;
  bool in_map_ = false;
  bool map_seen_ = false;
};

bool is_plain_name(const std::string& file) {
  return !file.empty() && file[0] != '.' && file.size() <= 255 &&
         file.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos &&
         ends_with(file, ".safetensors");
}

bool is_there(const fs::path& path) {
  std::error_code error;
  return fs::exists(path, error);
}

// The real path of a shard. Links may not lead out of the folder, so an index and links fetched
// together cannot make the program read other files of the machine.
Result<std::string> shard_path(const std::string& folder, const std::string& file) {
  const fs::path link = fs::path(folder) / file;
  std::error_code error;
  const fs::path root = fs::canonical(folder, error);
  if (error) return failed(str("cannot open ", folder, ": ", error.message()));
  const fs::path real = fs::canonical(link, error);
  if (error) return failed(str("cannot open ", link.string(), ": ", error.message()));
  const fs::path snapshots = root.parent_path();
  const bool in_cache = snapshots.filename() == "snapshots" &&
                        real.parent_path() == snapshots.parent_path() / "blobs";
  if (real.parent_path() == root || in_cache) return real.string();
  return invalid_model(str(link.string(), ": a link that leads out of the model's folder, to ",
                           real.string(), "; put the file itself there"));
}

std::string listed(const std::vector<std::string>& names) {
  std::string text;
  for (size_t i = 0; i < std::min(names.size(), kMaxListed); ++i) {
    text += str(i > 0 ? ", " : "", quote(names[i]));
  }
  if (names.size() > kMaxListed) text += str(" and ", names.size() - kMaxListed, " more");
  return text;
}

Status check_names(const IndexReader& index, const std::string& folder,
                   const std::string& index_path) {
  std::vector<std::string> missing;
  for (const std::string& file : index.files()) {
    if (!is_plain_name(file)) {
      return invalid_model(str(index_path, ": shard ", quote(file), " is not the plain name of a ",
                               ".safetensors file in this folder"));
    }
    if (!is_there(fs::path(folder) / file)) missing.push_back(file);
  }
  if (missing.empty()) return {};
  return invalid_model(str(index_path, ": ", missing.size(), " of ", index.files().size(),
                           " shards missing: ", listed(missing), "; fetch them again"));
}

// Every tensor lies where the index says, and nowhere else.
Status check_tensors(const IndexReader& index, const std::map<std::string, size_t>& file_idx,
                     const std::vector<SafetensorsFile>& files, const std::string& index_path) {
  std::vector<std::string> missing;
  for (const auto& [tensor, file] : index.file_of()) {
    if (files[file_idx.at(*file)].find(tensor) == nullptr) missing.push_back(tensor);
  }
  if (!missing.empty()) {
    return invalid_model(str(index_path, ": ", missing.size(), " tensors are not in the shard the ",
                             "index names for them: ", listed(missing)));
  }
  std::map<std::string_view, const SafetensorsFile*> owner;
  for (const SafetensorsFile& file : files) {
    for (const SafetensorsTensor& tensor : file.tensors()) {
      const auto [it, inserted] = owner.emplace(tensor.name, &file);
      if (!inserted) {
        return invalid_model(
            str(file.path(), ": tensor ", quote(tensor.name), " is also in ", it->second->path()));
      }
    }
  }
  return {};
}

Status no_weights(const std::string& folder) {
  for (const char* pickled :
       {"pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth", "model.pt"}) {
    if (!is_there(fs::path(folder) / pickled)) continue;
    return invalid_model(str(folder, ": holds pickled weights only (", pickled, "), which can run ",
                             "code when opened and are not read; convert them to safetensors"));
  }
  return invalid_model(str(folder, ": holds neither ", kSingleFile, " nor ", kIndexFile));
}

}  // namespace

Status ShardedSafetensors::open_index(const std::string& folder, const std::string& index_path) {
  auto text = read_text_file(index_path, kMaxIndexBytes);
  if (!text.ok()) return invalid_model(text.status().message());
  IndexReader index;
  SLIPSTREAM_RETURN_IF_ERROR(read_json_stream(text.value(), index_path, kMaxDepth, index));
  if (index.file_of().empty())
    return invalid_model(index_path + ": 'weight_map' is missing or empty");
  SLIPSTREAM_RETURN_IF_ERROR(check_names(index, folder, index_path));
  std::map<std::string, size_t> file_idx;
  for (const std::string& file : index.files()) {
    SLIPSTREAM_ASSIGN_OR_RETURN(const std::string path, shard_path(folder, file));
    SLIPSTREAM_ASSIGN_OR_RETURN(SafetensorsFile shard, SafetensorsFile::open(path));
    file_idx[file] = files_.size();
    files_.push_back(std::move(shard));
  }
  return check_tensors(index, file_idx, files_, index_path);
}

Result<ShardedSafetensors> ShardedSafetensors::open(const std::string& folder) {
  ShardedSafetensors weights;
  const fs::path single = fs::path(folder) / kSingleFile;
  const fs::path index = fs::path(folder) / kIndexFile;
  if (is_there(single)) {
    SLIPSTREAM_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::open(single.string()));
    weights.files_.push_back(std::move(file));
  } else if (is_there(index)) {
    SLIPSTREAM_RETURN_IF_ERROR(weights.open_index(folder, index.string()));
  } else {
    return no_weights(folder);
  }
  return weights;
}

}  // namespace slipstream
