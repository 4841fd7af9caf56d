// logprob = x - log(sum exp x), of the drawn token and of the best ones of a row.
//
// A block a row. The sum runs in an order that depends on the size of the vocabulary alone, in
// double; the best are found by the search that top-k uses, then sorted by counting who is better.
// Bytes: the row 3 times as a rule, from L2. Bound: L2. Reference: token_logprobs.
#include "ops/cuda/logprobs.h"

#include "ops/cuda/common/launch.cuh"
#include "ops/cuda/common/reduce.cuh"
#include "ops/cuda/sample_filters.cuh"

namespace slipstream::cuda {
namespace {

constexpr int kThreads = kSampleThreads;

__device__ __forceinline__ double block_sum(double value, double* shares) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(~0u, value, step);
  if ((threadIdx.x & 31) == 0) shares[threadIdx.x >> 5] = value;
  __syncthreads();
  double total = 0.0;
  for (int i = 0; i < kThreads / 32; ++i) total += shares[i];
  return total;
}

// log(sum exp x), in every thread.
__device__ double log_sum_exp(const float* x, int32_t size, float max, double* shares) {
  constexpr int kUnroll = 4;
  double sum = 0.0;
  for (int32_t id0 = static_cast<int32_t>(threadIdx.x); id0 < size; id0 += kUnroll * kThreads) {
    float terms[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int32_t id = id0 + u * kThreads;
      terms[u] = id < size ? expf(x[id] - max) : 0.0f;
    }
    sum += static_cast<double>((terms[0] + terms[1]) + (terms[2] + terms[3]));
  }
  return static_cast<double>(max) + log(block_sum(sum, shares));
}

__global__ void __launch_bounds__(kThreads, 2)
    logprobs_kernel(const float* logits, int64_t vocab_size, const SampleRow* rows,
                    const float* kept, const int32_t* token_ids, SampledLogprobs* results) {
  __shared__ float max_shares[kThreads / 32];
  __shared__ double sum_shares[kThreads / 32];
  __shared__ FilterScratch scratch;
  __shared__ float best_values[kMostLogprobs];
  __shared__ int32_t best_ids[kMostLogprobs];
  __shared__ int32_t num_found;
  begin_after_previous();
  const SampleRow row = rows[blockIdx.x];
  const int32_t token_id = token_ids[blockIdx.x];
  if (row.num_logprobs < 0 || token_id < 0) return;
  const float* const x =
      row.kept_row >= 0 ? kept + row.kept_row * vocab_size : logits + row.row * vocab_size;
  const auto size = static_cast<int32_t>(vocab_size);
  const Tokens all{x, nullptr, size};
  float max = -INFINITY;
  for_each_token(all, [&](int32_t, float value) { max = fmaxf(max, value); });
  max = block_reduce<Max>(max, max_shares);
  const double log_sum = log_sum_exp(x, size, max, sum_shares);
  const auto logprob = [&](float value) {
    return static_cast<float>(static_cast<double>(value) - log_sum);
  };
  SampledLogprobs& result = results[blockIdx.x];
  const int32_t wanted = min(row.num_logprobs, min(size, kMostLogprobs));
  const auto thread = static_cast<int32_t>(threadIdx.x);
  if (thread == 0) {
    result.drawn = logprob(x[token_id]);
    result.num_best = wanted;
    num_found = 0;
  }
  if (wanted == 0) return;
  RowFilter filter(scratch, all, max, 1.0f);
  if (wanted < size) filter.keep_best(wanted);
  __syncthreads();
  for_each_token(filter.tokens(), [&](int32_t id, float value) {
    if (!filter.keeps(value, id)) return;
    const int32_t at = atomicAdd(&num_found, 1);
    if (at >= wanted) return;
    best_values[at] = value;
    best_ids[at] = id;
  });
  __syncthreads();
  if (thread >= wanted) return;
  const float value = best_values[thread];
  const int32_t id = best_ids[thread];
  int32_t place = 0;
  for (int32_t i = 0; i < wanted; ++i) {
    if (best_values[i] > value || (best_values[i] == value && best_ids[i] < id)) ++place;
  }
  result.ids[place] = id;
  result.logprobs[place] = logprob(value);
}

}  // namespace

cudaError_t logprobs(const float* logits, int64_t vocab_size, const SampleRow* rows, int num_rows,
                     const float* kept, const int32_t* token_ids, SampledLogprobs* results,
                     cudaStream_t stream) {
  if (num_rows == 0) return cudaSuccess;
  return launch_overlapped(logprobs_kernel, {static_cast<unsigned>(num_rows), kThreads}, stream,
                           logits, vocab_size, rows, kept, token_ids, results);
}

}  // namespace slipstream::cuda
