#include "loader/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <utility>

#include "base/checked_math.h"
#include "base/strings.h"
#include "loader/json_stream.h"

namespace slipstream {
namespace {

static_assert(std::endian::native == std::endian::little, "files are read as they lie in memory");

constexpr uint64_t kLengthBytes = 8;
constexpr int kMaxDepth = 3;  // {name: {"shape": [...]}}

struct FileDType {
  const char* name;
  uint32_t bits;
  std::optional<DType> dtype;
};

constexpr std::array kFileDTypes = {
    FileDType{"F64", 64, DType::kF64},       FileDType{"F32", 32, DType::kF32},
    FileDType{"F16", 16, DType::kF16},       FileDType{"BF16", 16, DType::kBF16},
    FileDType{"I64", 64, DType::kI64},       FileDType{"I32", 32, DType::kI32},
    FileDType{"I16", 16, std::nullopt},      FileDType{"I8", 8, DType::kI8},
    FileDType{"U64", 64, std::nullopt},      FileDType{"U32", 32, std::nullopt},
    FileDType{"U16", 16, std::nullopt},      FileDType{"U8", 8, DType::kU8},
    FileDType{"BOOL", 8, std::nullopt},      FileDType{"C64", 64, std::nullopt},
    FileDType{"F8_E4M3", 8, DType::kF8E4M3}, FileDType{"F8_E5M2", 8, std::nullopt},
    FileDType{"F8_E8M0", 8, std::nullopt},   FileDType{"F6_E2M3", 6, std::nullopt},
    FileDType{"F6_E3M2", 6, std::nullopt},   FileDType{"F4", 4, std::nullopt},
};

const QuantFormat* format_of(std::optional<DType> dtype) {
  if (dtype == DType::kF32) return &quant_format(QuantType::kF32);
  if (dtype == DType::kF16) return &quant_format(QuantType::kF16);
  if (dtype == DType::kBF16) return &quant_format(QuantType::kBF16);
  if (dtype == DType::kF8E4M3) return &quant_format(QuantType::kE4M3);
  return nullptr;
}

struct HeaderEntry {
  SafetensorsTensor tensor;
  uint64_t begin = 0;  // from the start of the data section
  uint64_t end = 0;
};

// Collects the entries of a header: {"name": {"dtype", "shape", "data_offsets"}, ...} and an
// optional "__metadata__" of strings.
class HeaderReader : public JsonEvents {
 public:
  explicit HeaderReader(const SafetensorsLimits& limits) : limits_(limits) {}

  bool on_key(int depth, std::string& key) override {
    if (depth == 1) return begin_entry(key);
    if (in_metadata_) return true;
    if (key == "dtype")
      field_ = kDType;
    else if (key == "shape")
      field_ = kShape;
    else if (key == "data_offsets")
      field_ = kOffsets;
    else
      return entry_problem(str("unknown key ", quote(key)));
    if ((seen_ & field_) != 0) return entry_problem(str("key ", quote(key), " appears twice"));
    seen_ |= field_;
    return true;
  }

  bool on_object(int depth) override {
    return depth <= 2 || entry_problem("an object where a value is expected");
  }

  bool on_array(int depth) override {
    if (depth == 1) return stop("the header is an array, expected an object");
    if (depth != 3 || in_metadata_ || (field_ != kShape && field_ != kOffsets)) {
      return entry_problem("an array where another value is expected");
    }
    offsets_seen_ = 0;
    return true;
  }

  bool on_end(int depth) override {
    if (depth == 3 && field_ == kOffsets && offsets_seen_ != 2) {
      return entry_problem(str("'data_offsets' has ", offsets_seen_, " values, expected 2"));
    }
    if (depth != 2 || in_metadata_) return true;
    if (seen_ != (kDType | kShape | kOffsets)) {
      return entry_problem("'dtype', 'shape' and 'data_offsets' are required");
    }
    return finish_entry();
  }

  bool on_string(int depth, std::string& text) override {
    if (depth == 2 && in_metadata_) return true;
    if (depth != 2 || field_ != kDType) return entry_problem("a string, not expected there");
    const auto* found = std::find_if(kFileDTypes.begin(), kFileDTypes.end(),
                                     [&text](const FileDType& type) { return text == type.name; });
    if (found == kFileDTypes.end()) return entry_problem(str("unknown dtype ", quote(text)));
    dtype_ = found;
    return true;
  }

