// GGUF metadata -> ModelConfig for the families of plain decoders, and their tensors' names.
#include <algorithm>
#include <cmath>
#include <limits>

#include "base/strings.h"
#include "loader/checkpoint.h"
#include "model/families/common.h"

namespace slipstream {
namespace {

// Limits that no model comes near: sizes multiplied from them stay far below 2^63.
constexpr int64_t kMaxHidden = int64_t{1} << 20;
constexpr int64_t kMaxIntermediate = int64_t{1} << 22;
constexpr int64_t kMaxVocab = int64_t{1} << 24;
constexpr int64_t kMaxLayers = 4096;
constexpr int64_t kMaxHeads = 4096;
constexpr int64_t kMaxHeadDim = 4096;
constexpr int64_t kMaxPositions = int64_t{1} << 30;

// Range-checked access to the keys "<family>.*".
class Keys {
 public:
  Keys(const Checkpoint& checkpoint, const char* family)
      : checkpoint_(checkpoint), metadata_(*checkpoint.gguf()), prefix_(str(family, ".")) {}

  bool contains(const std::string& name) const { return metadata_.contains(prefix_ + name); }

  Status error(const std::string& name, const std::string& problem) const {
    return invalid_model(str(checkpoint_.path(), ": ", prefix_, name, " ", problem));
  }

  // The key must be there.
  Result<int64_t> get_int(const std::string& name, IntRange range) const {
    if (!contains(name)) return error(name, "is missing");
    return get_int(name, range, 0);
  }
  Result<int64_t> get_int(const std::string& name, IntRange range, int64_t fallback) const {
    if (!contains(name)) return fallback;
    auto value = metadata_.get_int(prefix_ + name, fallback);
    if (!value.ok()) return as_invalid(value.status());
    if (value.value() < range.min || value.value() > range.max) {
      return error(name, str(value.value(), " is outside ", range.min, "..", range.max));
    }
    return value;
  }

  Result<double> get_number(const std::string& name, NumberRange range, double fallback) const {
    if (!contains(name)) return fallback;
    auto value = metadata_.get_number(prefix_ + name, fallback);
    if (!value.ok()) return as_invalid(value.status());
    if (!(value.value() >= range.min && value.value() <= range.max)) {
      return error(name, str(value.value(), " is outside ", range.min, "..", range.max));
    }
    return value;
  }

  Result<std::string> get_string(const std::string& name, const std::string& fallback) const {
    auto value = metadata_.get_string(prefix_ + name, fallback);
    return value.ok() ? value : Result<std::string>(as_invalid(value.status()));
  }

 private:
  Status as_invalid(const Status& status) const {
    return invalid_model(str(checkpoint_.path(), ": ", status.message()));
  }

