// Whatever happens around a request, its tokens are those it gives alone, bit for bit: other
// requests, chunks, batch sizes, threads, cancels and preemption.
#include <gtest/gtest.h>

#include <thread>

#include "engine/engine_test_util.h"

namespace slipstream {
namespace {

struct Load {
  int num_threads = 1;
  int32_t max_num_seqs = 16;
  int64_t max_num_batched_tokens = 512;
  int64_t num_blocks = 0;  // 0: enough
};

class EngineLoadTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    requests_ = new std::vector<Request>(random_requests(64, 3));
    alone_ = new std::vector<std::vector<TokenEvent>>();
    Recorder recorder;
    const auto engine = open_engine(tiny_options(), recorder);
    for (const Request& request : *requests_) {
      const auto id = engine->submit(request);
      ASSERT_TRUE(id.ok()) << id.status().message();
      alone_->push_back(recorder.wait(*id.operator->()));
    }
  }
  static void TearDownTestSuite() {
    delete requests_;
    delete alone_;
  }

  // All requests, arriving in bursts; some are cancelled on the way. Returns the engine's counts.
  static EngineStats run(const Load& load, uint64_t seed) {
    EngineOptions options = tiny_options();
    options.num_threads =
        std::min<int>(load.num_threads, static_cast<int>(std::thread::hardware_concurrency()));
    options.max_num_seqs = load.max_num_seqs;
    options.max_num_batched_tokens = load.max_num_batched_tokens;
    options.kv_cache_bytes = load.num_blocks * kBlockBytes;
    Recorder recorder;
    const auto engine = open_engine(options, recorder);
    SplitMix64 random(seed);
    std::vector<RequestId> ids;
    std::map<RequestId, bool> cancelled;
    for (size_t i = 0; i < requests_->size(); ++i) {
      const auto id = engine->submit((*requests_)[i]);
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
    for (size_t i = 0; i < ids.size(); ++i) {
      const std::vector<TokenEvent> events = recorder.wait(ids[i]);
      expect_well_formed(events);
      const std::vector<TokenEvent>& alone = (*alone_)[i];
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

  static std::vector<Request>* requests_;
  static std::vector<std::vector<TokenEvent>>* alone_;
};
std::vector<Request>* EngineLoadTest::requests_ = nullptr;
std::vector<std::vector<TokenEvent>>* EngineLoadTest::alone_ = nullptr;

TEST_F(EngineLoadTest, DefaultLimitsGiveTheTokensOfEachAlone) { run({}, 1); }

TEST_F(EngineLoadTest, ThreadsDoNotChangeTokens) { run({.num_threads = 2}, 2); }

TEST_F(EngineLoadTest, ChunkSizesDoNotChangeTokens) {
  run({.max_num_seqs = 4, .max_num_batched_tokens = 5}, 3);
  run({.max_num_seqs = 7, .max_num_batched_tokens = 17}, 4);
  run({.num_threads = 2, .max_num_seqs = 6, .max_num_batched_tokens = 33}, 5);
}

TEST_F(EngineLoadTest, BatchSizesDoNotChangeTokens) {
  run({.max_num_seqs = 1}, 6);
  run({.max_num_seqs = 64}, 7);
}

TEST_F(EngineLoadTest, PreemptionDoesNotChangeTokens) {
  const EngineStats stats = run({.max_num_seqs = 16, .num_blocks = 9}, 8);
  EXPECT_GT(stats.num_preemptions, 0);
  EXPECT_EQ(stats.kv_blocks_total, 9);
  run({.num_threads = 2, .max_num_seqs = 8, .max_num_batched_tokens = 11, .num_blocks = 12}, 9);
}

}  // namespace
}  // namespace slipstream
