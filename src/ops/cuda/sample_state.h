// Sampling states: what a request's tokens, biases and early ids do to its logits. See
// sample_state.cu.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "ops/sample_row.h"

namespace slipstream::cuda {

struct SampleLists {
  int32_t num_biases;
  int32_t num_early_ids;
  int32_t bias_ids[kMostStateBiases];
  float biases[kMostStateBiases];
  int32_t early_ids[kMostStateEarlyIds];
};

// All states of a context, on the device.
struct SampleStates {
  // [num_states, stride]: how often the answer has each id; the highest bit: the prompt has it.
  uint16_t* counts = nullptr;
  SampleLists* lists = nullptr;  // [num_states]
  int64_t stride = 0;            // vocab_size, rounded up to kCountsPerVec
};
constexpr int64_t kCountsPerVec = 8;  // of 16 bytes

// What a state is filled from. Pointers are to pinned memory of the host.
struct SampleStateFill {
  int32_t state = 0;
  int32_t num_prompt_ids = 0;
  int32_t num_answer_ids = 0;
  int32_t num_biases = 0;
  int32_t num_early_ids = 0;
  const int32_t* ids = nullptr;  // of the prompt, the answer, the biases and the early ones
  const float* biases = nullptr;
};

cudaError_t fill_states(const SampleStateFill* fills, int num_fills, const SampleStates& states,
                        cudaStream_t stream);

// Changes the logits of rows that have a state. Those with a kept_row are copied to that row of
// `kept` [.., vocab_size] first.
cudaError_t apply_states(float* logits, int64_t vocab_size, const SampleRow* rows, int num_rows,
                         const SampleStates& states, float* kept, cudaStream_t stream);

}  // namespace slipstream::cuda
