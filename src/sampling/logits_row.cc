#include "sampling/logits_row.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>

#include "base/check.h"
#include "base/strings.h"

namespace slipstream {
namespace {

// Loops run over lanes, so that compilers vectorise them without reordering any sum.
constexpr size_t kLanes = 16;
// Lanes are added up in double this often: float sums of a long row would lose digits.
constexpr size_t kSumBlock = 1024;
// Rows are split into blocks whose largest values bound the k-th best from below.
constexpr size_t kTopBlock = 32;

constexpr float kMasked = -std::numeric_limits<float>::infinity();

// Vectors by name where compilers leave a loop over lanes scalar: maxima and searches.
using Float4 = float __attribute__((vector_size(16)));
using Int4 = int32_t __attribute__((vector_size(16)));
constexpr size_t kVectors = kLanes / 4;

Float4 load4(const float* values) {
  Float4 vector;
  std::memcpy(&vector, values, sizeof(vector));
  return vector;
}

float largest(const std::array<Float4, kVectors>& vectors) {
  float best = kMasked;
  for (const Float4& vector : vectors) {
    for (int lane = 0; lane < 4; ++lane) best = std::max(best, vector[lane]);
  }
  return best;
}

int32_t any_bits(const std::array<Int4, kVectors>& vectors) {
  Int4 all = vectors[0];
  for (size_t k = 1; k < kVectors; ++k) all |= vectors[k];
  return all[0] | all[1] | all[2] | all[3];
}

// PlaceFinder sorts keys into buckets by their first bits, then the keys of one bucket by their
// next ones, and so on: 11, 11 and 10 of 32.
constexpr int kBucketBits = 11;
constexpr size_t kNumBuckets = size_t{1} << kBucketBits;
constexpr int kFirstShift = 32 - kBucketBits;
constexpr int kSecondShift = kFirstShift - kBucketBits;

// Larger for larger floats; equal for both zeros.
uint32_t order_key(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x + 0.0f);
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
}

size_t bucket_of(uint32_t key, int shift) { return (key >> shift) % kNumBuckets; }

// The best bucket at which the sum from the best one down reaches `wanted`; the last that has
// anything when none does. `sum` becomes the sum before it.
size_t crossing(std::span<const double> buckets, double wanted, double& sum) {
  size_t found = 0;
  double before = sum;
  for (size_t bucket = buckets.size(); bucket-- > 0;) {
    if (buckets[bucket] == 0.0) continue;
    found = bucket;
    sum = before;
    if (before + buckets[bucket] >= wanted) break;
    before += buckets[bucket];
  }
  return found;
}

}  // namespace

Result<float> checked_max(std::span<const float> logits) {
  // x * 0 is a zero for a finite x and NaN otherwise, so any bit but the sign tells.
  std::array<Float4, kVectors> best;
  std::array<Int4, kVectors> bits{};
  best.fill(Float4{} + kMasked);
  size_t i = 0;
  for (; i + kLanes <= logits.size(); i += kLanes) {
    for (size_t k = 0; k < kVectors; ++k) {
      const Float4 x = load4(&logits[i + 4 * k]);
      bits[k] |= std::bit_cast<Int4>(x * 0.0f);
      best[k] = x > best[k] ? x : best[k];
    }
  }
  float max = largest(best);
  int32_t all_bits = any_bits(bits);
  for (; i < logits.size(); ++i) {
    all_bits |= std::bit_cast<int32_t>(logits[i] * 0.0f);
    max = std::max(max, logits[i]);
  }
  if ((all_bits & 0x7FFFFFFF) == 0) return max;
  for (size_t id = 0; id < logits.size(); ++id) {
    if (std::isnan(logits[id])) return failed(str("the logit of token ", id, " is not a number"));
    if (logits[id] == -kMasked) return failed(str("the logit of token ", id, " is infinite"));
  }
  return max;
}

