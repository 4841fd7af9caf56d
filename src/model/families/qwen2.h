// Readers of the qwen2 family; see families.cc.
#pragma once

#include "base/status.h"
#include "model/config.h"

namespace slipstream {

class Checkpoint;
class HfConfig;

Result<ModelConfig> read_qwen2_hf(const HfConfig& config);
Result<ModelConfig> read_qwen2_gguf(const Checkpoint& checkpoint);

}  // namespace slipstream