  bool on_unsigned(int depth, uint64_t value) override {
    if (depth != 3) return entry_problem("a number, not expected there");
    if (field_ == kShape) {
      auto& shape = entries_.back().tensor.shape;
      if (shape.size() == limits_.max_dims) {
        return entry_problem(str("more than ", limits_.max_dims, " dimensions"));
      }
      if (value > uint64_t{INT64_MAX}) return entry_problem(str("a dimension of ", value));
      shape.push_back(static_cast<int64_t>(value));
      return true;
    }
    if (offsets_seen_ == 2) return entry_problem("'data_offsets' has more than 2 values");
    (offsets_seen_++ == 0 ? entries_.back().begin : entries_.back().end) = value;
    return true;
  }

  bool on_other(int, const char* what) override {
    return entry_problem(str(what, ", not expected there"));
  }

  std::vector<HeaderEntry>& entries() { return entries_; }

 private:
  enum Field : unsigned { kNone = 0, kDType = 1, kShape = 2, kOffsets = 4 };

  bool begin_entry(std::string& key) {
    field_ = kNone;
    seen_ = 0;
    in_metadata_ = key == "__metadata__";
    if (in_metadata_) {
      if (std::exchange(metadata_seen_, true)) return stop("'__metadata__' appears twice");
      return true;
    }
    if (key.empty() || key.size() > limits_.max_name_bytes) {
      return stop(
          str("a tensor name of ", key.size(), " bytes, expected 1 to ", limits_.max_name_bytes));
    }
    if (entries_.size() == limits_.max_tensors) {
      return stop(str("more than ", limits_.max_tensors, " tensors in one file"));
    }
    entries_.emplace_back().tensor.name = key;
    return true;
  }

  // Fields may come in any order, so sizes are compared when the entry is complete.
  bool finish_entry() {
    HeaderEntry& entry = entries_.back();
    SafetensorsTensor& tensor = entry.tensor;
    tensor.dtype_name = dtype_->name;
    tensor.dtype = dtype_->dtype;
    tensor.format = format_of(tensor.dtype);
    std::optional<uint64_t> bits = dtype_->bits;
    for (const int64_t extent : tensor.shape) {
      if (bits) bits = checked_mul(*bits, static_cast<uint64_t>(extent));
    }
    if (!bits) return entry_problem("the size of its shape overflows");
    if (*bits % 8 != 0) return entry_problem("its elements do not fill whole bytes");
    if (entry.end < entry.begin) {
      return entry_problem(
          str("'data_offsets' [", entry.begin, ", ", entry.end, "] run backwards"));
    }
    tensor.bytes = *bits / 8;
    if (tensor.bytes != entry.end - entry.begin) {
      return entry_problem(str("shape and dtype make ", tensor.bytes, " bytes, 'data_offsets' [",
                               entry.begin, ", ", entry.end, "] make ", entry.end - entry.begin));
    }
    return true;
  }

  bool entry_problem(const std::string& text) {
    if (in_metadata_) return stop(str("'__metadata__': ", text));
    if (entries_.empty()) return stop(text);
    return stop(str("tensor ", quote(entries_.back().tensor.name), ": ", text));
  }

