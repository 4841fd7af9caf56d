// Penalties, biases and early masks, in this order, as sampling/logits_pipeline.h defines them:
//   seen in prompt or answer:  x = x > 0 ? x / repetition : x * repetition
//   seen in the answer:        x = x - frequency * count - presence
//   biases:                    x = x + bias
//   early ids:                 x = -infinity
//
// Applying: a block for kIdsPerBlock ids of a row, which does all of the above to its ids, so that
// blocks need not wait for each other. Bytes: 2 per id of the vocabulary, and the logits of the ids
// seen. Bound: memory. Filling: a block a state, which reads ids where the host has left them.
// Reference: LogitsPipeline::apply.
#include "ops/cuda/sample_state.h"

#include "ops/cuda/common/launch.cuh"
#include "ops/cuda/sample_state.cuh"

namespace slipstream::cuda {
namespace {

constexpr int kFillThreads = 1024;
constexpr int kApplyThreads = 256;
constexpr int kIdsPerBlock = 4 * kApplyThreads * static_cast<int>(kCountsPerVec);

__global__ void __launch_bounds__(kFillThreads)
    fill_kernel(const SampleStateFill* fills, SampleStates states) {
  begin_after_previous();
  const SampleStateFill fill = fills[blockIdx.x];
  uint16_t* const counts = states.counts + fill.state * states.stride;
  SampleLists& lists = states.lists[fill.state];
  const auto thread = static_cast<int32_t>(threadIdx.x);
  auto* const vecs = reinterpret_cast<uint4*>(counts);
  const auto num_vecs = static_cast<int32_t>(states.stride / kCountsPerVec);
  for (int32_t i = thread; i < num_vecs; i += kFillThreads) vecs[i] = uint4{0, 0, 0, 0};
  __syncthreads();
  const int32_t* ids = fill.ids;
  for (int32_t i = thread; i < fill.num_prompt_ids; i += kFillThreads) counts[ids[i]] = kInPrompt;
  __syncthreads();
  ids += fill.num_prompt_ids;
  for (int32_t i = thread; i < fill.num_answer_ids; i += kFillThreads) {
    count_token(&counts[ids[i]]);
  }
  ids += fill.num_answer_ids;
  for (int32_t i = thread; i < fill.num_biases; i += kFillThreads) {
    lists.bias_ids[i] = ids[i];
    lists.biases[i] = fill.biases[i];
  }
  ids += fill.num_biases;
  for (int32_t i = thread; i < fill.num_early_ids; i += kFillThreads) lists.early_ids[i] = ids[i];
  if (thread != 0) return;
  lists.num_biases = fill.num_biases;
  lists.num_early_ids = fill.num_early_ids;
}

// Each operation is rounded on its own, as on the host.
__device__ __forceinline__ float penalized(const SampleRow& row, float x, uint32_t count) {
  x = x > 0.0f ? __fdiv_rn(x, row.repetition_penalty) : __fmul_rn(x, row.repetition_penalty);
  const uint32_t occurrences = count & kOccurrences;
  if (occurrences == 0) return x;
  x = __fsub_rn(x, __fmul_rn(row.frequency_penalty, static_cast<float>(occurrences)));
  return __fsub_rn(x, row.presence_penalty);
}

__device__ __forceinline__ void penalize_two(const SampleRow& row, float* x, uint32_t counts) {
  if ((counts & 0xffffu) != 0) x[0] = penalized(row, x[0], counts & 0xffffu);
  if (counts >> 16 != 0) x[1] = penalized(row, x[1], counts >> 16);
}

__global__ void __launch_bounds__(kApplyThreads)
    apply_kernel(float* logits, int64_t vocab_size, const SampleRow* rows, SampleStates states,
                 float* kept) {
  begin_after_previous();
  const SampleRow row = rows[blockIdx.y];
  if (row.state < 0) return;
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const auto begin = static_cast<int32_t>(blockIdx.x) * kIdsPerBlock;
  const int32_t end = min(begin + kIdsPerBlock, static_cast<int32_t>(vocab_size));
  const auto is_own = [&](int32_t id) { return id >= begin && id < end; };
  float* const x = logits + row.row * vocab_size;
  if (row.kept_row >= 0) {
    float* const copy = kept + row.kept_row * vocab_size;
    for (int32_t id = begin + thread; id < end; id += kApplyThreads) copy[id] = x[id];
    __syncthreads();
  }
  if (row.repetition_penalty != 1.0f || row.frequency_penalty != 0.0f ||
      row.presence_penalty != 0.0f) {
    const uint16_t* const counts = states.counts + row.state * states.stride;
    constexpr auto kPerVec = static_cast<int32_t>(kCountsPerVec);
    // No id from vocab_size on is ever counted.
    for (int32_t id = begin + kPerVec * thread; id < end; id += kPerVec * kApplyThreads) {
      const uint4 vec = *reinterpret_cast<const uint4*>(counts + id);
      penalize_two(row, x + id, vec.x);
      penalize_two(row, x + id + 2, vec.y);
      penalize_two(row, x + id + 4, vec.z);
      penalize_two(row, x + id + 6, vec.w);
    }
    __syncthreads();
  }
  const SampleLists& lists = states.lists[row.state];
  for (int32_t i = thread; i < lists.num_biases; i += kApplyThreads) {
    const int32_t id = lists.bias_ids[i];
    if (is_own(id)) x[id] = __fadd_rn(x[id], lists.biases[i]);
  }
  if (!row.masks_early_ids) return;
  __syncthreads();
  for (int32_t i = thread; i < lists.num_early_ids; i += kApplyThreads) {
    const int32_t id = lists.early_ids[i];
    // What is no number stays, for the draw to find.
    if (is_own(id) && x[id] < INFINITY) x[id] = -INFINITY;
  }
}

}  // namespace

cudaError_t fill_states(const SampleStateFill* fills, int num_fills, const SampleStates& states,
                        cudaStream_t stream) {
  if (num_fills == 0) return cudaSuccess;
  return launch_overlapped(fill_kernel, {static_cast<unsigned>(num_fills), kFillThreads}, stream,
                           fills, states);
}

cudaError_t apply_states(float* logits, int64_t vocab_size, const SampleRow* rows, int num_rows,
                         const SampleStates& states, float* kept, cudaStream_t stream) {
  if (num_rows == 0) return cudaSuccess;
  const auto num_blocks = static_cast<unsigned>((vocab_size + kIdsPerBlock - 1) / kIdsPerBlock);
  return launch_overlapped(apply_kernel,
                           {dim3(num_blocks, static_cast<unsigned>(num_rows)), kApplyThreads},
                           stream, logits, vocab_size, rows, states, kept);
}

}  // namespace slipstream::cuda
