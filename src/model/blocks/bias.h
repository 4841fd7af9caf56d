// Biases as `linear` takes them. Used by blocks/*.cc.
#pragma once

#include <vector>

namespace slipstream {

inline const float* bias_or_null(const std::vector<float>& bias) {
  return bias.empty() ? nullptr : bias.data();
}

}  // namespace slipstream
