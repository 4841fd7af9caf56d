// The one list of model families: how each reads a checkpoint's configuration and names weights.
#pragma once

#include <span>
#include <string>

#include "base/status.h"
#include "model/config.h"
#include "model/spec.h"

namespace slipstream {

class Checkpoint;
class HfConfig;

struct ModelFamily {
  const char* name;               // ModelConfig::family
  const char* hf_model_type;      // config.json "model_type"
  const char* gguf_architecture;  // general.architecture
  Result<ModelConfig> (*read_hf)(const HfConfig& config);
  Result<ModelConfig> (*read_gguf)(const Checkpoint& checkpoint);
  DecoderSpec (*make_spec)(const ModelConfig& config);
  WeightNames (*hf_names)();
  WeightNames (*gguf_names)();
};

std::span<const ModelFamily> model_families();

struct ModelDescription {
  const ModelFamily* family = nullptr;
  ModelConfig config;
  DecoderSpec spec;
  WeightNames names;
};

// Finds the family of a checkpoint and reads it. The error lists the families that exist.
Result<ModelDescription> describe_model(const Checkpoint& checkpoint);
// The same from config.json alone (--load-format dummy).
Result<ModelDescription> describe_config(const HfConfig& config);

}  // namespace slipstream
