// Steps of running sequences take no memory: whatever a step needs is kept from the one before.
#include <gtest/gtest.h>

#include <array>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <new>

#include "engine/engine_test_util.h"

namespace {

thread_local int64_t num_allocations = 0;

void* allocate(size_t bytes) {
  ++num_allocations;
  if (void* const data = std::malloc(bytes == 0 ? 1 : bytes)) return data;
  throw std::bad_alloc();
}

}  // namespace

// Replaces the program's own, and counts.
void* operator new(size_t bytes) { return allocate(bytes); }
void* operator new[](size_t bytes) { return allocate(bytes); }
void operator delete(void* data) noexcept { std::free(data); }
void operator delete[](void* data) noexcept { std::free(data); }
void operator delete(void* data, size_t) noexcept { std::free(data); }
void operator delete[](void* data, size_t) noexcept { std::free(data); }

namespace slipstream {
namespace {

constexpr int kNumRequests = 32;
constexpr int kNumPromptTokens = 40;

// On the engine's thread: what has been allocated there by the end of each step of all requests.
class AllocationLog {
 public:
  EventSink sink() {
    return [this](std::span<const TokenEvent> events) {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return submitted_; });
      if (events.size() == kNumRequests && num_steps_ < counts_.size()) {
        counts_[num_steps_++] = num_allocations;
      }
      for (const TokenEvent& event : events) {
        if (event.finish != FinishReason::kNone) ++num_ended_;
      }
      changed_.notify_all();
    };
  }
  void let_go() {
    const std::lock_guard lock(mutex_);
    submitted_ = true;
    changed_.notify_all();
  }
  void wait_for_ends() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return num_ended_ == kNumRequests; });
  }
  size_t num_steps() const { return num_steps_; }
  int64_t between(size_t first_step, size_t last_step) const {
    return counts_[last_step] - counts_[first_step];
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool submitted_ = false;
  int num_ended_ = 0;
  std::array<int64_t, 512> counts_{};
  size_t num_steps_ = 0;
};

TEST(StepMemoryTest, AStepOfRunningSequencesAllocatesNothing) {
  EngineOptions options = tiny_options();
  options.model = SLIPSTREAM_SOURCE_DIR "/bench/shapes/llama-3.2-1b.json";
  options.load_format = "dummy";
  options.executor = "fake";
  options.max_num_seqs = kNumRequests;
  options.max_num_batched_tokens = 2 * kNumRequests * kNumPromptTokens;
  options.max_model_len = 1024;
  AllocationLog log;
  const auto engine = Engine::open(options, log.sink());
  ASSERT_TRUE(engine.ok()) << engine.status().message();
  SplitMix64 random(1);
  for (int i = 0; i < kNumRequests; ++i) {
    Request request;
    for (int t = 0; t < kNumPromptTokens; ++t) {
      request.prompt_token_ids.push_back(static_cast<int32_t>(random.below(1000)));
    }
    request.sampling.temperature = i % 2 == 0 ? 0.0f : 0.8f;
    request.sampling.ignore_eos = true;
    request.sampling.max_tokens = 240;
    ASSERT_TRUE((*engine.value()).submit(request).ok());
  }
  log.let_go();
  log.wait_for_ends();
  ASSERT_GT(log.num_steps(), 211u);
  // Tokens and blocks of a sequence are lists that double: from 160 to 320 tokens, from 8 to 16
  // blocks of 16. Between these steps no sequence reaches an end of one, and each takes blocks.
  EXPECT_EQ(log.between(180, 210), 0);
  EXPECT_GT(log.between(0, 211), 0) << "what is counted is the engine's thread";
}

}  // namespace
}  // namespace slipstream
