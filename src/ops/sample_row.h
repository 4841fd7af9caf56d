// What the host tells a sampling op about a row of logits; devices read it as it is.
#pragma once

#include <cstdint>

namespace slipstream {

// A row of logits to draw a token from by temperature alone; see sampling/sampler.h.
struct SampleRow {
  int32_t row = 0;
  float temperature = 0.0f;  // 0: the largest logit
  uint64_t seed = 0;
  uint32_t position = 0;
  uint32_t choice_idx = 0;
};

}  // namespace slipstream
