// Qwen3: llama with an RMS norm on every head of q and k before RoPE, and a head_dim of its own.
#include "model/families/qwen3.h"

#include "loader/checkpoint.h"
#include "model/families/common.h"

namespace slipstream {

Result<ModelConfig> read_qwen3_hf(const HfConfig& config) {
  SLIPSTREAM_ASSIGN_OR_RETURN(ModelConfig model, read_hf_common(config, "qwen3"));
  model.qk_norm = true;
  // transformers' default for this class is 128, not hidden_size / num_attention_heads.
  if (!config.contains("head_dim")) {
    model.head_dim = 128;
    model.rope.rotary_dim = 128;
  }
  SLIPSTREAM_ASSIGN_OR_RETURN(model.attention_bias, config.get_bool("attention_bias", false));
  model.attention_out_bias = model.attention_bias;
  SLIPSTREAM_RETURN_IF_ERROR(read_hf_optional_window(config, model));
  return model;
}

Result<ModelConfig> read_qwen3_gguf(const Checkpoint& checkpoint) {
  SLIPSTREAM_ASSIGN_OR_RETURN(ModelConfig model, read_gguf_common(checkpoint, "qwen3"));
  model.qk_norm = true;  // a file without the norms is broken, not another family
  return model;
}

}  // namespace slipstream
