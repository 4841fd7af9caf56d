// The one list of model families, and the search in it.
#include "model/families/families.h"

#include <array>
#include <cmath>

#include "base/strings.h"
#include "loader/checkpoint.h"
#include "model/families/common.h"
#include "model/families/llama.h"
#include "model/families/qwen2.h"
#include "model/families/qwen3.h"

namespace slipstream {
namespace {

// GGUF files of Mistral call themselves llama.
constexpr std::array kFamilies = {
    ModelFamily{"llama", "llama", "llama", read_llama_hf, read_llama_gguf, make_plain_spec,
                plain_hf_names, plain_gguf_names},
    ModelFamily{"mistral", "mistral", nullptr, read_mistral_hf, nullptr, make_plain_spec,
                plain_hf_names, nullptr},
    ModelFamily{"qwen2", "qwen2", "qwen2", read_qwen2_hf, read_qwen2_gguf, make_plain_spec,
                plain_hf_names, plain_gguf_names},
    ModelFamily{"qwen3", "qwen3", "qwen3", read_qwen3_hf, read_qwen3_gguf, make_plain_spec,
                plain_hf_names, plain_gguf_names},
};

enum class Naming { kHuggingFace, kGguf };

const char* name_of(const ModelFamily& family, Naming naming) {
  return naming == Naming::kGguf ? family.gguf_architecture : family.hf_model_type;
}

Result<const ModelFamily*> find_family(std::string_view name, Naming naming,
                                       const std::string& path) {
  const char* key = naming == Naming::kGguf ? "general.architecture" : "model_type";
  if (name.empty()) return invalid_model(str(path, ": ", key, " is missing"));
  std::string supported;
  for (const ModelFamily& family : kFamilies) {
    const char* known = name_of(family, naming);
    if (known == nullptr) continue;
    if (name == known) return &family;
    supported.append(supported.empty() ? "" : ", ").append(known);
  }
  return invalid_model(
      str(path, ": ", key, " ", quote(name), " is not supported; supported: ", supported));
}

// What the kernels of every backend can take; the readers' own limits are wider.
constexpr int kMaxHeadDim = 512;

Result<ModelDescription> finish(ModelDescription model, const std::string& path) {
  if (model.config.head_dim > kMaxHeadDim) {
    return invalid_model(
        str(path, ": head_dim ", model.config.head_dim, " is above the limit of ", kMaxHeadDim));
  }
  model.spec = model.family->make_spec(model.config);
  return model;
}

}  // namespace

std::span<const ModelFamily> model_families() { return kFamilies; }

Result<ModelDescription> describe_model(const Checkpoint& checkpoint) {
  if (checkpoint.kind() == Checkpoint::kHuggingFace) return describe_config(*checkpoint.hf());
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::string architecture,
                              checkpoint.gguf()->get_string("general.architecture", ""));
  ModelDescription model;
  SLIPSTREAM_ASSIGN_OR_RETURN(model.family,
                              find_family(architecture, Naming::kGguf, checkpoint.path()));
  SLIPSTREAM_ASSIGN_OR_RETURN(model.config, model.family->read_gguf(checkpoint));
  model.names = model.family->gguf_names();
  return finish(std::move(model), checkpoint.path());
}

Result<ModelDescription> describe_config(const HfConfig& config) {
  ModelDescription model;
  SLIPSTREAM_ASSIGN_OR_RETURN(
      model.family, find_family(config.model_type(), Naming::kHuggingFace, config.path()));
  SLIPSTREAM_ASSIGN_OR_RETURN(model.config, model.family->read_hf(config));
  model.names = model.family->hf_names();
  return finish(std::move(model), config.path());
}

DecoderSpec make_plain_spec(const ModelConfig& config) {
  LayerSpec layer;
  layer.attention.num_heads = config.num_attention_heads;
  layer.attention.num_kv_heads = config.num_key_value_heads;
  layer.attention.head_dim = config.head_dim;
  layer.attention.scale = static_cast<float>(1.0 / std::sqrt(config.head_dim));
  layer.attention.window = config.sliding_window;
  layer.attention.qkv_bias = config.attention_bias;
  layer.attention.out_bias = config.attention_out_bias;
  layer.attention.qk_norm = config.qk_norm;
  layer.mlp.intermediate_size = config.intermediate_size;
  layer.mlp.bias = config.mlp_bias;

  DecoderSpec spec;
  spec.hidden_size = config.hidden_size;
  spec.vocab_size = config.vocab_size;
  spec.norm_eps = config.rms_norm_eps;
  spec.tied_embeddings = config.tie_word_embeddings;
  spec.rope = config.rope;
  spec.layers.assign(static_cast<size_t>(config.num_hidden_layers), layer);
  for (size_t layer_idx = 0; layer_idx < config.sliding_layers.size(); ++layer_idx) {
    if (!config.sliding_layers[layer_idx]) spec.layers[layer_idx].attention.window = 0;
  }
  return spec;
}

}  // namespace slipstream
