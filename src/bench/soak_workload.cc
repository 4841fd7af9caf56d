#include "bench/soak_workload.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "base/random.h"

namespace slipstream {
namespace {

constexpr uint64_t kNumPrefixes = 4;  // texts that prompts begin with
constexpr double kLongestPromptShare = 0.9;
constexpr double kGrowingPromptShare = 0.15;

// Streams of random numbers that have nothing to do with each other.
enum class Purpose : uint64_t { kArrival = 1, kRequest, kPrefix };

SplitMix64 random_of(uint64_t seed, Purpose purpose, uint64_t idx) {
  SplitMix64 by_purpose(seed ^ (static_cast<uint64_t>(purpose) << 56));
  return SplitMix64(by_purpose.next() + idx * 0xD1342543DE82EF95u);
}

// In [0, 1).
double uniform(SplitMix64& random) { return static_cast<double>(random.next() >> 11) * 0x1p-53; }

float between(SplitMix64& random, float low, float high) {
  return low + (high - low) * static_cast<float>(uniform(random));
}

bool chance(SplitMix64& random, double share) { return uniform(random) < share; }

// Exponential, with mean 1.
double random_gap(SplitMix64& random) { return -std::log1p(-uniform(random)); }

// From `low` to `high` with a long tail: every octave is as likely.
int64_t long_tail(SplitMix64& random, int64_t low, int64_t high) {
  if (high <= low) return high;
  const double ratio = (static_cast<double>(high) + 1.0) / static_cast<double>(low);
  const double drawn = static_cast<double>(low) * std::pow(ratio, uniform(random));
  return std::clamp(static_cast<int64_t>(drawn), low, high);
}

int32_t random_id(SplitMix64& random, const SoakShape& shape) {
  return static_cast<int32_t>(random.below(static_cast<uint64_t>(shape.vocab_size)));
}

// `count` different ids, or all there are.
std::vector<int32_t> different_ids(SplitMix64& random, const SoakShape& shape, uint64_t count) {
  std::vector<int32_t> ids;
  for (uint64_t i = 0; i < count; ++i) ids.push_back(random_id(random, shape));
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

enum class Wave : uint64_t { kBurst, kGrowing, kSteady };

// Waves of steady arrivals and of bursts, in which all come at once; in some bursts short prompts
// get long answers, so that sequences outgrow the pool that had room for them. Each wave ends in a
// lull, in which one request after the other has the engine for itself.
Wave draw_arrival(const SoakShape& shape, int64_t request_idx, SoakRequest& drawn) {
  const int64_t wave_len = std::max<int64_t>(32, int64_t{2} * shape.max_num_seqs);
  // Each in turn, so that no seed goes without one of them.
  const auto wave = static_cast<Wave>(static_cast<uint64_t>(request_idx / wave_len) % 3);
  SplitMix64 random = random_of(shape.seed, Purpose::kArrival, static_cast<uint64_t>(request_idx));
  const double gap = random_gap(random);
  if (request_idx % wave_len >= wave_len - wave_len / 16) {
    drawn.gap = 4.0 * gap;
    drawn.most_unfinished = 1;
    return wave;
  }
  drawn.gap = wave == Wave::kSteady ? gap : 0.0;
  drawn.most_unfinished = (wave == Wave::kSteady ? int64_t{1} : int64_t{3}) * shape.max_num_seqs;
  return wave;
}

void draw_prompt(const SoakShape& shape, Wave wave, SplitMix64& random, SoakRequest& drawn) {
  const double longest_share = wave == Wave::kGrowing ? kGrowingPromptShare : kLongestPromptShare;
  const auto longest = std::clamp<int64_t>(
      static_cast<int64_t>(longest_share * static_cast<double>(shape.max_model_len)), 1,
      shape.max_model_len - 1);
  const uint64_t kind = random.below(10);
  const double shared = kind < 4 ? 0.0 : kind < 7 ? 0.5 : 0.9;
  // A prefix of less than a block is shared with nobody.
  const int64_t shortest = shared > 0.0 ? std::min<int64_t>(40, longest) : 1;
  const int64_t len = long_tail(random, shortest, longest);
  drawn.num_shared_tokens = static_cast<int64_t>(shared * static_cast<double>(len));
  SplitMix64 prefix = random_of(shape.seed, Purpose::kPrefix, random.below(kNumPrefixes));
  for (int64_t i = 0; i < len; ++i) {
    drawn.request.prompt_token_ids.push_back(
        random_id(i < drawn.num_shared_tokens ? prefix : random, shape));
  }
}

void draw_filters(SplitMix64& random, SamplingParams& sampling) {
  const uint64_t kind = random.below(6);
  sampling.temperature = kind == 0 ? 0.0f : between(random, 0.3f, 1.5f);
  if (kind == 2 || kind == 5) sampling.top_k = 1 + static_cast<int32_t>(random.below(50));
  if (kind == 3 || kind == 5) sampling.top_p = between(random, 0.5f, 0.99f);
  if (kind == 4 || kind == 5) sampling.min_p = between(random, 0.01f, 0.2f);
  sampling.seed = random.next();
  sampling.choice_idx = static_cast<uint32_t>(random.below(3));
}

void draw_logit_changes(const SoakShape& shape, SplitMix64& random, SamplingParams& sampling) {
  if (chance(random, 0.25)) {
    sampling.repetition_penalty = between(random, 0.9f, 1.4f);
    sampling.presence_penalty = between(random, -0.5f, 1.0f);
    sampling.frequency_penalty = between(random, -0.5f, 1.0f);
  }
  if (chance(random, 0.2)) {
    for (const int32_t id : different_ids(random, shape, 1 + random.below(8))) {
      sampling.logit_bias.emplace_back(id, between(random, -5.0f, 5.0f));
    }
  }
  if (chance(random, 0.1)) {
    for (uint64_t i = 0; i < 3; ++i) {
      sampling.bad_token_ids.push_back({random_id(random, shape), random_id(random, shape)});
    }
  } else if (chance(random, 0.05)) {
    sampling.allowed_token_ids = different_ids(random, shape, 24);
  }
}

void draw_ends(const SoakShape& shape, Wave wave, SplitMix64& random, SoakRequest& drawn) {
  SamplingParams& sampling = drawn.request.sampling;
  const int64_t room = shape.max_model_len - std::ssize(drawn.request.prompt_token_ids);
  const int64_t longest = std::min(room, std::max<int64_t>(1, shape.max_model_len / 2));
  if (wave == Wave::kGrowing) {
    sampling.max_tokens =
        long_tail(random, std::min<int64_t>(64, room), std::min<int64_t>(256, room));
    sampling.ignore_eos = true;
    return;
  }
  const int64_t max_tokens = long_tail(random, std::min<int64_t>(8, longest), longest);
  if (!chance(random, 0.02)) sampling.max_tokens = max_tokens;  // else to the context's end
  sampling.ignore_eos = chance(random, 0.6);
  if (chance(random, 0.25)) sampling.stop_token_ids = different_ids(random, shape, 3);
  if (shape.has_tokenizer && chance(random, 0.15)) {
    for (const char* const text : {"the", ". ", "\n", "qu", "ing "}) {
      if (chance(random, 0.4)) sampling.stop.push_back(text);
    }
    sampling.include_stop_in_output = chance(random, 0.3);
  }
  // Not where few ids are allowed: all of them might be ids that end the answer.
  if (sampling.allowed_token_ids.empty() && chance(random, 0.15)) {
    sampling.min_tokens = std::min<int64_t>(max_tokens, 1 + static_cast<int64_t>(random.below(12)));
  }
}

void draw_logprobs(const SoakShape& shape, SplitMix64& random, SamplingParams& sampling) {
  const auto most = std::min<int64_t>({5, shape.max_logprobs, shape.vocab_size});
  const auto count = [&] {
    return static_cast<int32_t>(random.below(static_cast<uint64_t>(most) + 1));
  };
  if (chance(random, 0.3)) sampling.logprobs = count();
  if (chance(random, 0.08)) sampling.prompt_logprobs = count();
}

void draw_early_end(SplitMix64& random, SoakRequest& drawn) {
  const int64_t max_tokens = drawn.request.sampling.max_tokens.value_or(64);
  switch (random.below(16)) {
    case 0:
      drawn.cancel_after_tokens =
          static_cast<int64_t>(random.below(static_cast<uint64_t>(max_tokens)));
      break;
    case 1:
      drawn.cancel_after_gaps = 30.0 * random_gap(random);
      break;
    case 2:
      drawn.deadline_gaps = 60.0 * random_gap(random);
      break;
    default:
      break;
  }
}

}  // namespace

SoakRequest soak_request(const SoakShape& shape, int64_t request_idx) {
  SoakRequest drawn;
  const Wave wave = draw_arrival(shape, request_idx, drawn);
  SplitMix64 random = random_of(shape.seed, Purpose::kRequest, static_cast<uint64_t>(request_idx));
  draw_prompt(shape, wave, random, drawn);
  SamplingParams& sampling = drawn.request.sampling;
  draw_filters(random, sampling);
  draw_logit_changes(shape, random, sampling);
  draw_ends(shape, wave, random, drawn);
  draw_logprobs(shape, random, sampling);
  draw_early_end(random, drawn);
  const uint64_t rank = random.below(8);
  drawn.request.priority = rank == 0 ? -1 : rank == 1 ? 1 : 0;
  if (chance(random, 0.1)) drawn.request.cache_salt = "other";
  return drawn;
}

}  // namespace slipstream
