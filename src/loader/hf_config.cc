#include "loader/hf_config.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <system_error>
#include <utility>

#include "base/mmap_file.h"
#include "base/strings.h"

namespace slipstream {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxConfigBytes = 4u << 20;
// An object of base/json.h takes time quadratic in its keys: bounded before parsing.
constexpr size_t kMaxMembers = 16'384;
constexpr int kMaxDepth = 32;
constexpr size_t kMaxEosTokens = 1024;

// Far above any model, far below what would overflow a product of two of them.
constexpr IntRange kHiddenSize{1, 1 << 20};
constexpr IntRange kIntermediateSize{1, 1 << 22};
constexpr IntRange kVocabSize{1, 1 << 24};
constexpr IntRange kNumLayers{1, 4096};
constexpr IntRange kNumHeads{1, 4096};
constexpr IntRange kHeadDim{1, 4096};
constexpr IntRange kMaxPositions{1, int64_t{1} << 30};
constexpr NumberRange kNormEps{1e-12, 1e-1};
constexpr IntRange kTokenId{0, kVocabSize.max - 1};

size_t count_members(std::string_view text) {
  size_t count = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    if (in_string && text[i] == '\\')
      ++i;
    else if (text[i] == '"')
      in_string = !in_string;
    else if (text[i] == ':' && !in_string)
      ++count;
  }
  return count;
}

Result<Json> parse_object(std::string_view text, const std::string& name) {
  if (count_members(text) > kMaxMembers) {
    return invalid_model(str(name, ": more than ", kMaxMembers, " keys"));
  }
  auto parsed = parse_json(text, name, {.max_bytes = kMaxConfigBytes, .max_depth = kMaxDepth});
  if (!parsed.ok()) return invalid_model(parsed.status().message());
  if (!parsed->is_object()) {
    return invalid_model(str(name, ": expected a JSON object, got ", parsed->type_name()));
  }
  return parsed;
}

const Json* member(const Json& object, std::string_view key) {
  if (!object.is_object()) return nullptr;
  const auto it = object.find(std::string(key));
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

// Follows "a.b.c" through nested objects.
const Json* follow(const Json& object, std::string_view dotted) {
  const Json* value = &object;
  while (value != nullptr && !dotted.empty()) {
    const size_t dot = std::min(dotted.find('.'), dotted.size());
    value = member(*value, dotted.substr(0, dot));
    dotted.remove_prefix(std::min(dot + 1, dotted.size()));
  }
  return value;
}

// An integer in range, or what is wrong with it.
Result<int64_t> checked_int(const Json& value, IntRange range) {
  const std::string expected = str("expected an integer from ", range.min, " to ", range.max);
  const bool too_large =
      value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX);
  if (!value.is_number_integer() || too_large) {
    return invalid_model(str(expected, ", got ", quote(dump_json(value))));
  }
  const auto number = value.get<int64_t>();
  if (number < range.min || number > range.max) {
    return invalid_model(str(expected, ", got ", number));
  }
  return number;
}

Result<double> checked_number(const Json& value, NumberRange range) {
  const std::string expected = str("expected a number from ", range.min, " to ", range.max);
  if (!value.is_number()) return invalid_model(str(expected, ", got ", quote(dump_json(value))));
  const auto number = value.get<double>();
  // Written so that NaN fails.
  if (!(number >= range.min && number <= range.max)) {
    return invalid_model(str(expected, ", got ", number));
  }
  return number;
}

// eos_token_id: an id or a list of ids.
Result<std::vector<int32_t>> token_ids(const Json& value) {
  std::vector<int32_t> ids;
  const bool is_list = value.is_array();
  if (is_list && value.size() > kMaxEosTokens) {
    return invalid_model(str("more than ", kMaxEosTokens, " ids"));
  }
  const size_t count = is_list ? value.size() : 1;
  for (size_t idx = 0; idx < count; ++idx) {
    SLIPSTREAM_ASSIGN_OR_RETURN(const int64_t id,
                                checked_int(is_list ? value[idx] : value, kTokenId));
    ids.push_back(static_cast<int32_t>(id));
  }
  return ids;
}

}  // namespace

