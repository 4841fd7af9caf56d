#include "loader/checkpoint.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <utility>

#include "base/strings.h"
#include "loader/fp8_scales.h"
#include "loader/hf_quantization.h"
#include "loader/safetensors.h"
#include "quant/finite.h"

namespace slipstream {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxListed = 8;  // names in one message

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t axis = 0; axis < shape.size(); ++axis) text += str(axis > 0 ? ", " : "", shape[axis]);
  return text + "]";
}

struct Signature {
  std::string_view magic;
  const char* advice;
};

using namespace std::string_view_literals;

// What people pass by mistake, by first bytes.
constexpr std::array kSignatures = {
    Signature{"PK\x03\x04"sv,
              "a zip archive, as pickled PyTorch weights are; pickled files can run "
              "code when opened and are not read; convert it to safetensors"},
    Signature{"\x80\x02"sv,
              "a pickled PyTorch file; pickled files can run code when opened and are "
              "not read; convert it to safetensors"},
    Signature{"ggml"sv, "a model of an older format than GGUF; convert it to GGUF"},
    Signature{"lmgg"sv, "a model of an older format than GGUF; convert it to GGUF"},
    Signature{"fmgg"sv, "a model of an older format than GGUF; convert it to GGUF"},
    Signature{"tjgg"sv, "a model of an older format than GGUF; convert it to GGUF"},
    Signature{"version https://git-lfs"sv,
              "a Git LFS pointer, not the file it stands for; fetch it "
              "with git lfs pull"},
    Signature{"<"sv, "an HTML or XML page, not a model: the download went wrong; fetch it again"},
};

Status not_a_model(const std::string& path, std::string_view head) {
  for (const Signature& signature : kSignatures) {
    if (starts_with(head, signature.magic)) return invalid_model(str(path, ": ", signature.advice));
  }
  if (head.size() > 8 && head[8] == '{') {
    return invalid_model(str(path,
                             ": a safetensors file alone; name the folder that holds it with "
                             "its config.json and tokenizer"));
  }
  if (starts_with(head, "{")) {
    return invalid_model(str(path, ": a JSON file; name the model's folder instead"));
  }
  return invalid_model(str(path,
                           ": neither a GGUF file (which starts with 'GGUF') nor a folder "
                           "with config.json"));
}

// The first bytes of a file; fewer when it is shorter.
Result<std::string> read_head(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return failed(str("cannot open ", path, ": ", std::strerror(errno)));
  std::string head(32, '\0');
  in.read(head.data(), static_cast<std::streamsize>(head.size()));
  head.resize(static_cast<size_t>(in.gcount()));
  return head;
}

Status no_config(const std::string& folder) {
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    if (it->path().extension() != ".gguf") continue;
    return invalid_model(str(folder, ": a folder without config.json; to use the GGUF file in it, ",
                             "name the file: ", it->path().string()));
  }
  return invalid_model(
      str(folder, ": a folder without config.json: not a model in Hugging Face ", "layout"));
}

}  // namespace

Result<std::unique_ptr<Checkpoint>> Checkpoint::open(const std::string& path) {
  std::unique_ptr<Checkpoint> checkpoint(new Checkpoint());
  checkpoint->path_ = path;
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (status.type() == fs::file_type::not_found) {
    return bad_usage(str(path, ": no such file or folder"));
  }
  if (error) return failed(str("cannot open ", path, ": ", error.message()));
  if (status.type() == fs::file_type::directory) {
    SLIPSTREAM_RETURN_IF_ERROR(checkpoint->open_folder(path));
  } else if (status.type() == fs::file_type::regular) {
    SLIPSTREAM_RETURN_IF_ERROR(checkpoint->open_gguf(path));
  } else {
    return bad_usage(str(path, ": neither a regular file nor a folder"));
  }
  return checkpoint;
}

Status Checkpoint::open_gguf(const std::string& path) {
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::string head, read_head(path));
  if (head.empty()) return invalid_model(str(path, ": the file is empty"));
  if (!starts_with(head, "GGUF")) return not_a_model(path, head);
  SLIPSTREAM_ASSIGN_OR_RETURN(GgufFile file, GgufFile::open(path));
  gguf_ = std::make_unique<GgufFile>(std::move(file));
  file_bytes_ = gguf_->file_bytes();
  for (const GgufTensor& tensor : gguf_->tensors()) {
    tensors_[tensor.name] = {.info = {.name = tensor.name,
                                      .shape = tensor.shape,
                                      .format = tensor.format,
                                      .type_name = ggml_type_name(tensor.ggml_type),
                                      .bytes = tensor.bytes},
                             .data = tensor.data,
                             .source = gguf_->source(tensor)};
  }
  return {};
}

