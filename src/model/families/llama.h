// Readers of the llama and mistral families; see families.cc.
#pragma once

#include "base/status.h"
#include "model/config.h"

namespace slipstream {

class Checkpoint;
class HfConfig;

Result<ModelConfig> read_llama_hf(const HfConfig& config);
Result<ModelConfig> read_llama_gguf(const Checkpoint& checkpoint);
Result<ModelConfig> read_mistral_hf(const HfConfig& config);

}  // namespace slipstream
