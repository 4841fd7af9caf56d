// Draws tokens from rows of logits. See sample.cu.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace slipstream::cuda {

struct SampleRow {
  int32_t row = 0;
  float temperature = 0.0f;  // 0: the largest logit
  uint64_t seed = 0;
  uint32_t position = 0;
  uint32_t choice_idx = 0;
};

// token_ids[i]: of rows[i]; -1 when its logits hold NaN or +infinity. All pointers on the device.
cudaError_t sample(const float* logits, int64_t vocab_size, const SampleRow* rows, int num_rows,
                   int32_t* token_ids, cudaStream_t stream);

}  // namespace slipstream::cuda