float max_logit(std::span<const float> logits) {
  std::array<Float4, kVectors> best;
  best.fill(Float4{} + kMasked);
  size_t i = 0;
  for (; i + kLanes <= logits.size(); i += kLanes) {
    for (size_t k = 0; k < kVectors; ++k) {
      const Float4 x = load4(&logits[i + 4 * k]);
      best[k] = x > best[k] ? x : best[k];
    }
  }
  float max = largest(best);
  for (; i < logits.size(); ++i) max = std::max(max, logits[i]);
  return max;
}

int32_t find_logit(std::span<const float> logits, float logit) {
  const Float4 wanted = Float4{} + logit;
  size_t begin = 0;
  for (; begin + kLanes <= logits.size(); begin += kLanes) {
    std::array<Int4, kVectors> equal;
    for (size_t k = 0; k < kVectors; ++k) equal[k] = load4(&logits[begin + 4 * k]) == wanted;
    if (any_bits(equal) != 0) break;
  }
  while (begin < logits.size() && logits[begin] != logit) ++begin;
  SLIPSTREAM_CHECK(begin < logits.size(), "the logit is in the row");
  return static_cast<int32_t>(begin);
}

float fast_exp(float x) {
  // exp(x) = 2^n * exp(r), |r| <= ln(2) / 2; n by adding and taking away 1.5 * 2^23.
  constexpr float kRound = 12582912.0f;
  constexpr float kLog2E = 1.44269504f;
  constexpr float kLn2High = 0.693359375f;
  constexpr float kLn2Low = -2.12194440e-4f;
  // max(x, -87) on bit patterns, where a float comparison would keep compilers from vectorising:
  // as unsigned numbers negative floats grow downwards, and positive ones lie below them all.
  constexpr uint32_t kLowest = std::bit_cast<uint32_t>(-87.0f);
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  x = std::bit_cast<float>(bits > kLowest ? kLowest : bits);
  const float shifted = x * kLog2E + kRound;
  const float n = shifted - kRound;
  const float r = (x - n * kLn2High) - n * kLn2Low;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const uint32_t exponent =
      std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(kRound) + 127u;
  return p * std::bit_cast<float>(exponent << 23);
}

double sum_exp(std::span<const float> logits, float max, float temperature) {
  std::array<float, kSumBlock> terms;
  double sum = 0.0;
  for (size_t begin = 0; begin < logits.size(); begin += kSumBlock) {
    const size_t count = std::min(kSumBlock, logits.size() - begin);
    const float* const block = logits.data() + begin;
    for (size_t i = 0; i < count; ++i) terms[i] = fast_exp((block[i] - max) / temperature);
    std::array<float, kLanes> lanes{};
    size_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
      for (size_t lane = 0; lane < kLanes; ++lane) lanes[lane] += terms[i + lane];
    }
    for (const float lane : lanes) sum += static_cast<double>(lane);
    for (; i < count; ++i) sum += static_cast<double>(terms[i]);
  }
  return sum;
}

