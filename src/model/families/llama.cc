// Llama 2, 3, 3.1+, SmolLM2 and everything else saved as "llama"; Mistral is llama with a window.
#include "model/families/llama.h"

#include <limits>

#include "loader/checkpoint.h"
#include "model/families/common.h"

namespace slipstream {

Result<ModelConfig> read_llama_hf(const HfConfig& config) {
  SLIPSTREAM_ASSIGN_OR_RETURN(ModelConfig model, read_hf_common(config, "llama"));
  // One key for all four projections of attention.
  SLIPSTREAM_ASSIGN_OR_RETURN(model.attention_bias, config.get_bool("attention_bias", false));
  model.attention_out_bias = model.attention_bias;
  SLIPSTREAM_ASSIGN_OR_RETURN(model.mlp_bias, config.get_bool("mlp_bias", false));
  return model;
}

Result<ModelConfig> read_llama_gguf(const Checkpoint& checkpoint) {
  SLIPSTREAM_ASSIGN_OR_RETURN(ModelConfig model, read_gguf_common(checkpoint, "llama"));
  // The converter permutes the rows of q and k so that a rotated pair lies side by side.
  model.rope.interleaved = true;
  return model;
}

Result<ModelConfig> read_mistral_hf(const HfConfig& config) {
  SLIPSTREAM_ASSIGN_OR_RETURN(ModelConfig model, read_hf_common(config, "mistral"));
  // Absent means 4096, null means none: transformers leaves out what equals the class's default.
  if (!config.model().contains("sliding_window")) {
    model.sliding_window = 4096;
  } else {
    SLIPSTREAM_ASSIGN_OR_RETURN(
        const int64_t window,
        config.get_int("sliding_window", {1, std::numeric_limits<int>::max()}, 0));
    model.sliding_window = static_cast<int>(window);
  }
  return model;
}

}  // namespace slipstream
