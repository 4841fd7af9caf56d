#include "loader/gguf_parse.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>
#include <type_traits>
#include <utility>

#include "base/checked_math.h"
#include "base/strings.h"

namespace slipstream {
namespace {

static_assert(std::endian::native == std::endian::little, "files are read as they lie in memory");

constexpr uint64_t kDefaultAlignment = 32;
constexpr uint32_t kMaxDims = 4;
constexpr uint64_t kMinKeyBytes = 8 + 1 + 4 + 1;  // key length, key, type, value
constexpr uint64_t kMinTensorBytes =
    8 + 1 + 4 + 8 + 4 + 8;  // length, name, dims, dim, type, offset

enum ValueType : uint32_t {
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64,
  kNumValueTypes,
};

// Bytes of one element; 8 for a string, whose length field is its smallest encoding.
constexpr uint64_t kElementBytes[kNumValueTypes] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8};

class Parser {
 public:
  Parser(std::span<const std::byte> bytes, const std::string& name, const GgufLimits& limits)
      : bytes_(bytes), name_(name), limits_(limits) {}

  Result<GgufContents> parse();

 private:
  Status parse_header();
  Status parse_key(GgufMetadata& metadata);
  Result<GgufValue> parse_value(uint32_t type);
  Result<GgufValue> parse_array();
  Status parse_alignment(const GgufMetadata& metadata);
  Status parse_tensor(GgufContents& contents);
  Result<uint64_t> tensor_bytes(const GgufTensor& tensor) const;
  Status place_tensors(std::vector<GgufTensor>& tensors) const;

  uint64_t remaining() const { return bytes_.size() - position_; }

  // False, without moving, when the file ends first.
  template <typename T>
  bool read(T& out) {
    if (remaining() < sizeof(T)) return false;
    std::memcpy(&out, bytes_.data() + position_, sizeof(T));
    position_ += sizeof(T);
    return true;
  }
  bool read_string(std::string_view& out) {
    const uint64_t start = position_;
    uint64_t length = 0;
    if (!read(length) || length > remaining()) {
      position_ = start;
      return false;
    }
    out = {reinterpret_cast<const char*>(bytes_.data() + position_), length};
    position_ += length;
    return true;
  }

  template <typename T>
  Result<GgufValue> read_integer() {
    T value{};
    if (!read(value)) return cut_short("a value");
    if constexpr (std::is_same_v<T, uint64_t>) {
      if (value > uint64_t{INT64_MAX}) return error(str("the value ", value, " is out of range"));
    }
    return GgufValue(static_cast<int64_t>(value));
  }
  template <typename T>
  Result<GgufValue> read_float() {
    T value{};
    if (!read(value)) return cut_short("a value");
    return GgufValue(static_cast<double>(value));
  }

  Status error(const std::string& problem) const {
    return invalid_model(str(name_, ": ", where_, problem, " (at byte ", position_, ")"));
  }
  Status cut_short(const char* what) const {
    return error(str(what, " reaches past the end of the file, ", bytes_.size(),
                     " bytes: the file is truncated or damaged; fetch it again"));
  }