Status HfConfig::error(std::string_view key, const std::string& problem) const {
  return invalid_model(str(path_, ": key ", quote(key), ": ", problem));
}

Result<HfConfig> HfConfig::open(const std::string& folder) {
  const std::string config_path = (fs::path(folder) / "config.json").string();
  const std::string generation_path = (fs::path(folder) / "generation_config.json").string();
  auto config = read_text_file(config_path, kMaxConfigBytes);
  if (!config.ok()) return invalid_model(config.status().message());
  std::string generation;
  std::error_code absent;
  if (fs::exists(generation_path, absent)) {
    auto text = read_text_file(generation_path, kMaxConfigBytes);
    if (!text.ok()) return invalid_model(text.status().message());
    generation = std::move(text).value();
    if (generation.empty()) return invalid_model(generation_path + ": the file is empty");
  }
  return from_text(config.value(), generation, config_path);
}

Result<HfConfig> HfConfig::from_text(std::string_view config_text, std::string_view generation_text,
                                     const std::string& name) {
  HfConfig config;
  config.path_ = name;
  SLIPSTREAM_ASSIGN_OR_RETURN(config.root_, parse_object(config_text, name));
  const Json* nested = member(config.root_, "text_config");
  if (nested != nullptr && !nested->is_object()) {
    return config.error("text_config", "expected an object");
  }
  config.model_ = nested != nullptr ? *nested : config.root_;
  SLIPSTREAM_ASSIGN_OR_RETURN(config.model_type_, config.get_string("model_type", ""));
  if (const Json* names = config.find("architectures")) {
    if (!names->is_array() || names->empty() || !(*names)[0].is_string()) {
      return config.error("architectures", "expected a list of names");
    }
    config.architecture_ = (*names)[0].get<std::string>();
  }
  SLIPSTREAM_RETURN_IF_ERROR(config.read_generation_defaults(generation_text));
  return config;
}

Status HfConfig::read_generation_defaults(std::string_view generation_text) {
  if (const Json* eos = find("eos_token_id")) {
    auto ids = token_ids(*eos);
    if (!ids.ok()) return error("eos_token_id", ids.status().message());
    generation_.eos_token_ids = std::move(ids).value();
  }
  if (generation_text.empty()) return {};

  // The same getters, with the other file's name in their messages.
  HfConfig file;
  file.path_ = (fs::path(path_).parent_path() / "generation_config.json").string();
  SLIPSTREAM_ASSIGN_OR_RETURN(file.root_, parse_object(generation_text, file.path_));
  file.model_ = file.root_;
  const auto number = [&file](const char* key, NumberRange range,
                              std::optional<double>& out) -> Status {
    if (!file.contains(key)) return {};
    SLIPSTREAM_ASSIGN_OR_RETURN(out, file.get_number(key, range));
    return {};
  };
  SLIPSTREAM_RETURN_IF_ERROR(number("temperature", {0.0, 100.0}, generation_.temperature));
  SLIPSTREAM_RETURN_IF_ERROR(number("top_p", {0.0, 1.0}, generation_.top_p));
  SLIPSTREAM_RETURN_IF_ERROR(number("min_p", {0.0, 1.0}, generation_.min_p));
  SLIPSTREAM_RETURN_IF_ERROR(
      number("repetition_penalty", {1e-6, 1e6}, generation_.repetition_penalty));
  if (file.contains("top_k")) {
    SLIPSTREAM_ASSIGN_OR_RETURN(generation_.top_k, file.get_int("top_k", {-1, kVocabSize.max}));
  }
  if (file.contains("do_sample")) {
    SLIPSTREAM_ASSIGN_OR_RETURN(generation_.do_sample, file.get_bool("do_sample", false));
  }
  if (const Json* eos = file.find("eos_token_id")) {
    auto ids = token_ids(*eos);
    if (!ids.ok()) return file.error("eos_token_id", ids.status().message());
    generation_.eos_token_ids = std::move(ids).value();
  }
  return {};
}

