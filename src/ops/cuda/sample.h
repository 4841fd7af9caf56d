// Draws tokens from rows of logits. See sample.cu.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "ops/sample_row.h"

namespace slipstream::cuda {

// token_ids[i]: of rows[i]; -1 when its logits hold NaN or +infinity. All pointers on the device.
cudaError_t sample(const float* logits, int64_t vocab_size, const SampleRow* rows, int num_rows,
                   int32_t* token_ids, cudaStream_t stream);

// token_ids[t] = drawn[drawn_from[t]] where drawn_from[t] >= 0.
cudaError_t take_drawn(const int32_t* drawn, const int32_t* drawn_from, int num_tokens,
                       int32_t* token_ids, cudaStream_t stream);

}  // namespace slipstream::cuda
