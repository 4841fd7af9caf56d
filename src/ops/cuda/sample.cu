// token = argmax (logit - max) / temperature + g, the Gumbel-max trick with the noise of
// sampling/sampler.h: g = -log(-log(u)), u from Philox4x32-10 with key = seed and counter =
// (position, choice, token id / 4, purpose 0).
//
// A block a row. One pass finds the largest logit; with a temperature a last one draws, computing
// noise only where it could still win: noise never exceeds 24 ln 2. Filters come between the two,
// see sample_filters.cuh. Bytes: the row once or twice, the second time from L2. Reference:
// Sampler.
#include "ops/cuda/common/launch.cuh"
#include "ops/cuda/sample.h"

#include <cfloat>

#include "ops/cuda/common/gumbel.cuh"
#include "ops/cuda/sample_filters.cuh"
#include "ops/cuda/sample_state.cuh"

namespace slipstream::cuda {
namespace {

constexpr int kThreads = kSampleThreads;
__device__ __forceinline__ DrawKey key_of(const SampleRow& row) {
  return {row.seed, row.position, row.choice_idx};
}
__device__ __forceinline__ uint32_t noise_of(const SampleRow& row, int32_t id) {
  const auto token = static_cast<uint32_t>(id);
  return philox4x32_10(key_of(row), token / 4).of(token);
}

struct Best {
  float score;
  int32_t id;
};
__device__ __forceinline__ void offer(Best& best, int32_t id, float score) {
  if (score > best.score || (score == best.score && id < best.id)) best = {score, id};
}

// The best of all threads; the lowest id of equals.
__device__ __forceinline__ Best block_best(Best best, Best* shares) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    const float score = __shfl_xor_sync(~0u, best.score, step);
    const int32_t id = __shfl_xor_sync(~0u, best.id, step);
    offer(best, id, score);
  }
  if ((threadIdx.x & 31) == 0) shares[threadIdx.x >> 5] = best;
  __syncthreads();
  best = shares[0];
  for (int i = 1; i < kThreads / 32; ++i) offer(best, shares[i].id, shares[i].score);
  __syncthreads();
  return best;
}

// Draws of a row: which tokens could still win, and the best one so far.
class Draw {
 public:
  // Begins with the token whose logit is the largest, which every filter keeps.
  __device__ Draw(const SampleRow& row, const Best& largest)
      : row_(row),
        max_(largest.score),
        inverse_(1.0f / row.temperature),
        least_scaled_(row.min_p > 0.0f ? logf(row.min_p) : -FLT_MAX),
        best_{gumbel(noise_of(row, largest.id)), largest.id} {}

  __device__ __forceinline__ bool may_win(float value) const {
    return (value - max_) * inverse_ + (kMaxGumbel + kGumbelSlack) >= best_.score;
  }
  __device__ __forceinline__ void offer_token(int32_t id, float value, uint32_t word) {
    if ((value - max_) * inverse_ + gumbel_bound(word) < best_.score) return;
    const float scaled = (value - max_) / row_.temperature;
    if (scaled >= least_scaled_) offer(best_, id, scaled + gumbel(word));
  }
  __device__ __forceinline__ void offer_token(int32_t id, float value) {
    offer_token(id, value, noise_of(row_, id));
  }
  __device__ const Best& best() const { return best_; }

 private:
  const SampleRow& row_;
  float max_;
  float inverse_;
  float least_scaled_;
  Best best_;
};

// This thread's best of a whole row. Four tokens share a draw of random words.
__device__ Best draw_all(const SampleRow& row, const float* x, int32_t size, const Best& largest) {
  Draw draw(row, largest);
  const bool aligned = reinterpret_cast<uintptr_t>(x) % 16 == 0;
  const int32_t groups = (size + 3) / 4;
  for (int32_t group = static_cast<int32_t>(threadIdx.x); group < groups; group += kThreads) {
    const int32_t id = 4 * group;
    float4 values;
    if (aligned && id + 3 < size) {
      values = reinterpret_cast<const float4*>(x)[group];
    } else {
      values = {x[id], id + 1 < size ? x[id + 1] : -INFINITY, id + 2 < size ? x[id + 2] : -INFINITY,
                id + 3 < size ? x[id + 3] : -INFINITY};
    }
    const float best = fmaxf(fmaxf(values.x, values.y), fmaxf(values.z, values.w));
    if (!draw.may_win(best)) continue;
    const Philox noise = philox4x32_10(key_of(row), static_cast<uint32_t>(group));
    draw.offer_token(id, values.x, noise.words[0]);
    draw.offer_token(id + 1, values.y, noise.words[1]);
    draw.offer_token(id + 2, values.z, noise.words[2]);
    draw.offer_token(id + 3, values.w, noise.words[3]);
  }
  return draw.best();
}

