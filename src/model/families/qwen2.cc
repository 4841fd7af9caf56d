// Qwen2 and Qwen2.5: llama with biases on q, k and v but not on o.
#include "model/families/qwen2.h"

#include "loader/checkpoint.h"
#include "model/families/common.h"

namespace slipstream {

Result<ModelConfig> read_qwen2_hf(const HfConfig& config) {
  SLIPSTREAM_ASSIGN_OR_RETURN(ModelConfig model, read_hf_common(config, "qwen2"));
  model.attention_bias = true;  // no key says so
  SLIPSTREAM_RETURN_IF_ERROR(read_hf_optional_window(config, model));
  return model;
}

Result<ModelConfig> read_qwen2_gguf(const Checkpoint& checkpoint) {
  SLIPSTREAM_ASSIGN_OR_RETURN(ModelConfig model, read_gguf_common(checkpoint, "qwen2"));
  model.attention_bias = true;  // a file without the biases is broken, not another family
  return model;
}

}  // namespace slipstream