  const SafetensorsLimits& limits_;
  std::vector<HeaderEntry> entries_;
  const FileDType* dtype_ = nullptr;
  unsigned field_ = kNone;
  unsigned seen_ = 0;
  int offsets_seen_ = 0;
  bool in_metadata_ = false;
  bool metadata_seen_ = false;
};

// The ranges must cover the data section exactly, one after the other.
Status check_ranges(const std::vector<HeaderEntry>& entries, uint64_t data_bytes,
                    const std::string& name) {
  std::vector<const HeaderEntry*> by_offset;
  by_offset.reserve(entries.size());
  for (const HeaderEntry& entry : entries) by_offset.push_back(&entry);
  std::sort(by_offset.begin(), by_offset.end(), [](const HeaderEntry* a, const HeaderEntry* b) {
    return a->begin != b->begin ? a->begin < b->begin : a->end < b->end;
  });
  uint64_t expected = 0;
  for (const HeaderEntry* entry : by_offset) {
    if (entry->begin != expected) {
      return invalid_model(str(name, ": tensor ", quote(entry->tensor.name), ": begins at offset ",
                               entry->begin, ", ",
                               entry->begin < expected ? "inside another tensor" : "after a hole",
                               "; expected ", expected));
    }
    expected = entry->end;
  }
  if (expected == data_bytes) return {};
  return invalid_model(
      str(name, ": the tensors take ", expected, " bytes, the file holds ", data_bytes,
          expected > data_bytes ? ": the file is truncated" : ": something was appended",
          "; fetch it again"));
}

Status check_unique(const std::vector<SafetensorsTensor>& sorted, const std::string& name) {
  for (size_t idx = 1; idx < sorted.size(); ++idx) {
    if (sorted[idx].name == sorted[idx - 1].name) {
      return invalid_model(str(name, ": tensor ", quote(sorted[idx].name), " appears twice"));
    }
  }
  return {};
}

}  // namespace

Result<std::vector<SafetensorsTensor>> parse_safetensors(std::span<const std::byte> bytes,
                                                         const std::string& name,
                                                         const SafetensorsLimits& limits) {
  if (bytes.size() < kLengthBytes) {
    return invalid_model(str(name, ": ", bytes.size(), " bytes are too few for a safetensors ",
                             "file: it is truncated; fetch it again"));
  }
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), kLengthBytes);
  if (header_bytes > limits.max_header_bytes) {
    return invalid_model(str(name, ": the header claims ", header_bytes, " bytes, the limit is ",
                             limits.max_header_bytes, ": not a safetensors file, or damaged"));
  }
  if (header_bytes > bytes.size() - kLengthBytes) {
    return invalid_model(str(name, ": the header's ", header_bytes, " bytes reach past the end of ",
                             "the file, ", bytes.size(),
                             " bytes: it is truncated; fetch it again"));
  }
  const std::string_view header(reinterpret_cast<const char*>(bytes.data()) + kLengthBytes,
                                header_bytes);
  if (header.empty() || header[0] != '{') {
    return invalid_model(str(name, ": the header does not begin with '{' at byte ", kLengthBytes));
  }
  HeaderReader reader(limits);
  SLIPSTREAM_RETURN_IF_ERROR(read_json_stream(header, name + ": header", kMaxDepth, reader));
  const std::span<const std::byte> data = bytes.subspan(kLengthBytes + header_bytes);
  SLIPSTREAM_RETURN_IF_ERROR(check_ranges(reader.entries(), data.size(), name));

  std::vector<SafetensorsTensor> tensors;
  tensors.reserve(reader.entries().size());
  for (HeaderEntry& entry : reader.entries()) {
    entry.tensor.data = data.data() + entry.begin;
    tensors.push_back(std::move(entry.tensor));
  }
  std::sort(tensors.begin(), tensors.end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
  SLIPSTREAM_RETURN_IF_ERROR(check_unique(tensors, name));
  return tensors;
}

Result<SafetensorsFile> SafetensorsFile::from_source(std::shared_ptr<const ByteSource> source) {
  SafetensorsFile file;
  SLIPSTREAM_ASSIGN_OR_RETURN(file.tensors_, parse_safetensors(source->bytes(), source->name()));
  file.source_ = std::move(source);
  return file;
}

Result<SafetensorsFile> SafetensorsFile::open(const std::string& path) {
  SLIPSTREAM_ASSIGN_OR_RETURN(auto source, ByteSource::map(path));
  return from_source(std::move(source));
}

Result<SafetensorsFile> SafetensorsFile::from_bytes(std::vector<std::byte> bytes,
                                                    const std::string& name) {
  return from_source(ByteSource::own(std::move(bytes), name));
}

const SafetensorsTensor* SafetensorsFile::find(const std::string& name) const {
  const auto it = std::lower_bound(
      tensors_.begin(), tensors_.end(), name,
      [](const SafetensorsTensor& tensor, const std::string& key) { return tensor.name < key; });
  return it == tensors_.end() || it->name != name ? nullptr : &*it;
}

}  // namespace slipstream