// This thread's best of what the row's filters leave.
__device__ Best draw_filtered(const SampleRow& row, const Tokens& all, const Best& largest) {
  __shared__ FilterScratch scratch;
  RowFilter filter(scratch, all, largest.score, row.temperature);
  if (row.top_k > 0 && row.top_k < all.count) filter.keep_best(row.top_k);
  if (row.top_p < 1.0f) filter.keep_mass(row.top_p);
  Draw draw(row, largest);
  for_each_token(filter.tokens(), [&](int32_t id, float value) {
    if (draw.may_win(value) && filter.keeps(value, id)) draw.offer_token(id, value);
  });
  return draw.best();
}

__global__ void __launch_bounds__(kThreads, 2)
    sample_kernel(const float* logits, int64_t vocab_size, const SampleRow* rows,
                  SampleStates states, int32_t* token_ids) {
  __shared__ Best shares[kThreads / 32];
  __shared__ int is_bad;
  begin_after_previous();
  const SampleRow row = rows[blockIdx.x];
  const float* const x = logits + row.row * vocab_size;
  const auto size = static_cast<int32_t>(vocab_size);
  if (threadIdx.x == 0) is_bad = 0;
  __syncthreads();
  Best best{-INFINITY, INT32_MAX};
  bool bad = false;
  for_each_token({x, nullptr, size}, [&](int32_t id, float value) {
    bad |= !(value < INFINITY);  // NaN and +infinity
    offer(best, id, value);
  });
  if (bad) is_bad = 1;
  best = block_best(best, shares);
  if (is_bad != 0 || best.score == -INFINITY) {
    if (threadIdx.x == 0) token_ids[blockIdx.x] = is_bad != 0 ? kBadLogits : kNoTokenLeft;
    return;
  }
  if (row.temperature > 0.0f) {
    const bool filtered = (row.top_k > 0 && row.top_k < size) || row.top_p < 1.0f;
    best = filtered ? draw_filtered(row, {x, nullptr, size}, best) : draw_all(row, x, size, best);
    best = block_best(best, shares);
  }
  if (threadIdx.x != 0) return;
  token_ids[blockIdx.x] = best.id;
  if (row.state >= 0) count_token(&states.counts[row.state * states.stride + best.id]);
}

// An id that is none, of a row that the host is about to give up on, becomes one that can be read.
__global__ void take_drawn_kernel(const int32_t* drawn, const int32_t* drawn_from, int num_tokens,
                                  int32_t* token_ids) {
  begin_after_previous();
  const int token = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (token >= num_tokens || drawn_from[token] < 0) return;
  token_ids[token] = max(drawn[drawn_from[token]], 0);
}

}  // namespace

cudaError_t take_drawn(const int32_t* drawn, const int32_t* drawn_from, int num_tokens,
                       int32_t* token_ids, cudaStream_t stream) {
  if (num_tokens == 0) return cudaSuccess;
  const auto num_blocks = static_cast<unsigned>((num_tokens + kThreads - 1) / kThreads);
  return launch_overlapped(take_drawn_kernel, {num_blocks, kThreads}, stream, drawn, drawn_from,
                           num_tokens, token_ids);
}

cudaError_t sample(const float* logits, int64_t vocab_size, const SampleRow* rows, int num_rows,
                   const SampleStates& states, int32_t* token_ids, cudaStream_t stream) {
  if (num_rows == 0) return cudaSuccess;
  return launch_overlapped(sample_kernel, {static_cast<unsigned>(num_rows), kThreads}, stream,
                           logits, vocab_size, rows, states, token_ids);
}

}  // namespace slipstream::cuda