  const Checkpoint& checkpoint_;
  const GgufMetadata& metadata_;
  std::string prefix_;
};

Status read_sizes(const Keys& keys, ModelConfig& model) {
  SLIPSTREAM_ASSIGN_OR_RETURN(model.hidden_size, keys.get_int("embedding_length", {1, kMaxHidden}));
  SLIPSTREAM_ASSIGN_OR_RETURN(model.intermediate_size,
                              keys.get_int("feed_forward_length", {1, kMaxIntermediate}));
  SLIPSTREAM_ASSIGN_OR_RETURN(model.max_position_embeddings,
                              keys.get_int("context_length", {1, kMaxPositions}));
  SLIPSTREAM_ASSIGN_OR_RETURN(const int64_t layers, keys.get_int("block_count", {1, kMaxLayers}));
  SLIPSTREAM_ASSIGN_OR_RETURN(const int64_t heads,
                              keys.get_int("attention.head_count", {1, kMaxHeads}));
  SLIPSTREAM_ASSIGN_OR_RETURN(const int64_t kv_heads,
                              keys.get_int("attention.head_count_kv", {1, kMaxHeads}, heads));
  if (heads % kv_heads != 0) {
    return keys.error("attention.head_count_kv",
                      str(kv_heads, " does not divide attention.head_count ", heads));
  }
  if (!keys.contains("attention.key_length") && model.hidden_size % heads != 0) {
    return keys.error("embedding_length",
                      str(model.hidden_size, " is not a multiple of attention.head_count ", heads,
                          " and attention.key_length is missing"));
  }
  SLIPSTREAM_ASSIGN_OR_RETURN(
      const int64_t head_dim,
      keys.get_int("attention.key_length", {1, kMaxHeadDim}, model.hidden_size / heads));
  SLIPSTREAM_ASSIGN_OR_RETURN(const int64_t value_dim,
                              keys.get_int("attention.value_length", {1, kMaxHeadDim}, head_dim));
  if (value_dim != head_dim) {
    return keys.error("attention.value_length", str(value_dim, " differs from the key length ",
                                                    head_dim, ", which is not supported"));
  }
  SLIPSTREAM_ASSIGN_OR_RETURN(const double eps, keys.get_number("attention.layer_norm_rms_epsilon",
                                                                {.min = 1e-12, .max = 0.1}, 1e-5));
  SLIPSTREAM_ASSIGN_OR_RETURN(
      const int64_t window,
      keys.get_int("attention.sliding_window", {0, std::numeric_limits<int>::max()}, 0));
  model.num_hidden_layers = static_cast<int>(layers);
  model.num_attention_heads = static_cast<int>(heads);
  model.num_key_value_heads = static_cast<int>(kv_heads);
  model.head_dim = static_cast<int>(head_dim);
  model.rms_norm_eps = static_cast<float>(eps);
  model.sliding_window = static_cast<int>(window);
  return {};
}

Status read_yarn(const Keys& keys, RopeConfig& rope) {
  const NumberRange positive{.min = 1e-6, .max = 1e6};
  SLIPSTREAM_ASSIGN_OR_RETURN(rope.beta_fast,
                              keys.get_number("rope.scaling.yarn_beta_fast", positive, 32.0));
  SLIPSTREAM_ASSIGN_OR_RETURN(rope.beta_slow,
                              keys.get_number("rope.scaling.yarn_beta_slow", positive, 1.0));
  SLIPSTREAM_ASSIGN_OR_RETURN(const double factor,
                              keys.get_number("rope.scaling.attn_factor", positive, 1.0));
  // The file's factor multiplies the paper's temperature.
  rope.attention_factor = factor * (1.0 + 0.1 * std::log(std::max(rope.factor, 1.0)));
  return {};
}

Status read_rope(const Checkpoint& checkpoint, const Keys& keys, ModelConfig& model) {
  RopeConfig& rope = model.rope;
  SLIPSTREAM_ASSIGN_OR_RETURN(
      const int64_t rotary_dim,
      keys.get_int("rope.dimension_count", {2, model.head_dim}, model.head_dim));
  rope.rotary_dim = static_cast<int>(rotary_dim);
  if (rotary_dim % 2 != 0) return keys.error("rope.dimension_count", "is odd");
  SLIPSTREAM_ASSIGN_OR_RETURN(
      rope.theta, keys.get_number("rope.freq_base", {.min = 1.001, .max = 1e15}, 10000.0));

  // Old files have rope.scale_linear and no type.
  const NumberRange positive{.min = 1e-6, .max = 1e6};
  SLIPSTREAM_ASSIGN_OR_RETURN(const double old_factor,
                              keys.get_number("rope.scale_linear", positive, 1.0));
  SLIPSTREAM_ASSIGN_OR_RETURN(rope.factor,
                              keys.get_number("rope.scaling.factor", positive, old_factor));
  SLIPSTREAM_ASSIGN_OR_RETURN(rope.original_max_position_embeddings,
                              keys.get_int("rope.scaling.original_context_length",
                                           {1, kMaxPositions}, model.max_position_embeddings));
  const std::string assumed = rope.factor == 1.0 ? "none" : "linear";
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::string type,
                              keys.get_string("rope.scaling.type", assumed));
  if (type == "linear") {
    rope.scaling = RopeScaling::kLinear;
  } else if (type == "yarn") {
    rope.scaling = RopeScaling::kYarn;
    SLIPSTREAM_RETURN_IF_ERROR(read_yarn(keys, rope));
  } else if (type != "none") {
    return keys.error("rope.scaling.type", str(quote(type), " is not supported"));
  }

