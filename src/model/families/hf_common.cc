// config.json -> ModelConfig for the families of plain decoders.
#include <algorithm>
#include <cmath>
#include <limits>

#include "base/strings.h"
#include "loader/checkpoint.h"
#include "loader/hf_quantization.h"
#include "model/families/common.h"

namespace slipstream {
namespace {

constexpr int64_t kMaxPositions = int64_t{1} << 30;

Status unsupported(const HfConfig& config, const std::string& what) {
  return invalid_model(str(config.path(), ": ", what, " is not supported"));
}

// transformers 5 writes "rope_parameters", 4 "rope_scaling" with "rope_theta" beside it.
std::string rope_object(const HfConfig& config) {
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    if (config.contains(key)) return key;
  }
  return "";
}

Result<RopeScaling> rope_kind(const HfConfig& config, const std::string& object) {
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::string old_name,
                              config.get_string(object + ".type", "default"));
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::string kind,
                              config.get_string(object + ".rope_type", old_name));
  if (kind == "default") return RopeScaling::kNone;
  if (kind == "linear") return RopeScaling::kLinear;
  if (kind == "llama3") return RopeScaling::kLlama3;
  if (kind == "yarn") return RopeScaling::kYarn;
  return unsupported(config, str(object, ".rope_type ", quote(kind)));
}

// YaRN's temperature: what the file says, else the paper's 0.1 ln(factor) + 1.
Result<double> yarn_attention_factor(const HfConfig& config, const std::string& object,
                                     double factor) {
  const NumberRange positive{.min = 1e-6, .max = 1e6};
  const auto temperature = [factor](double mscale) {
    return factor > 1.0 ? 0.1 * mscale * std::log(factor) + 1.0 : 1.0;
  };
  if (config.contains(object + ".attention_factor")) {
    return config.get_number(object + ".attention_factor", positive);
  }
  if (config.contains(object + ".mscale") && config.contains(object + ".mscale_all_dim")) {
    const NumberRange mscale_range{.min = 0.0, .max = 1e6};
    SLIPSTREAM_ASSIGN_OR_RETURN(const double mscale,
                                config.get_number(object + ".mscale", mscale_range));
    SLIPSTREAM_ASSIGN_OR_RETURN(const double mscale_all_dim,
                                config.get_number(object + ".mscale_all_dim", mscale_range));
    if (mscale > 0.0 && mscale_all_dim > 0.0) {
      return temperature(mscale) / temperature(mscale_all_dim);
    }
  }
  return temperature(1.0);
}

Status read_scaling(const HfConfig& config, const std::string& object, ModelConfig& model) {
  RopeConfig& rope = model.rope;
  const NumberRange positive{.min = 1e-6, .max = 1e6};
  SLIPSTREAM_ASSIGN_OR_RETURN(rope.original_max_position_embeddings,
                              config.get_int(object + ".original_max_position_embeddings",
                                             {1, kMaxPositions}, model.max_position_embeddings));
  // Files that leave out the factor mean the ratio of the two lengths.
  const double ratio = static_cast<double>(model.max_position_embeddings) /
                       static_cast<double>(rope.original_max_position_embeddings);
  SLIPSTREAM_ASSIGN_OR_RETURN(rope.factor, config.get_number(object + ".factor", positive, ratio));
  if (rope.scaling == RopeScaling::kLlama3) {
    SLIPSTREAM_ASSIGN_OR_RETURN(rope.low_freq_factor,
                                config.get_number(object + ".low_freq_factor", positive));
    SLIPSTREAM_ASSIGN_OR_RETURN(rope.high_freq_factor,
                                config.get_number(object + ".high_freq_factor", positive));
    if (rope.high_freq_factor <= rope.low_freq_factor) {
      return invalid_model(str(config.path(), ": ", object, ".high_freq_factor ",
                               rope.high_freq_factor, " must be above low_freq_factor ",
                               rope.low_freq_factor));
    }
  }
  if (rope.scaling == RopeScaling::kYarn) {
    SLIPSTREAM_ASSIGN_OR_RETURN(rope.beta_fast,
                                config.get_number(object + ".beta_fast", positive, 32.0));
    SLIPSTREAM_ASSIGN_OR_RETURN(rope.beta_slow,
                                config.get_number(object + ".beta_slow", positive, 1.0));
    SLIPSTREAM_ASSIGN_OR_RETURN(rope.truncate, config.get_bool(object + ".truncate", true));
    SLIPSTREAM_ASSIGN_OR_RETURN(rope.attention_factor,
                                yarn_attention_factor(config, object, rope.factor));
    // Qwen's files switch YaRN on without raising max_position_embeddings.
    const double extended =
        static_cast<double>(rope.original_max_position_embeddings) * rope.factor;
    model.max_position_embeddings =
        std::max(model.max_position_embeddings,
                 static_cast<int64_t>(std::min(extended, static_cast<double>(kMaxPositions))));
  }
  return {};
}

Status refuse_partial(const HfConfig& config, const std::string& key) {
  SLIPSTREAM_ASSIGN_OR_RETURN(const double share,
                              config.get_number(key, {.min = 0.0, .max = 1.0}, 1.0));
  return share == 1.0 ? Status() : unsupported(config, str(key, " ", share));
}