const Json* HfConfig::find(std::string_view key) const {
  const Json* value = follow(model_, key);
  return value != nullptr ? value : follow(root_, key);
}

Result<int64_t> HfConfig::get_int(std::string_view key, IntRange range) const {
  const Json* value = find(key);
  if (value == nullptr) return error(key, "is required and missing");
  auto number = checked_int(*value, range);
  if (!number.ok()) return error(key, number.status().message());
  return number;
}

Result<int64_t> HfConfig::get_int(std::string_view key, IntRange range, int64_t fallback) const {
  if (!contains(key)) return fallback;
  return get_int(key, range);
}

Result<double> HfConfig::get_number(std::string_view key, NumberRange range) const {
  const Json* value = find(key);
  if (value == nullptr) return error(key, "is required and missing");
  auto number = checked_number(*value, range);
  if (!number.ok()) return error(key, number.status().message());
  return number;
}

Result<double> HfConfig::get_number(std::string_view key, NumberRange range,
                                    double fallback) const {
  if (!contains(key)) return fallback;
  return get_number(key, range);
}

Result<bool> HfConfig::get_bool(std::string_view key, bool fallback) const {
  const Json* value = find(key);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) return error(key, "expected true or false");
  return value->get<bool>();
}

Result<std::string> HfConfig::get_string(std::string_view key, const std::string& fallback) const {
  const Json* value = find(key);
  if (value == nullptr) return fallback;
  if (!value->is_string()) return error(key, "expected a string");
  return value->get<std::string>();
}

Result<HfDims> HfConfig::dims() const {
  HfDims dims;
  SLIPSTREAM_ASSIGN_OR_RETURN(dims.hidden_size, get_int("hidden_size", kHiddenSize));
  SLIPSTREAM_ASSIGN_OR_RETURN(dims.intermediate_size,
                              get_int("intermediate_size", kIntermediateSize));
  SLIPSTREAM_ASSIGN_OR_RETURN(dims.vocab_size, get_int("vocab_size", kVocabSize));
  SLIPSTREAM_ASSIGN_OR_RETURN(dims.num_hidden_layers, get_int("num_hidden_layers", kNumLayers));
  SLIPSTREAM_ASSIGN_OR_RETURN(dims.num_attention_heads, get_int("num_attention_heads", kNumHeads));
  const int64_t heads = dims.num_attention_heads;
  SLIPSTREAM_ASSIGN_OR_RETURN(dims.num_key_value_heads,
                              get_int("num_key_value_heads", kNumHeads, heads));
  if (heads % dims.num_key_value_heads != 0) {
    return error("num_key_value_heads", str(dims.num_key_value_heads, " does not divide the ",
                                            heads, " of 'num_attention_heads'"));
  }
  if (!contains("head_dim") && dims.hidden_size % heads != 0) {
    return error("num_attention_heads", str(heads, " does not divide the ", dims.hidden_size,
                                            " of 'hidden_size', and 'head_dim' is missing"));
  }
  SLIPSTREAM_ASSIGN_OR_RETURN(
      dims.head_dim, get_int("head_dim", kHeadDim, std::max<int64_t>(1, dims.hidden_size / heads)));
  SLIPSTREAM_ASSIGN_OR_RETURN(dims.max_position_embeddings,
                              get_int("max_position_embeddings", kMaxPositions));
  SLIPSTREAM_ASSIGN_OR_RETURN(dims.rms_norm_eps, get_number("rms_norm_eps", kNormEps));
  return dims;
}

}  // namespace slipstream
