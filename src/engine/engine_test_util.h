// What the engine's tests share: a tiny model, a sink that collects events, random requests.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "base/random.h"
#include "slipstream/engine.h"

namespace slipstream {

constexpr int32_t kVocab = 96;
constexpr int64_t kContext = 128;
// Of the tiny llama: K and V, 2 layers, 4 KV heads of 8, 16 positions, f16.
constexpr int64_t kBlockBytes = 2 * 2 * 4 * 8 * 16 * 2;

inline std::string tiny_model() { return SLIPSTREAM_SOURCE_DIR "/tests/golden/models/llama"; }
inline std::string shared_file(const std::string& name) {
  return SLIPSTREAM_SOURCE_DIR "/../shared/" + name;
}

// Collects events; the sink of every engine here.
class Recorder {
 public:
  EventSink sink() {
    return [this](std::span<const TokenEvent> events) {
      std::unique_lock lock(mutex_);
      for (const TokenEvent& event : events) {
        events_[event.request].push_back(event);
        if (event.finish != FinishReason::kNone) ++num_ended_;
        held_ = held_ || std::ssize(events_[event.request]) == num_events_to_hold_;
      }
      changed_.notify_all();
      changed_.wait(lock, [this] { return !held_; });
    };
  }
  // Keeps the engine thread inside the sink from the next step with events on.
  void hold() {
    const std::lock_guard lock(mutex_);
    held_ = true;
  }
  // The same from the step on in which a request gets its `count`th event.
  void hold_at(size_t count) {
    const std::lock_guard lock(mutex_);
    num_events_to_hold_ = static_cast<int64_t>(count);
  }
  void let_go() {
    const std::lock_guard lock(mutex_);
    held_ = false;
    num_events_to_hold_ = 0;
    changed_.notify_all();
  }
  std::vector<TokenEvent> wait(RequestId id) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] {
      return !events_[id].empty() && events_[id].back().finish != FinishReason::kNone;
    });
    return events_[id];
  }
  void wait_for_token(RequestId id) { wait_for_tokens(id, 1); }
  void wait_for_tokens(RequestId id, size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return events_[id].size() >= count; });
  }
  std::vector<TokenEvent> events(RequestId id) {
    const std::lock_guard lock(mutex_);
    return events_[id];
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<RequestId, std::vector<TokenEvent>> events_;
  int64_t num_ended_ = 0;
  bool held_ = false;
  int64_t num_events_to_hold_ = 0;
};

inline EngineOptions tiny_options() {
  EngineOptions options;
  options.model = tiny_model();
  options.device = "cpu";
  options.skip_tokenizer_init = true;
  options.num_threads = 1;
  options.seed = 5;
  return options;
}

inline std::unique_ptr<Engine> open_engine(const EngineOptions& options, Recorder& recorder) {
  auto engine = Engine::open(options, recorder.sink());
  EXPECT_TRUE(engine.ok()) << engine.status().message();
  return engine.ok() ? std::move(engine).value() : nullptr;
}

inline std::vector<int32_t> token_ids(const std::vector<TokenEvent>& events) {
  std::vector<int32_t> ids;
  for (const TokenEvent& event : events) {
    if (event.token_id >= 0) ids.push_back(event.token_id);
  }
  return ids;
}

inline std::string text_of(const std::vector<TokenEvent>& events) {
  std::string text;
  for (const TokenEvent& event : events) text += event.text;
  return text;
}

// One terminal, last; one first, first; times in order.
inline void expect_well_formed(const std::vector<TokenEvent>& events) {
  ASSERT_FALSE(events.empty());
  for (size_t i = 0; i < events.size(); ++i) {
    EXPECT_EQ(events[i].first, i == 0);
    EXPECT_EQ(events[i].finish != FinishReason::kNone, i + 1 == events.size());
    EXPECT_GT(events[i].time_ns, 0);
    if (i > 0) {
      EXPECT_GE(events[i].time_ns, events[i - 1].time_ns);
    }
  }
}

inline Request random_request(SplitMix64& random) {
  Request request;
  const uint64_t num_prompt_tokens = 1 + random.below(random.below(3) == 0 ? 90 : 20);
  for (uint64_t i = 0; i < num_prompt_tokens; ++i) {
    request.prompt_token_ids.push_back(static_cast<int32_t>(random.below(kVocab)));
  }
  SamplingParams& sampling = request.sampling;
  sampling.max_tokens =
      1 + static_cast<int64_t>(random.below(static_cast<uint64_t>(kContext) - num_prompt_tokens));
  sampling.max_tokens = std::min<int64_t>(*sampling.max_tokens, 80);
  sampling.seed = random.next();
  switch (random.below(5)) {
    case 0:
      sampling.temperature = 0.0f;
      break;
    case 1:
      sampling.top_k = 5;
      break;
    case 2:
      sampling.top_p = 0.8f;
      break;
    case 3:
      sampling.repetition_penalty = 1.3f;
      sampling.frequency_penalty = 0.2f;
      break;
    default:
      sampling.min_p = 0.05f;
  }
  if (random.below(4) == 0) sampling.logprobs = 2;
  if (random.below(6) == 0) sampling.prompt_logprobs = 1;
  sampling.ignore_eos = random.below(2) == 0;
  return request;
}

inline std::vector<Request> random_requests(size_t count, uint64_t seed) {
  SplitMix64 random(seed);
  std::vector<Request> requests;
  for (size_t i = 0; i < count; ++i) requests.push_back(random_request(random));
  return requests;
}

inline void expect_same_logprobs(const TokenLogprobs& a, const TokenLogprobs& b) {
  EXPECT_EQ(a.id, b.id);
  EXPECT_EQ(a.logprob, b.logprob);
  EXPECT_EQ(a.top, b.top);
}

// Tokens, log-probabilities and reasons, bit for bit.
inline void expect_same_answer(const std::vector<TokenEvent>& alone,
                               const std::vector<TokenEvent>& got) {
  ASSERT_EQ(token_ids(got), token_ids(alone));
  ASSERT_EQ(got.size(), alone.size());
  EXPECT_EQ(got.back().finish, alone.back().finish);
  ASSERT_EQ(got[0].prompt_logprobs.size(), alone[0].prompt_logprobs.size());
  for (size_t i = 0; i < got[0].prompt_logprobs.size(); ++i) {
    expect_same_logprobs(got[0].prompt_logprobs[i], alone[0].prompt_logprobs[i]);
  }
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_EQ(got[i].has_logprobs, alone[i].has_logprobs);
    if (got[i].has_logprobs) expect_same_logprobs(got[i].logprobs, alone[i].logprobs);
  }
}

}  // namespace slipstream