std::span<const int32_t> TopTokens::select(std::span<const float> logits, int64_t count) {
  const size_t wanted = std::min(static_cast<size_t>(std::max<int64_t>(count, 0)), logits.size());
  ids_.clear();
  if (wanted == 0) return ids_;
  const size_t num_blocks = logits.size() / kTopBlock;
  if (wanted <= num_blocks) {
    block_max_.clear();
    for (size_t block = 0; block < num_blocks; ++block) {
      block_max_.push_back(max_logit(logits.subspan(block * kTopBlock, kTopBlock)));
    }
    // `wanted` blocks reach this value, so at least `wanted` tokens do.
    std::nth_element(block_max_.begin(), block_max_.begin() + static_cast<int64_t>(wanted) - 1,
                     block_max_.end(), std::greater<>());
    const float threshold = block_max_[wanted - 1];
    for (size_t id = 0; id < logits.size(); ++id) {
      if (logits[id] >= threshold) ids_.push_back(static_cast<int32_t>(id));
    }
  } else {
    ids_.resize(logits.size());
    std::iota(ids_.begin(), ids_.end(), 0);
  }
  const auto better = [&](int32_t a, int32_t b) {
    const float x = logits[static_cast<size_t>(a)];
    const float y = logits[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  };
  if (ids_.size() > wanted) {
    std::nth_element(ids_.begin(), ids_.begin() + static_cast<int64_t>(wanted), ids_.end(), better);
    ids_.resize(wanted);
  }
  std::sort(ids_.begin(), ids_.end(), better);
  return ids_;
}

RowPlace PlaceFinder::nth(std::span<const float> logits, int64_t count) {
  weights_.assign(logits.size(), 1.0f);
  return find(logits, static_cast<double>(count));
}

RowPlace PlaceFinder::mass(std::span<const float> logits, const Mass& mass) {
  weights_.resize(logits.size());
  for (size_t id = 0; id < logits.size(); ++id) {
    weights_[id] = fast_exp((logits[id] - mass.max) / mass.temperature);
  }
  double total = 0.0;
  for (size_t id = 0; id < logits.size(); ++id) {
    if (!mass.within.covers(logits[id], static_cast<int32_t>(id))) weights_[id] = 0.0f;
    total += static_cast<double>(weights_[id]);
  }
  const RowPlace found = find(logits, static_cast<double>(mass.share) * total);
  return mass.within.covers(found.logit, found.id) ? found : mass.within;
}

// The first place, best first, at which the weights reach `wanted`. Every sum runs over ids in
// order, so it depends on the row alone.
RowPlace PlaceFinder::find(std::span<const float> logits, double wanted) {
  buckets_.assign(kNumBuckets, 0.0);
  for (size_t id = 0; id < logits.size(); ++id) {
    buckets_[bucket_of(order_key(logits[id]), kFirstShift)] += static_cast<double>(weights_[id]);
  }
  double sum = 0.0;
  const size_t first = crossing(buckets_, wanted, sum);
  entries_.clear();
  for (size_t id = 0; id < logits.size(); ++id) {
    const uint32_t key = order_key(logits[id]);
    if (bucket_of(key, kFirstShift) != first) continue;
    entries_.push_back({key, static_cast<int32_t>(id), weights_[id]});
  }
  sum = narrow(kSecondShift, wanted, sum);
  sum = narrow(0, wanted, sum);
  // What is left has one logit.
  for (const Entry& entry : entries_) {
    sum += static_cast<double>(entry.weight);
    if (sum >= wanted) return {logits[static_cast<size_t>(entry.id)], entry.id};
  }
  const int32_t last_id = entries_.back().id;  // sums in another order may fall short by rounding
  return {logits[static_cast<size_t>(last_id)], last_id};
}

// Keeps the entries of one bucket; returns the sum before it.
double PlaceFinder::narrow(int shift, double wanted, double sum) {
  buckets_.assign(kNumBuckets, 0.0);
  for (const Entry& entry : entries_) {
    buckets_[bucket_of(entry.key, shift)] += static_cast<double>(entry.weight);
  }
  const size_t found = crossing(buckets_, wanted, sum);
  std::erase_if(entries_, [&](const Entry& entry) { return bucket_of(entry.key, shift) != found; });
  return sum;
}

TokenLogprobs token_logprobs(std::span<const float> logits, int32_t id, int32_t num_top,
                             TopTokens& top_tokens) {
  SLIPSTREAM_CHECK(id >= 0 && static_cast<size_t>(id) < logits.size(), "the token is in the row");
  const float max = max_logit(logits);
  const double log_sum = static_cast<double>(max) + std::log(sum_exp(logits, max, 1.0f));
  const auto logprob = [&](int32_t token) {
    return static_cast<float>(static_cast<double>(logits[static_cast<size_t>(token)]) - log_sum);
  };
  TokenLogprobs result;
  result.id = id;
  result.logprob = logprob(id);
  for (const int32_t token : top_tokens.select(logits, num_top)) {
    result.top.emplace_back(token, logprob(token));
  }
  return result;
}

}  // namespace slipstream