  std::span<const std::byte> bytes_;
  const std::string& name_;
  const GgufLimits& limits_;
  uint64_t position_ = 0;
  std::string where_;  // "key 'x': " or "tensor 'x': " in messages
  uint64_t num_tensors_ = 0;
  uint64_t num_keys_ = 0;
  uint64_t num_array_items_ = 0;
  uint64_t alignment_ = kDefaultAlignment;
  std::vector<uint64_t> offsets_;  // of each tensor, from the start of the data section
};

Status Parser::parse_header() {
  char magic[4] = {};
  uint32_t version = 0;
  if (!read(magic)) return cut_short("the GGUF header");
  if (std::memcmp(magic, "GGUF", 4) != 0) {
    return error(str("not a GGUF file: it starts with ", quote(std::string_view(magic, 4))));
  }
  if (!read(version)) return cut_short("the GGUF header");
  if (version == __builtin_bswap32(3) || version == __builtin_bswap32(2)) {
    return error("a big-endian GGUF file; convert it to little-endian");
  }
  // Version 2 differs from 3 only in that the latter also allows big-endian files.
  if (version != 2 && version != 3) {
    return error(str("GGUF version ", version, " is not read, only 2 and 3"));
  }
  if (!read(num_tensors_) || !read(num_keys_)) return cut_short("the GGUF header");
  const uint64_t max_tensors = std::min(limits_.max_tensors, remaining() / kMinTensorBytes);
  if (num_tensors_ > max_tensors) {
    return error(str("the header claims ", num_tensors_, " tensors, at most ", max_tensors,
                     " are possible here: the file is truncated or damaged"));
  }
  const uint64_t max_keys = std::min(limits_.max_keys, remaining() / kMinKeyBytes);
  if (num_keys_ > max_keys) {
    return error(str("the header claims ", num_keys_, " metadata keys, at most ", max_keys,
                     " are possible here: the file is truncated or damaged"));
  }
  return {};
}

Status Parser::parse_key(GgufMetadata& metadata) {
  std::string_view key;
  if (!read_string(key)) return cut_short("a metadata key");
  if (key.empty() || key.size() > limits_.max_key_bytes) {
    return error(
        str("a metadata key of ", key.size(), " bytes, expected 1 to ", limits_.max_key_bytes));
  }
  where_ = str("key ", quote(key), ": ");
  uint32_t type = 0;
  if (!read(type)) return cut_short("the value's type");
  SLIPSTREAM_ASSIGN_OR_RETURN(GgufValue value, parse_value(type));
  if (!metadata.values.emplace(std::string(key), std::move(value)).second) {
    return error("appears twice");
  }
  where_.clear();
  return {};
}

Result<GgufValue> Parser::parse_value(uint32_t type) {
  switch (type) {
    case kU8:
      return read_integer<uint8_t>();
    case kI8:
      return read_integer<int8_t>();
    case kU16:
      return read_integer<uint16_t>();
    case kI16:
      return read_integer<int16_t>();
    case kU32:
      return read_integer<uint32_t>();
    case kI32:
      return read_integer<int32_t>();
    case kU64:
      return read_integer<uint64_t>();
    case kI64:
      return read_integer<int64_t>();
    case kF32:
      return read_float<float>();
    case kF64:
      return read_float<double>();
    case kArray:
      return parse_array();
    case kBool: {
      uint8_t value = 0;
      if (!read(value)) return cut_short("a value");
      if (value > 1) return error(str("a bool stored as ", int{value}, ", expected 0 or 1"));
      return GgufValue(value == 1);
    }
    case kString: {
      std::string_view text;
      if (!read_string(text)) return cut_short("a string");
      return GgufValue(text);
    }
    default:
      return error(str("unknown value type ", type));
  }
}

Result<GgufValue> Parser::parse_array() {
  GgufArray array;
  uint64_t count = 0;
  if (!read(array.element_type) || !read(count)) return cut_short("an array");
  if (array.element_type == kArray) return error("an array of arrays, which is not read");
  if (array.element_type >= kNumValueTypes) {
    return error(str("unknown array element type ", array.element_type));
  }
  if (count > remaining() / kElementBytes[array.element_type]) return cut_short("an array");
  num_array_items_ += count;  // cannot wrap: each count is below the file's size
  if (num_array_items_ > limits_.max_array_items) {
    return error(str("more than ", limits_.max_array_items, " array elements in the metadata"));
  }

  if (array.element_type == kString) {
    auto& items = array.items.emplace<std::vector<std::string_view>>(count);
    for (std::string_view& item : items) {
      if (!read_string(item)) return cut_short("a string of the array");
    }
  } else if (array.element_type == kF32 || array.element_type == kF64) {
    auto& items = array.items.emplace<std::vector<double>>(count);
    for (double& item : items) {
      SLIPSTREAM_ASSIGN_OR_RETURN(const GgufValue value, parse_value(array.element_type));
      item = std::get<double>(value);
    }
  } else {
    auto& items = array.items.emplace<std::vector<int64_t>>(count);
    for (int64_t& item : items) {
      SLIPSTREAM_ASSIGN_OR_RETURN(const GgufValue value, parse_value(array.element_type));
      const bool* flag = std::get_if<bool>(&value);
      item = flag != nullptr ? int64_t{*flag} : std::get<int64_t>(value);
    }
  }
  return GgufValue(std::move(array));
}

Status Parser::parse_alignment(const GgufMetadata& metadata) {
  const auto alignment =
      metadata.get_int("general.alignment", static_cast<int64_t>(kDefaultAlignment));
  if (!alignment.ok()) return alignment.status().in(name_);
  const int64_t value = alignment.value();
  if (value < 1 || static_cast<uint64_t>(value) > limits_.max_alignment ||
      !std::has_single_bit(static_cast<uint64_t>(value))) {
    return invalid_model(str(name_, ": key 'general.alignment': ", value,
                             " is not a power of two from 1 to ", limits_.max_alignment));
  }
  alignment_ = static_cast<uint64_t>(value);
  return {};
}

Status Parser::parse_tensor(GgufContents& contents) {
  std::string_view tensor_name;
  uint32_t num_dims = 0;
  if (!read_string(tensor_name)) return cut_short("a tensor's name");
  if (tensor_name.empty() || tensor_name.size() > limits_.max_tensor_name_bytes) {
    return error(str("a tensor name of ", tensor_name.size(), " bytes, expected 1 to ",
                     limits_.max_tensor_name_bytes));
  }
  where_ = str("tensor ", quote(tensor_name), ": ");
  if (!read(num_dims)) return cut_short("the tensor's description");
  if (num_dims < 1 || num_dims > kMaxDims) {
    return error(str(num_dims, " dimensions, expected 1 to ", kMaxDims));
  }
  GgufTensor tensor;
  tensor.name = tensor_name;
  for (uint32_t dim = 0; dim < num_dims; ++dim) {
    uint64_t extent = 0;
    if (!read(extent)) return cut_short("the tensor's description");
    if (extent < 1 || extent > uint64_t{INT64_MAX}) {
      return error(str("a dimension of ", extent, " elements"));
    }
    tensor.shape.push_back(static_cast<int64_t>(extent));
  }
  std::reverse(tensor.shape.begin(), tensor.shape.end());
  uint64_t offset = 0;
  if (!read(tensor.ggml_type) || !read(offset)) return cut_short("the tensor's description");
  tensor.format =
      tensor.ggml_type < 1024 ? find_quant_format(static_cast<int>(tensor.ggml_type)) : nullptr;
  SLIPSTREAM_ASSIGN_OR_RETURN(tensor.bytes, tensor_bytes(tensor));
  if (offset % alignment_ != 0) {
    return error(str("its offset ", offset, " is not a multiple of the alignment ", alignment_));
  }
  contents.tensors.push_back(std::move(tensor));
  offsets_.push_back(offset);
  where_.clear();
  return {};
}

Result<uint64_t> Parser::tensor_bytes(const GgufTensor& tensor) const {
  GgmlType type{};
  if (!find_ggml_type(tensor.ggml_type, type)) {
    return error(str("unknown tensor type ", tensor.ggml_type));
  }
  const auto cols = static_cast<uint64_t>(tensor.shape.back());
  if (cols % type.block_elements != 0) {
    return error(str("rows of ", cols, " elements, but ", type.name, " stores blocks of ",
                     type.block_elements));
  }
  std::optional<uint64_t> bytes = checked_mul(cols / type.block_elements, type.block_bytes);
  for (size_t axis = 0; bytes && axis + 1 < tensor.shape.size(); ++axis) {
    bytes = checked_mul(*bytes, static_cast<uint64_t>(tensor.shape[axis]));
  }
  if (!bytes) return error("the tensor's size in bytes overflows");
  return *bytes;
}

// Sets every tensor's data pointer once the data section's place and all ranges are checked.
Status Parser::place_tensors(std::vector<GgufTensor>& tensors) const {
  if (tensors.empty()) return {};
  const uint64_t data_start = *checked_align_up(position_, alignment_);  // position_ <= file size
  const uint64_t data_bytes = bytes_.size() > data_start ? bytes_.size() - data_start : 0;
  std::vector<size_t> by_offset(tensors.size());
  for (size_t idx = 0; idx < tensors.size(); ++idx) {
    by_offset[idx] = idx;
    const uint64_t offset = offsets_[idx];
    if (offset > data_bytes || tensors[idx].bytes > data_bytes - offset) {
      return invalid_model(str(name_, ": tensor ", quote(tensors[idx].name), ": its ",
                               tensors[idx].bytes, " bytes at data offset ", offset,
                               " reach past the end of the file (", bytes_.size(),
                               " bytes): the file is truncated or damaged; fetch it again"));
    }
    tensors[idx].data = bytes_.data() + data_start + offset;
  }
  std::sort(by_offset.begin(), by_offset.end(),
            [this](size_t a, size_t b) { return offsets_[a] < offsets_[b]; });
  uint64_t end = 0;
  for (size_t place = 0; place < by_offset.size(); ++place) {
    const size_t idx = by_offset[place];
    if (offsets_[idx] < end) {
      return invalid_model(str(name_, ": tensors ", quote(tensors[by_offset[place - 1]].name),
                               " and ", quote(tensors[idx].name), " overlap at data offset ",
                               offsets_[idx]));
    }
    end = offsets_[idx] + tensors[idx].bytes;
  }
  // Writers pad the last tensor to the alignment and add nothing more.
  if (data_bytes > *checked_align_up(end, alignment_)) {
    return invalid_model(str(name_, ": ", data_bytes - end, " bytes follow the last tensor: the ",
                             "file is damaged or something was appended; fetch it again"));
  }
  return {};
}

Result<GgufContents> Parser::parse() {
  GgufContents contents;
  SLIPSTREAM_RETURN_IF_ERROR(parse_header());
  for (uint64_t key = 0; key < num_keys_; ++key) {
    SLIPSTREAM_RETURN_IF_ERROR(parse_key(contents.metadata));
  }
  SLIPSTREAM_RETURN_IF_ERROR(parse_alignment(contents.metadata));
  contents.tensors.reserve(num_tensors_);
  offsets_.reserve(num_tensors_);
  for (uint64_t tensor = 0; tensor < num_tensors_; ++tensor) {
    SLIPSTREAM_RETURN_IF_ERROR(parse_tensor(contents));
  }
  SLIPSTREAM_RETURN_IF_ERROR(place_tensors(contents.tensors));
  return contents;
}

}  // namespace

Result<GgufContents> parse_gguf(std::span<const std::byte> bytes, const std::string& name,
                                const GgufLimits& limits) {
  return Parser(bytes, name, limits).parse();
}

}  // namespace slipstream
