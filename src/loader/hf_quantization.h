// What config.json's quantization_config says about the weights, and whether they can be read.
#pragma once

#include "base/status.h"
#include "loader/hf_config.h"

namespace slipstream {

// An error naming the method unless the weights are plain, or FP8 (E4M3) in a layout of
// fp8_scales.h. What it says of activations is not looked at: those are quantised per token.
Status check_quantization(const HfConfig& config);

}  // namespace slipstream
