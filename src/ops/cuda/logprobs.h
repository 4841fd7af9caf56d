// Log-probabilities of drawn tokens and of the best ones. See logprobs.cu.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "ops/sample_row.h"

namespace slipstream::cuda {

// results[i]: of rows[i], where it asks for them and token_ids[i] is a token. Rows are read from
// `kept` where apply_states() has kept them. All pointers on the device.
cudaError_t logprobs(const float* logits, int64_t vocab_size, const SampleRow* rows, int num_rows,
                     const float* kept, const int32_t* token_ids, SampledLogprobs* results,
                     cudaStream_t stream);

}  // namespace slipstream::cuda