Status read_rope(const HfConfig& config, ModelConfig& model) {
  RopeConfig& rope = model.rope;
  rope.rotary_dim = model.head_dim;
  const std::string object = rope_object(config);
  // A base of 1 or less has no decreasing frequencies; YaRN divides by its logarithm.
  const NumberRange theta_range{.min = 1.001, .max = 1e15};
  SLIPSTREAM_ASSIGN_OR_RETURN(rope.theta, config.get_number("rope_theta", theta_range, 10000.0));
  SLIPSTREAM_RETURN_IF_ERROR(refuse_partial(config, "partial_rotary_factor"));
  if (object.empty()) return {};
  SLIPSTREAM_RETURN_IF_ERROR(refuse_partial(config, object + ".partial_rotary_factor"));
  const Json& settings = *config.find(object);
  if (!settings.is_object()) {
    return invalid_model(str(config.path(), ": ", object, " must be an object"));
  }
  for (const auto& [key, value] : settings.items()) {
    if (value.is_object()) {
      return unsupported(config, str(object, " per layer type (", quote(key), ")"));
    }
  }
  SLIPSTREAM_ASSIGN_OR_RETURN(rope.theta,
                              config.get_number(object + ".rope_theta", theta_range, rope.theta));
  SLIPSTREAM_ASSIGN_OR_RETURN(rope.scaling, rope_kind(config, object));
  return rope.scaling == RopeScaling::kNone ? Status() : read_scaling(config, object, model);
}

Status refuse_unsupported(const HfConfig& config) {
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::string activation,
                              config.get_string("hidden_act", "silu"));
  if (activation != "silu" && activation != "swish") {
    return unsupported(config, str("hidden_act ", quote(activation)));
  }
  return check_quantization(config);
}

}  // namespace

Result<ModelConfig> read_hf_common(const HfConfig& config, const char* family) {
  SLIPSTREAM_RETURN_IF_ERROR(refuse_unsupported(config));
  SLIPSTREAM_ASSIGN_OR_RETURN(const HfDims dims, config.dims());
  ModelConfig model;
  model.family = family;
  model.hidden_size = dims.hidden_size;
  model.intermediate_size = dims.intermediate_size;
  model.vocab_size = dims.vocab_size;
  model.num_hidden_layers = static_cast<int>(dims.num_hidden_layers);
  model.num_attention_heads = static_cast<int>(dims.num_attention_heads);
  model.num_key_value_heads = static_cast<int>(dims.num_key_value_heads);
  model.head_dim = static_cast<int>(dims.head_dim);
  model.rms_norm_eps = static_cast<float>(dims.rms_norm_eps);
  model.max_position_embeddings = dims.max_position_embeddings;
  if (model.head_dim % 2 != 0) {
    return invalid_model(
        str(config.path(), ": head_dim ", model.head_dim, " is odd; RoPE rotates pairs"));
  }
  // False is the default of all these families' classes in transformers, which leaves the key out.
  SLIPSTREAM_ASSIGN_OR_RETURN(model.tie_word_embeddings,
                              config.get_bool("tie_word_embeddings", false));
  SLIPSTREAM_RETURN_IF_ERROR(read_rope(config, model));
  model.eos_token_ids = config.generation_defaults().eos_token_ids;
  return model;
}

Status read_hf_optional_window(const HfConfig& config, ModelConfig& model) {
  SLIPSTREAM_ASSIGN_OR_RETURN(const bool enabled, config.get_bool("use_sliding_window", false));
  if (!enabled) return {};
  constexpr int64_t kIntMax = std::numeric_limits<int>::max();
  SLIPSTREAM_ASSIGN_OR_RETURN(const int64_t window,
                              config.get_int("sliding_window", {1, kIntMax}, 4096));
  SLIPSTREAM_ASSIGN_OR_RETURN(const int64_t first_layer,
                              config.get_int("max_window_layers", {0, kIntMax}, 28));
  model.sliding_window = static_cast<int>(window);
  const Json* types = config.find("layer_types");
  if (types != nullptr && (!types->is_array() || std::ssize(*types) != model.num_hidden_layers)) {
    return invalid_model(str(config.path(), ": layer_types must list num_hidden_layers = ",
                             model.num_hidden_layers, " layers"));
  }
  for (int layer_idx = 0; layer_idx < model.num_hidden_layers; ++layer_idx) {
    if (types == nullptr) {
      model.sliding_layers.push_back(layer_idx >= first_layer);
      continue;
    }
    const Json& type = (*types)[static_cast<size_t>(layer_idx)];
    if (type != "full_attention" && type != "sliding_attention") {
      return unsupported(config, str("layer_types[", layer_idx, "] ", quote(dump_json(type))));
    }
    model.sliding_layers.push_back(type == "sliding_attention");
  }
  return {};
}

WeightNames plain_hf_names() {
  const std::string layer = "model.layers.%d.";
  const std::string attention = layer + "self_attn.";
  const std::string mlp = layer + "mlp.";
  WeightNames names;
  names.embed = "model.embed_tokens.weight";
  names.final_norm = "model.norm.weight";
  names.lm_head = "lm_head.weight";
  names.attn_norm = layer + "input_layernorm.weight";
  names.q = attention + "q_proj.weight";
  names.k = attention + "k_proj.weight";
  names.v = attention + "v_proj.weight";
  names.o = attention + "o_proj.weight";
  names.q_bias = attention + "q_proj.bias";
  names.k_bias = attention + "k_proj.bias";
  names.v_bias = attention + "v_proj.bias";
  names.o_bias = attention + "o_proj.bias";
  names.q_norm = attention + "q_norm.weight";
  names.k_norm = attention + "k_norm.weight";
  names.mlp_norm = layer + "post_attention_layernorm.weight";
  names.gate = mlp + "gate_proj.weight";
  names.up = mlp + "up_proj.weight";
  names.down = mlp + "down_proj.weight";
  names.gate_bias = mlp + "gate_proj.bias";
  names.up_bias = mlp + "up_proj.bias";
  names.down_bias = mlp + "down_proj.bias";
  return names;
}

}  // namespace slipstream