Status Checkpoint::open_folder(const std::string& path) {
  std::error_code error;
  if (!fs::exists(fs::path(path) / "config.json", error)) return no_config(path);
  SLIPSTREAM_ASSIGN_OR_RETURN(HfConfig config, HfConfig::open(path));
  hf_ = std::make_unique<HfConfig>(std::move(config));
  generation_ = hf_->generation_defaults();
  SLIPSTREAM_ASSIGN_OR_RETURN(const ShardedSafetensors weights, ShardedSafetensors::open(path));
  for (const SafetensorsFile& file : weights.files()) {
    file_bytes_ += file.file_bytes();
    for (const SafetensorsTensor& tensor : file.tensors()) {
      tensors_[tensor.name] = {.info = {.name = tensor.name,
                                        .shape = tensor.shape,
                                        .format = tensor.format,
                                        .type_name = tensor.dtype_name,
                                        .bytes = tensor.bytes},
                               .data = tensor.data,
                               .source = file.source()};
    }
  }
  return {};
}

// Why the tensors of a folder may not be the ones a family asks for.
std::string Checkpoint::quantization_hint() const {
  if (!hf_ || check_quantization(*hf_).ok()) return "";
  const auto method = hf_->get_string("quantization_config.quant_method", "");
  return str(" (config.json says the weights are quantised",
             method.ok() && !method->empty() ? " by " + quote(method.value()) : "",
             ", which this program does not read; take the unquantised or the GGUF version)");
}

const TensorInfo* Checkpoint::find(const std::string& name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? nullptr : &it->second.info;
}

std::vector<TensorInfo> Checkpoint::tensors() const {
  std::vector<TensorInfo> infos;
  infos.reserve(tensors_.size());
  for (const auto& [name, entry] : tensors_) infos.push_back(entry.info);
  return infos;
}

Status Checkpoint::require(std::span<const std::string> names) const {
  std::string listed;
  size_t num_missing = 0;
  for (const std::string& name : names) {
    if (contains(name)) continue;
    if (num_missing < kMaxListed) listed += str(num_missing > 0 ? ", " : "", quote(name));
    ++num_missing;
  }
  if (num_missing == 0) return {};
  if (num_missing > kMaxListed) listed += str(" and ", num_missing - kMaxListed, " more");
  return invalid_model(str(path_, ": ", num_missing, " of ", names.size(),
                           " needed tensors are missing: ", listed, quantization_hint()));
}

std::vector<std::string> Checkpoint::unused(const std::set<std::string>& used) const {
  std::set<std::string> known = used;
  for (const auto& [name, entry] : tensors_) {
    if (!used.contains(name) || entry.info.format != &quant_format(QuantType::kE4M3)) continue;
    for (const std::string& scales : fp8_scale_names(name)) known.insert(scales);
  }
  std::vector<std::string> names;
  for (const auto& [name, entry] : tensors_) {
    if (!known.contains(name)) names.push_back(name);
  }
  return names;
}

bool Checkpoint::stores(QuantType type) const {
  return std::any_of(tensors_.begin(), tensors_.end(), [type](const auto& named) {
    return named.second.info.format == &quant_format(type);
  });
}

Result<const Checkpoint::Entry*> Checkpoint::lookup(const std::string& name,
                                                    const std::vector<int64_t>& shape) const {
  const auto it = tensors_.find(name);
  if (it == tensors_.end()) {
    return invalid_model(str(path_, ": tensor ", quote(name), " is missing", quantization_hint()));
  }
  const Entry& entry = it->second;
  const std::string where = str(entry.source->name(), ": tensor ", quote(name), ": ");
  if (entry.info.shape != shape) {
    return invalid_model(
        str(where, "shape ", shape_text(entry.info.shape), ", expected ", shape_text(shape)));
  }
  if (entry.info.format == nullptr) {
    return invalid_model(
        str(where, "stored as ", entry.info.type_name, ", which this program does not read"));
  }
  SLIPSTREAM_RETURN_IF_ERROR(entry.source->check_unchanged());
  return &entry;
}

