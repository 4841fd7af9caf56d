// Top-k, top-p and min-p of a row of logits, without sorting it: what they keep ends at one place
// in the order of tokens (larger logit first, lower id among equals), and that place is searched
// for.
//
// Tokens are counted in bins of equal distance from the largest, then those of the bin in which the
// place lies by the bits of their logits, 11 at a time, until all that are left are equal. Where
// few tokens come before the end of the first bin, they are gathered in shared memory, and
// everything later looks at those alone. Sums of probabilities are integers, so the order in which
// threads add does not matter. Bytes: the row once more for each pass; 2 passes as a rule, 5 for a
// filter that keeps more than kMostListed tokens. Bound: L2. Reference: Sampler::draw.
#pragma once

#include <cfloat>
#include <cstdint>

#include "ops/cuda/sample_tokens.cuh"

namespace slipstream::cuda {

constexpr int kFilterBins = 2048;
constexpr int kMostListed = 1024;

// Logits in the order of unsigned integers; the same for both zeros.
__device__ __forceinline__ uint32_t ordered_key(float value) {
  const uint32_t bits = __float_as_uint(value + 0.0f);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

// The last token that is kept.
struct Place {
  uint32_t key = 0;
  int32_t id = INT32_MAX;

  __device__ __forceinline__ bool covers(float value, int32_t token_id) const {
    const uint32_t other = ordered_key(value);
    return other > key || (other == key && token_id <= id);
  }
};

struct FilterScratch {
  uint32_t counts[kFilterBins];
  uint32_t offsets[kFilterBins];
  float values[kMostListed];
  int32_t ids[kMostListed];
  double warp_weights[kSampleThreads / 32];
  int32_t warp_counts[kSampleThreads / 32];
  int32_t num_listed;
  int32_t bin;
  int32_t count_through;
  double weight_before;
};

// How far tokens are from the best one. Of bin b at distance d in [b, b + 1) of 1/64 each, a
// token's probability relative to the best one's is exp(-b / 64) * (kLeast + offset) / kUnit.
struct Distances {
  static constexpr float kBinsPerNat = 64.0f;
  static constexpr float kUnit = 524288.0f;   // 2^19: 2^18 tokens of one bin fit 32 bits
  static constexpr uint32_t kLeast = 515899;  // 0.984 * kUnit; exp(-1 / 64) is 0.98450
  float max;
  float bins_per_logit;

  // Never smaller for a smaller logit.
  __device__ __forceinline__ float distance(float value) const {
    return (max - value) * bins_per_logit;
  }
  __device__ __forceinline__ int32_t bin(float value) const {
    return static_cast<int32_t>(fminf(distance(value), static_cast<float>(kFilterBins - 1)));
  }
  __device__ __forceinline__ uint32_t offset(float value, int32_t bin) const {
    const float part = __expf((static_cast<float>(bin) - distance(value)) / kBinsPerNat);
    return static_cast<uint32_t>(fmaxf(part * kUnit - static_cast<float>(kLeast), 0.0f));
  }
  // From the last bin on nothing is left that a sum of floats would show.
  __device__ __forceinline__ static double scale(int32_t bin) {
    return bin == kFilterBins - 1 ? 0.0 : exp(static_cast<double>(-bin) / kBinsPerNat);
  }
};

class RowFilter {
 public:
  __device__ RowFilter(FilterScratch& scratch, Tokens row, float max, float temperature)
      : scratch_(scratch), tokens_(row), distances_{max, Distances::kBinsPerNat / temperature} {}

  // Keeps the `count` best.
  __device__ void keep_best(int32_t count) { narrow<false>(static_cast<double>(count)); }
  // Keeps the shortest list, best first, that reaches this share of the probability.
  __device__ void keep_mass(float share) { narrow<true>(static_cast<double>(share)); }

  // All that is kept is among these; they may hold more.
  __device__ const Tokens& tokens() const { return tokens_; }
  __device__ bool keeps(float value, int32_t id) const { return place_.covers(value, id); }

 private:
  // Counts the tokens by index(id, value, bin of distance); those below 0 are passed over.
  template <bool kByMass, typename Index>
  __device__ void count(const Index& index) {
    for (int i = static_cast<int>(threadIdx.x); i < kFilterBins; i += kSampleThreads) {
      scratch_.counts[i] = 0;
      scratch_.offsets[i] = 0;
    }
    __syncthreads();
    for_each_token(tokens_, [&](int32_t id, float value) {
      const int32_t distance_bin = distances_.bin(value);
      const int32_t bin = index(id, value, distance_bin);
      if (bin < 0 || !place_.covers(value, id)) return;
      atomicAdd(&scratch_.counts[bin], 1u);
      if (kByMass) atomicAdd(&scratch_.offsets[bin], distances_.offset(value, distance_bin));
    });
    __syncthreads();
  }

  // What the tokens of a bin weigh together, in units of the bin of distance they lie in.
  template <bool kByMass>
  __device__ double weight(int32_t bin) const {
    const uint64_t count = scratch_.counts[bin];
    return static_cast<double>(kByMass ? count * Distances::kLeast + scratch_.offsets[bin] : count);
  }

  // Finds the first bin through which weights add up to `target`, else the last that holds a token:
  // scratch_.bin, count_through and weight_before. A share of the whole when kShare.
  template <bool kShare, typename Weight>
  __device__ double find_bin(double target, const Weight& weight_of) {
    constexpr int kPerThread = kFilterBins / kSampleThreads;
    const int warp = static_cast<int>(threadIdx.x) >> 5;
    const int lane = static_cast<int>(threadIdx.x) & 31;
    const int32_t first = static_cast<int32_t>(threadIdx.x) * kPerThread;
    double own_weight = 0.0;
    int32_t own_count = 0;
    for (int i = 0; i < kPerThread; ++i) {
      own_weight += weight_of(first + i);
      own_count += static_cast<int32_t>(scratch_.counts[first + i]);
    }
    double weight_through = own_weight;
    int32_t count_through = own_count;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const double below_weight = __shfl_up_sync(~0u, weight_through, step);
      const int32_t below_count = __shfl_up_sync(~0u, count_through, step);
      if (lane < step) continue;
      weight_through += below_weight;
      count_through += below_count;
    }
    if (lane == 31) {
      scratch_.warp_weights[warp] = weight_through;
      scratch_.warp_counts[warp] = count_through;
    }
    if (threadIdx.x == 0) scratch_.bin = INT32_MAX;
    __syncthreads();
    double total = 0.0;
    int32_t total_count = 0;
    for (int i = 0; i < kSampleThreads / 32; ++i) {
      if (i == warp) {
        weight_through += total;
        count_through += total_count;
      }
      total += scratch_.warp_weights[i];
      total_count += scratch_.warp_counts[i];
    }
    if constexpr (kShare) target *= total;
    // Of the threads that see the target reached, the first one's bin counts.
    double before = weight_through - own_weight;
    int32_t through = count_through - own_count;
    int32_t found = -1;
    int32_t found_through = 0;
    double found_before = 0.0;
    for (int i = 0; i < kPerThread; ++i) {
      const double here = weight_of(first + i);
      const auto tokens_here = static_cast<int32_t>(scratch_.counts[first + i]);
      through += tokens_here;
      const bool reached = tokens_here > 0 && (before + here >= target || through == total_count);
      if (reached && found < 0) {
        found = first + i;
        found_through = through;
        found_before = before;
      }
      before += here;
    }
    if (found >= 0) atomicMin(&scratch_.bin, found);
    __syncthreads();
    if (found >= 0 && found == scratch_.bin) {
      scratch_.count_through = found_through;
      scratch_.weight_before = found_before;
    }
    __syncthreads();
    return target - scratch_.weight_before;
  }

  // From now on only tokens of bins up to `last` are looked at.
  __device__ void gather(int32_t last) {
    if (threadIdx.x == 0) scratch_.num_listed = 0;
    __syncthreads();
    for_each_token(tokens_, [&](int32_t id, float value) {
      if (distances_.bin(value) > last || !place_.covers(value, id)) return;
      const int32_t at = atomicAdd(&scratch_.num_listed, 1);
      scratch_.values[at] = value;
      scratch_.ids[at] = id;
    });
    __syncthreads();
    tokens_ = {scratch_.values, scratch_.ids, scratch_.num_listed};
  }

  template <bool kByMass>
  __device__ void narrow(double target) {
    count<kByMass>([](int32_t, float, int32_t bin) { return bin; });
    double left = find_bin<kByMass>(target, [&](int32_t bin) {
      return weight<kByMass>(bin) * (kByMass ? Distances::scale(bin) : 1.0);
    });
    const int32_t in_bin = scratch_.bin;
    if (kByMass) left /= Distances::scale(in_bin);
    if (tokens_.ids == nullptr && scratch_.count_through <= kMostListed) gather(in_bin);
    uint32_t key = 0;
    int known_bits = 0;
    for (const int bits : {11, 11, 10}) {
      const int shift = 32 - known_bits - bits;
      const uint32_t digits = (1u << bits) - 1;
      __syncthreads();
      count<kByMass>([&](int32_t, float value, int32_t bin) {
        const uint32_t own = ordered_key(value);
        const bool matches = bin == in_bin && (known_bits == 0 || own >> (32 - known_bits) == key);
        return matches ? static_cast<int32_t>(digits - (own >> shift & digits)) : -1;
      });
      left = find_bin<false>(left, [&](int32_t bin) { return weight<kByMass>(bin); });
      key = key << bits | (digits - static_cast<uint32_t>(scratch_.bin));
      known_bits += bits;
    }
    const auto num_equal = static_cast<int32_t>(scratch_.counts[scratch_.bin]);
    const double each = weight<kByMass>(scratch_.bin) / num_equal;
    const double wanted = fmin(fmax(ceil(left / each), 1.0), static_cast<double>(num_equal));
    __syncthreads();
    end_at(key, static_cast<int32_t>(wanted), num_equal);
  }

  // The place is that of the `wanted`-th of the tokens with this logit, by id.
  __device__ void end_at(uint32_t key, int32_t wanted, int32_t num_equal) {
    int32_t id = INT32_MAX;
    if (wanted < num_equal) {
      constexpr int kLowBits = 7;  // ids of 18 bits: those of any vocabulary
      const auto equal = [&](float value) { return ordered_key(value) == key; };
      count<false>([&](int32_t id, float value, int32_t) {
        return equal(value) ? min(id >> kLowBits, kFilterBins - 1) : -1;
      });
      const double left = find_bin<false>(wanted, [&](int32_t bin) { return weight<false>(bin); });
      const int32_t high = scratch_.bin;
      __syncthreads();
      count<false>([&](int32_t id, float value, int32_t) {
        const bool matches = equal(value) && min(id >> kLowBits, kFilterBins - 1) == high;
        return matches ? min(id - (high << kLowBits), kFilterBins - 1) : -1;
      });
      find_bin<false>(left, [&](int32_t bin) { return weight<false>(bin); });
      id = (high << kLowBits) + scratch_.bin;
      __syncthreads();
    } else if (place_.key == key) {
      id = place_.id;
    }
    place_ = {key, id};
  }

  FilterScratch& scratch_;
  Tokens tokens_;
  Place place_;
  Distances distances_;
};

}  // namespace slipstream::cuda
