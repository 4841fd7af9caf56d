// What the host tells a sampling op about a row of logits; devices read it as it is.
#pragma once

#include <cstdint>

namespace slipstream {

// A row of logits to draw a token from; see sampling/sampler.h.
struct SampleRow {
  int32_t row = 0;
  float temperature = 0.0f;  // 0: the largest logit
  uint64_t seed = 0;
  uint32_t position = 0;
  uint32_t choice_idx = 0;
  int32_t top_k = 0;   // 0: all
  float top_p = 1.0f;  // 1: all
  float min_p = 0.0f;  // of the best token's probability; 0: all
};

}  // namespace slipstream