Result<SourceMatrix> Checkpoint::matrix(const std::string& name, int64_t rows, int64_t cols) const {
  SLIPSTREAM_ASSIGN_OR_RETURN(const Entry* entry, lookup(name, {rows, cols}));
  SourceMatrix matrix{
      .data = entry->data, .type = entry->info.format->type, .rows = rows, .cols = cols};
  SLIPSTREAM_CHECK(static_cast<uint64_t>(matrix.bytes()) == entry->info.bytes,
                   "a directory entry's size follows from its shape");
  if (matrix.type == QuantType::kE4M3) {
    SLIPSTREAM_ASSIGN_OR_RETURN(matrix.scales, scale_grid(name, rows, cols));
  }
  return matrix;
}

Result<const Checkpoint::Entry*> Checkpoint::scales_of(const std::string& name) const {
  const Entry* found = nullptr;
  const auto [plain, inverse] = fp8_scale_names(name);
  for (const std::string& scales : {plain, inverse}) {
    const auto it = tensors_.find(scales);
    if (it == tensors_.end()) continue;
    if (found != nullptr) {
      return invalid_model(str(it->second.source->name(), ": tensor ", quote(name), ": has both ",
                               quote(plain), " and ", quote(inverse)));
    }
    found = &it->second;
  }
  if (found == nullptr) {
    return invalid_model(str(tensors_.at(name).source->name(), ": tensor ", quote(name),
                             ": stored as F8_E4M3 without its scales, ", quote(plain), " or ",
                             quote(inverse)));
  }
  return found;
}

Result<ScaleGrid> Checkpoint::scale_grid(const std::string& name, int64_t rows,
                                         int64_t cols) const {
  SLIPSTREAM_ASSIGN_OR_RETURN(const Entry* scales, scales_of(name));
  const std::string where =
      str(scales->source->name(), ": tensor ", quote(scales->info.name), ": ");
  const QuantFormat* const format = scales->info.format;
  if (format == nullptr || (format->type != QuantType::kF32 && format->type != QuantType::kF16 &&
                            format->type != QuantType::kBF16)) {
    return invalid_model(
        str(where, "stored as ", scales->info.type_name, ", expected F32, F16 or BF16 for scales"));
  }
  std::optional<ScaleGrid> grid = fp8_scale_grid(scales->info.shape, rows, cols);
  if (!grid) {
    return invalid_model(str(where, "shape ", shape_text(scales->info.shape),
                             ", expected scales of a [", rows, ", ", cols,
                             "] matrix: ", fp8_scale_shapes(rows, cols)));
  }
  SLIPSTREAM_RETURN_IF_ERROR(scales->source->check_unchanged());
  grid->data = scales->data;
  grid->type = format->type;
  return *grid;
}

Status Checkpoint::check_finite(const std::string& name, const SourceMatrix& matrix,
                                int64_t first_row) const {
  if (matrix.scales.data != nullptr) {
    SLIPSTREAM_ASSIGN_OR_RETURN(const Entry* scales, scales_of(name));
    const std::string problem = fp8_scale_problem(matrix);
    if (!problem.empty()) {
      return invalid_model(
          str(scales->source->name(), ": tensor ", quote(scales->info.name), ": ", problem));
    }
  }
  const int64_t row = first_non_finite_row(matrix);
  if (row < 0) return {};
  const auto it = tensors_.find(name);
  const std::string& file = it != tensors_.end() ? it->second.source->name() : path_;
  return invalid_model(
      str(file, ": tensor ", quote(name), ": row ", first_row + row,
          " holds NaN or infinity: ", "the file is damaged or its training diverged"));
}

Result<std::vector<float>> Checkpoint::vector(const std::string& name, int64_t size) const {
  SLIPSTREAM_ASSIGN_OR_RETURN(const Entry* entry, lookup(name, {size}));
  const QuantFormat& format = *entry->info.format;
  if (format.block_elements != 1 || format.type == QuantType::kE4M3) {
    return invalid_model(str(entry->source->name(), ": tensor ", quote(name), ": stored as ",
                             format.name, ", expected F32, F16 or BF16 for a vector"));
  }
  std::vector<float> values(static_cast<size_t>(size));
  dequantize_row({.data = entry->data, .type = format.type, .rows = 1, .cols = size}, 0,
                 values.data());
  for (size_t idx = 0; idx < values.size(); ++idx) {
    if (std::isfinite(values[idx])) continue;
    return invalid_model(str(entry->source->name(), ": tensor ", quote(name), ": element ", idx,
                             " is ", values[idx],
                             ": the file is damaged or its training diverged"));
  }
  return values;
}

void Checkpoint::drop(const std::string& name) const {
  const auto it = tensors_.find(name);
  if (it != tensors_.end()) it->second.source->drop(it->second.data, it->second.info.bytes);
}

}  // namespace slipstream
