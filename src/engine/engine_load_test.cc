// Whatever happens around a request, its tokens are those it gives alone, bit for bit: other
// requests, chunks, batch sizes, threads, cancels and preemption.
#include <gtest/gtest.h>

#include <string_view>
#include <thread>

#include "engine/engine_test_util.h"

namespace slipstream {
namespace {

// Where the host computes, and where something that behaves like a device does.
constexpr const char* kHost = "eager";
constexpr const char* kDevice = "fake";

EngineOptions options_for(const std::string& executor) {
  EngineOptions options = tiny_options();
  options.executor = executor;
  return options;
}

// Steps run behind each other on a device as long as temperature alone makes the tokens of all, so
// most requests ask for no more; half of them may end where only their own tokens can tell.
std::vector<Request> device_requests() {
  std::vector<Request> requests = random_requests(64, 3);
  for (size_t i = 0; i < requests.size(); ++i) {
    SamplingParams& sampling = requests[i].sampling;
    if (i % 16 != 0) {
      const SamplingParams asked = sampling;
      sampling = SamplingParams();
      sampling.max_tokens = asked.max_tokens;
      sampling.seed = asked.seed;
      sampling.temperature = static_cast<float>(i % 3) * 0.5f;
    }
    if (i % 2 == 0)
      sampling.stop_token_ids = {static_cast<int32_t>(i), 95 - static_cast<int32_t>(i)};
  }
  return requests;
}

struct Load {
  int num_threads = 1;
  int32_t max_num_seqs = 16;
  int64_t max_num_batched_tokens = 512;
  int64_t num_blocks = 0;  // 0: enough
  bool one_ahead = true;
  bool at_once = false;  // no request goes on before all have arrived
};

class EngineLoadTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    Recorder recorder;
    EngineOptions options = options_for(GetParam());
    options.one_ahead = false;
    const auto engine = open_engine(options, recorder);
    for (const Request& request : requests_) {
      const auto id = engine->submit(request);
      ASSERT_TRUE(id.ok()) << id.status().message();
      alone_.push_back(recorder.wait(*id.operator->()));
    }
  }

  // All requests, arriving in bursts; some are cancelled on the way. Returns the engine's counts.
  EngineStats run(const Load& load, uint64_t seed) {
    EngineOptions options = options_for(GetParam());
    options.one_ahead = load.one_ahead;
    options.num_threads =
        std::min<int>(load.num_threads, static_cast<int>(std::thread::hardware_concurrency()));
    options.max_num_seqs = load.max_num_seqs;
    options.max_num_batched_tokens = load.max_num_batched_tokens;
    options.kv_cache_bytes = load.num_blocks * kBlockBytes;
    Recorder recorder;
    const auto engine = open_engine(options, recorder);
    SplitMix64 random(seed);
    if (load.at_once) recorder.hold();
    std::vector<RequestId> ids;
    std::map<RequestId, bool> cancelled;
    for (size_t i = 0; i < requests_.size(); ++i) {
      const auto id = engine->submit(requests_[i]);
      EXPECT_TRUE(id.ok()) << id.status().message();
      ids.push_back(id.value());
      if (random.below(4) == 0) std::this_thread::yield();
      if (random.below(8) == 0) {
        const RequestId victim = ids[random.below(ids.size())];
        engine->cancel(victim);
        engine->cancel(victim);
        cancelled[victim] = true;
      }
    }
    recorder.let_go();
    for (size_t i = 0; i < ids.size(); ++i) {
      const std::vector<TokenEvent> events = recorder.wait(ids[i]);
      expect_well_formed(events);
      const std::vector<TokenEvent>& alone = alone_[i];
      if (events.back().finish == FinishReason::kAbort) {
        EXPECT_TRUE(cancelled[ids[i]]);
        const std::vector<int32_t> got = token_ids(events);
        const std::vector<int32_t> all = token_ids(alone);
        EXPECT_LE(got.size(), all.size());
        EXPECT_TRUE(std::equal(got.begin(), got.end(), all.begin()));
      } else {
        expect_same_answer(alone, events);
      }
    }
    return engine->stats();
  }

  const std::vector<Request> requests_ =
      std::string_view(GetParam()) == kDevice ? device_requests() : random_requests(64, 3);
  std::vector<std::vector<TokenEvent>> alone_;
};

INSTANTIATE_TEST_SUITE_P(Executors, EngineLoadTest, testing::Values(kHost, kDevice),
                         [](const auto& param) { return std::string(param.param); });

TEST_P(EngineLoadTest, DefaultLimitsGiveTheTokensOfEachAlone) { run({}, 1); }

TEST_P(EngineLoadTest, PlanningAheadDoesNotChangeTokens) {
  run({.one_ahead = false}, 10);
  run({.max_num_seqs = 16, .num_blocks = 9, .one_ahead = false}, 11);
}

TEST_P(EngineLoadTest, ThreadsDoNotChangeTokens) { run({.num_threads = 2}, 2); }

TEST_P(EngineLoadTest, ChunkSizesDoNotChangeTokens) {
  run({.max_num_seqs = 4, .max_num_batched_tokens = 5}, 3);
  run({.max_num_seqs = 7, .max_num_batched_tokens = 17}, 4);
  run({.num_threads = 2, .max_num_seqs = 6, .max_num_batched_tokens = 33}, 5);
}

TEST_P(EngineLoadTest, BatchSizesDoNotChangeTokens) {
  run({.max_num_seqs = 1}, 6);
  run({.max_num_seqs = 64}, 7);
}

TEST_P(EngineLoadTest, PreemptionDoesNotChangeTokens) {
  const EngineStats stats = run({.max_num_seqs = 16, .num_blocks = 9, .at_once = true}, 8);
  EXPECT_GT(stats.num_preemptions, 0);
  EXPECT_EQ(stats.kv_blocks_total, 9);
  run({.num_threads = 2, .max_num_seqs = 8, .max_num_batched_tokens = 11, .num_blocks = 12}, 9);
}

}  // namespace
}  // namespace slipstream
