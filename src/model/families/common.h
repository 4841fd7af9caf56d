// What the families of plain pre-norm decoders share: sizes, RoPE settings, tensor names. A family
// starts from these and changes what is its own. Used by families/*.cc only.
#pragma once

#include <string>

#include "base/status.h"
#include "model/config.h"
#include "model/spec.h"

namespace slipstream {

class Checkpoint;
class HfConfig;

// config.json, both dialects of transformers (4 and 5). Refuses activations, quantisations and
// RoPE kinds that this program does not have. Biases, QK norm and windows are the family's.
Result<ModelConfig> read_hf_common(const HfConfig& config, const char* family);

// The window of Qwen's files: `use_sliding_window` switches it on, from layer `max_window_layers`
// or as `layer_types` says.
Status read_hf_optional_window(const HfConfig& config, ModelConfig& model);

// The keys `<family>.*`. Biases and QK norm are there when their tensors are.
Result<ModelConfig> read_gguf_common(const Checkpoint& checkpoint, const char* family);

DecoderSpec make_plain_spec(const ModelConfig& config);
WeightNames plain_hf_names();
WeightNames plain_gguf_names();

}  // namespace slipstream
