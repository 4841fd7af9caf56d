#include "sampling/logits_row.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
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

}  // namespace

Status check_logits(std::span<const float> logits) {
  // x * 0 is 0 for a finite x and NaN otherwise.
  std::array<float, kLanes> lanes{};
  size_t i = 0;
  for (; i + kLanes <= logits.size(); i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) lanes[lane] += logits[i + lane] * 0.0f;
  }
  float sum = 0.0f;
  for (const float lane : lanes) sum += lane;
  for (; i < logits.size(); ++i) sum += logits[i] * 0.0f;
  if (sum == 0.0f) return {};
  for (size_t id = 0; id < logits.size(); ++id) {
    if (std::isnan(logits[id])) return failed(str("the logit of token ", id, " is not a number"));
    if (logits[id] == std::numeric_limits<float>::infinity()) {
      return failed(str("the logit of token ", id, " is infinite"));
    }
  }
  return {};
}

float max_logit(std::span<const float> logits) {
  constexpr float kLowest = -std::numeric_limits<float>::infinity();
  std::array<float, kLanes> lanes;
  lanes.fill(kLowest);
  size_t i = 0;
  for (; i + kLanes <= logits.size(); i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      lanes[lane] = logits[i + lane] > lanes[lane] ? logits[i + lane] : lanes[lane];
    }
  }
  float best = kLowest;
  for (const float lane : lanes) best = std::max(best, lane);
  for (; i < logits.size(); ++i) best = std::max(best, logits[i]);
  return best;
}

int32_t argmax(std::span<const float> logits) {
  const float best = max_logit(logits);
  const auto found = std::find(logits.begin(), logits.end(), best);
  SLIPSTREAM_CHECK(found != logits.end(), "the largest logit is in the row");
  return static_cast<int32_t>(found - logits.begin());
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