  if (checkpoint.contains("rope_freqs.weight")) {  // Llama 3.1's scaling, as a table
    SLIPSTREAM_ASSIGN_OR_RETURN(rope.freq_factors,
                                checkpoint.vector("rope_freqs.weight", rotary_dim / 2));
    for (const float factor : rope.freq_factors) {
      if (!(factor > 1e-6f && factor < 1e6f)) {
        return invalid_model(str(checkpoint.path(), ": tensor 'rope_freqs.weight' contains ",
                                 factor, "; factors are positive"));
      }
    }
  }
  return {};
}

Status read_vocabulary(const Checkpoint& checkpoint, ModelConfig& model) {
  const TensorInfo* embed = checkpoint.find("token_embd.weight");
  if (embed == nullptr || embed->shape.size() != 2) {
    return invalid_model(
        str(checkpoint.path(), ": tensor 'token_embd.weight' is missing or not a matrix"));
  }
  model.vocab_size = embed->shape[0];
  if (model.vocab_size < 1 || model.vocab_size > kMaxVocab) {
    return invalid_model(str(checkpoint.path(), ": tensor 'token_embd.weight' has ",
                             model.vocab_size, " rows, outside 1..", kMaxVocab));
  }
  model.tie_word_embeddings = !checkpoint.contains("output.weight");
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                          "tokenizer.ggml.eom_token_id"}) {
    SLIPSTREAM_ASSIGN_OR_RETURN(const int64_t id, checkpoint.gguf()->get_int(key, -1));
    // Files write 4294967295 for "none".
    if (id >= 0 && id < model.vocab_size) model.eos_token_ids.push_back(static_cast<int32_t>(id));
  }
  return {};
}

}  // namespace

Result<ModelConfig> read_gguf_common(const Checkpoint& checkpoint, const char* family) {
  const Keys keys(checkpoint, family);
  ModelConfig model;
  model.family = family;
  SLIPSTREAM_ASSIGN_OR_RETURN(model.name, checkpoint.gguf()->get_string("general.name", ""));
  SLIPSTREAM_ASSIGN_OR_RETURN(const int64_t experts, keys.get_int("expert_count", {0, 1 << 20}, 0));
  if (experts > 0) return keys.error("expert_count", "above 0 is not supported");
  SLIPSTREAM_RETURN_IF_ERROR(read_sizes(keys, model));
  SLIPSTREAM_RETURN_IF_ERROR(read_rope(checkpoint, keys, model));
  SLIPSTREAM_RETURN_IF_ERROR(read_vocabulary(checkpoint, model));
  model.attention_bias = checkpoint.contains("blk.0.attn_q.bias");
  model.attention_out_bias = checkpoint.contains("blk.0.attn_output.bias");
  model.mlp_bias = checkpoint.contains("blk.0.ffn_gate.bias");
  model.qk_norm = checkpoint.contains("blk.0.attn_q_norm.weight");
  return model;
}

WeightNames plain_gguf_names() {
  WeightNames names;
  names.embed = "token_embd.weight";
  names.final_norm = "output_norm.weight";
  names.lm_head = "output.weight";
  names.attn_norm = "blk.%d.attn_norm.weight";
  names.q = "blk.%d.attn_q.weight";
  names.k = "blk.%d.attn_k.weight";
  names.v = "blk.%d.attn_v.weight";
  names.o = "blk.%d.attn_output.weight";
  names.q_bias = "blk.%d.attn_q.bias";
  names.k_bias = "blk.%d.attn_k.bias";
  names.v_bias = "blk.%d.attn_v.bias";
  names.o_bias = "blk.%d.attn_output.bias";
  names.q_norm = "blk.%d.attn_q_norm.weight";
  names.k_norm = "blk.%d.attn_k_norm.weight";
  names.mlp_norm = "blk.%d.ffn_norm.weight";
  names.gate = "blk.%d.ffn_gate.weight";
  names.up = "blk.%d.ffn_up.weight";
  names.down = "blk.%d.ffn_down.weight";
  names.gate_bias = "blk.%d.ffn_gate.bias";
  names.up_bias = "blk.%d.ffn_up.bias";
  names.down_bias = "blk.%d.ffn_down.bias";
  return names;
}

}  // namespace slipstream
