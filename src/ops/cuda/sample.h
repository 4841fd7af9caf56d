// Draws tokens from rows of logits. See sample.cu.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "ops/cuda/sample_state.h"
#include "ops/sample_row.h"

namespace slipstream::cuda {

// token_ids[i]: of rows[i], counted in its state; kBadLogits or kNoTokenLeft when there is none.
// All pointers on the device.
cudaError_t sample(const float* logits, int64_t vocab_size, const SampleRow* rows, int num_rows,
                   const SampleStates& states, int32_t* token_ids, cudaStream_t stream);

// token_ids[t] = drawn[drawn_from[t]] where drawn_from[t] >= 0.
cudaError_t take_drawn(const int32_t* drawn, const int32_t* drawn_from, int num_tokens,
                       int32_t* token_ids, cudaStream_t stream);

}  // namespace slipstream::cuda
