#include "loader/hf_quantization.h"

#include <string>

#include "base/strings.h"
#include "loader/fp8_scales.h"

namespace slipstream {
namespace {

// Older compressed-tensors files use the second name.
constexpr const char* kKeys[] = {"quantization_config", "compression_config"};

Status refuse(const HfConfig& config, const std::string& what) {
  return invalid_model(str(
      config.path(), ": weights quantised by ", what,
      " are not supported; supported: FP8 (E4M3) with a scale per tensor, row or block of 128 x "
      "128, by fp8, fbgemm_fp8, modelopt or compressed-tensors; or take the unquantised or the "
      "GGUF version"));
}

// [128, 128], or "128x128" as some write it.
bool is_known_block(const Json& block) {
  if (block.is_string()) return block == str(kFp8BlockSize, "x", kFp8BlockSize);
  return block == Json::array({kFp8BlockSize, kFp8BlockSize});
}

Status check_fp8(const HfConfig& config, const std::string& key) {
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::string format, config.get_string(key + ".fmt", "e4m3"));
  if (format != "e4m3") return refuse(config, str("fp8 with fmt ", quote(format)));
  const Json* block = config.find(key + ".weight_block_size");
  if (block == nullptr || is_known_block(*block)) return {};
  return refuse(config, str("fp8 with weight_block_size ", dump_json(*block)));
}

Status check_modelopt(const HfConfig& config, const std::string& key) {
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::string algorithm,
                              config.get_string(key + ".quant_algo", "?"));
  if (algorithm == "FP8" || algorithm == "FP8_PER_CHANNEL_PER_TOKEN") return {};
  return refuse(config, str("modelopt ", quote(algorithm)));
}

// One of config_groups: which layers, and how their weights are stored.
Status check_group(const HfConfig& config, const std::string& group,
                   const std::string& common_format) {
  const std::string weights = group + ".weights";
  if (!config.contains(weights)) return {};
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::string format,
                              config.get_string(group + ".format", common_format));
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::string type, config.get_string(weights + ".type", "int"));
  SLIPSTREAM_ASSIGN_OR_RETURN(const int64_t num_bits,
                              config.get_int(weights + ".num_bits", {1, 64}, 8));
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::string strategy,
                              config.get_string(weights + ".strategy", "tensor"));
  SLIPSTREAM_ASSIGN_OR_RETURN(const bool symmetric, config.get_bool(weights + ".symmetric", true));
  const bool is_fp8 = type == "float" && num_bits == 8 && symmetric &&
                      (format == "float-quantized" || format == "naive-quantized");
  const Json* block = config.find(weights + ".block_structure");
  const bool is_known_strategy =
      strategy == "tensor" || strategy == "channel" ||
      (strategy == "block" && (block == nullptr || is_known_block(*block)));
  if (is_fp8 && is_known_strategy) return {};
  return refuse(config, str("compressed-tensors ", quote(format), " (", num_bits, "-bit ", type,
                            symmetric ? "" : ", asymmetric", ", strategy ", quote(strategy),
                            block != nullptr ? " " + dump_json(*block) : "", ")"));
}

Status check_compressed_tensors(const HfConfig& config, const std::string& key) {
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::string format,
                              config.get_string(key + ".format", "float-quantized"));
  // Rotations that activations need as well: without them the answers would be noise.
  const Json* rotations = config.find(key + ".transform_config.config_groups");
  if (rotations != nullptr && !rotations->empty()) {
    return refuse(config, "compressed-tensors with a transform_config");
  }
  const Json* groups = config.find(key + ".config_groups");
  if (groups == nullptr || !groups->is_object()) return {};
  for (const auto& [name, group] : groups->items()) {
    SLIPSTREAM_RETURN_IF_ERROR(check_group(config, key + ".config_groups." + name, format));
  }
  return {};
}

}  // namespace

Status check_quantization(const HfConfig& config) {
  for (const std::string key : kKeys) {
    if (!config.contains(key)) continue;
    SLIPSTREAM_ASSIGN_OR_RETURN(const std::string method,
                                config.get_string(key + ".quant_method", "?"));
    if (method == "fp8") return check_fp8(config, key);
    if (method == "fbgemm_fp8") return {};
    if (method == "modelopt") return check_modelopt(config, key);
    if (method == "compressed-tensors") return check_compressed_tensors(config, key);
    return refuse(config, quote(method));
  }
  return {};
}

}  // namespace slipstream
