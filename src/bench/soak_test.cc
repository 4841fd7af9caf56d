// Whole soaks on a tiny model: one that finds nothing, and one for each sort of planted fault.
#include "bench/soak.h"

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace slipstream {
namespace {

EngineOptions tiny_options() {
  EngineOptions options;
  options.model = SLIPSTREAM_SOURCE_DIR "/tests/golden/models/llama";
  options.device = "cpu";
  options.skip_tokenizer_init = true;
  options.num_threads = 1;
  return options;
}

SoakOptions short_soak() {
  SoakOptions options;
  options.seed = 11;
  options.num_requests = 96;
  options.idle_s = 0.5;
  return options;
}

// An engine whose counts may be tampered with, and which says that it runs on `device`.
class TamperedEngine : public Engine {
 public:
  TamperedEngine(Engine& engine, std::function<void(EngineStats&)> tamper,
                 const std::string& device)
      : engine_(engine), tamper_(std::move(tamper)), model_(engine.model()) {
    model_.device = device;
  }
  Result<RequestId> submit(Request request) override { return engine_.submit(std::move(request)); }
  void cancel(RequestId id) override { engine_.cancel(id); }
  EngineStats stats() const override {
    EngineStats stats = engine_.stats();
    if (tamper_) tamper_(stats);
    return stats;
  }
  const ModelInfo& model() const override { return model_; }
  const std::shared_ptr<const Tokenizer>& tokenizer() const override { return engine_.tokenizer(); }
  double measure_read_gb_s() override { return 0.0; }

 private:
  Engine& engine_;
  std::function<void(EngineStats&)> tamper_;
  ModelInfo model_;
};

struct Planted {
  std::function<void(std::vector<TokenEvent>&)> in_events = {};  // of one step
  std::function<void(EngineStats&)> in_stats = {};
  std::string device = "cpu";
};

struct Outcome {
  SoakReport report;
  std::vector<std::string> faults;
  bool says(const std::string& words) const {
    for (const std::string& fault : faults) {
      if (fault.find(words) != std::string::npos) return true;
    }
    return false;
  }
};

Outcome run_soak(const Planted& planted, const SoakOptions& soak_options = short_soak(),
                 EngineOptions engine_options = tiny_options()) {
  Outcome outcome;
  SoakHooks hooks;
  hooks.on_fault = [&outcome](const std::string& words) { outcome.faults.push_back(words); };
  Soak soak(soak_options, hooks);
  const Result<EngineOptions> options = soak_engine_options(engine_options);
  EXPECT_TRUE(options.ok()) << options.status().message();
  const EventSink sink = soak.sink();
  const auto engine =
      Engine::open(options.value(), [&planted, &sink](std::span<const TokenEvent> events) {
        std::vector<TokenEvent> list(events.begin(), events.end());
        if (planted.in_events) planted.in_events(list);
        sink(list);
      });
  EXPECT_TRUE(engine.ok()) << engine.status().message();
  TamperedEngine tampered(*engine.value(), planted.in_stats, planted.device);
  outcome.report = soak.run(tampered, options.value());
  return outcome;
}

// Changes the `count`th event that `is_wanted`, and says by the result whether it stays.
std::function<void(std::vector<TokenEvent>&)> nth_event(
    int count, std::function<bool(const TokenEvent&)> is_wanted,
    std::function<bool(TokenEvent&)> change) {
  auto left = std::make_shared<int>(count);
  return [=](std::vector<TokenEvent>& events) {
    for (size_t i = 0; i < events.size(); ++i) {
      if (!is_wanted(events[i]) || (*left)-- != 0) continue;
      if (!change(events[i])) events.erase(events.begin() + static_cast<int64_t>(i));
      return;
    }
  };
}

bool is_inner_token(const TokenEvent& event) {
  return event.token_id >= 0 && !event.first && event.finish == FinishReason::kNone;
}

TEST(SoakTest, ASoundEnginePassesAndMeetsWhatTheLoadIsFor) {
  SoakOptions options = short_soak();
  options.num_requests = 300;
  const Outcome outcome = run_soak({}, options);
  for (const std::string& fault : outcome.faults) ADD_FAILURE() << fault;
  const SoakReport& r = outcome.report;
  EXPECT_TRUE(r.passed());
  EXPECT_EQ(r.num_requests, 300);
  EXPECT_GT(r.num_compared, 250);
  EXPECT_EQ(r.num_compared_tokens, r.num_same_tokens);
  EXPECT_GE(r.num_tokens, r.num_compared_tokens);
  EXPECT_GT(r.num_preemptions, 0);
  EXPECT_GT(r.num_cancelled, 0);
  EXPECT_GT(r.num_prefix_hit_tokens, 0);
  EXPECT_EQ(r.leaked_blocks, 0);
  EXPECT_EQ(report_json(r)["passed"], true);
}

TEST(SoakTest, ADroppedTokenIsFound) {
  const Outcome outcome =
      run_soak({.in_events = nth_event(500, is_inner_token, [](TokenEvent&) { return false; })});
  EXPECT_FALSE(outcome.report.passed());
  // Of a request that is cancelled right after it nothing but the count can tell.
  EXPECT_TRUE(outcome.says("num_generated_tokens"));
}

TEST(SoakTest, AChangedTokenIsFoundAndTheLineSaysHowToSeeItAgain) {
  const Outcome outcome = run_soak({.in_events = nth_event(500, is_inner_token, [](TokenEvent& e) {
                                      e.token_id ^= 1;
                                      return true;
                                    })});
  EXPECT_FALSE(outcome.report.passed());
  EXPECT_EQ(outcome.report.num_mismatches, 1);
  EXPECT_EQ(outcome.report.num_faults, 0);
  EXPECT_TRUE(outcome.says("--seed 11 --requests "));
}

TEST(SoakTest, OnAGpuAnswersMustBeEqualOnlyWhereThatIsPromised) {
  for (const bool deterministic : {false, true}) {
    EngineOptions engine_options = tiny_options();
    engine_options.deterministic = deterministic;
    const Outcome outcome = run_soak({.in_events = nth_event(500, is_inner_token,
                                                             [](TokenEvent& e) {
                                                               e.token_id ^= 1;
                                                               return true;
                                                             }),
                                      .device = "cuda"},
                                     short_soak(), engine_options);
    EXPECT_EQ(outcome.report.passed(), !deterministic);
    EXPECT_EQ(outcome.report.exact, deterministic);
    EXPECT_EQ(outcome.report.num_mismatches, 1);
    EXPECT_LT(outcome.report.num_same_tokens, outcome.report.num_compared_tokens);
    EXPECT_EQ(outcome.faults.size(), deterministic ? 1u : 0u);
  }
}

TEST(SoakTest, AMissingFinalEventIsFound) {
  const Outcome outcome =
      run_soak({.in_events = nth_event(
                    20, [](const TokenEvent& e) { return e.finish != FinishReason::kNone; },
                    [](TokenEvent&) { return false; })});
  EXPECT_FALSE(outcome.report.passed());
  EXPECT_EQ(outcome.report.num_lost, 1);
  EXPECT_TRUE(outcome.says("no final event"));
}

TEST(SoakTest, ASecondFinalEventIsFound) {
  auto done = std::make_shared<bool>(false);
  const Outcome outcome = run_soak({.in_events = [done](std::vector<TokenEvent>& events) {
    for (size_t i = 0; i < events.size() && !*done; ++i) {
      if (events[i].finish == FinishReason::kNone) continue;
      events.push_back(TokenEvent(events[i]));
      *done = true;
    }
  }});
  EXPECT_FALSE(outcome.report.passed());
  EXPECT_TRUE(outcome.says("2 final events"));
}

TEST(SoakTest, AnEngineThatHangsIsGivenUp) {
  SoakOptions options = short_soak();
  options.stall_s = 0.3;
  const Outcome outcome =
      run_soak({.in_events = [](std::vector<TokenEvent>& events) { events.clear(); },
                .in_stats =
                    [](EngineStats& stats) {
                      stats.num_steps = 0;
                      stats.num_running = 1;
                    }},
               options);
  EXPECT_FALSE(outcome.report.passed());
  EXPECT_GT(outcome.report.num_lost, 0);
  EXPECT_TRUE(outcome.says("the engine hangs"));
}

TEST(SoakTest, ALeakedBlockIsFound) {
  const Outcome outcome =
      run_soak({.in_stats = [](EngineStats& stats) { stats.kv_blocks_used += 3; }});
  EXPECT_FALSE(outcome.report.passed());
  EXPECT_EQ(outcome.report.leaked_blocks, 3);
  EXPECT_EQ(outcome.report.num_mismatches, 0);
}

TEST(SoakTest, ALoadWithoutPreemptionsIsNoSoak) {
  SoakOptions options = short_soak();
  options.num_requests = 200;
  EngineOptions engine_options = tiny_options();
  engine_options.kv_cache_bytes = 1 << 24;
  const Outcome outcome = run_soak({}, options, engine_options);
  EXPECT_FALSE(outcome.report.passed());
  EXPECT_EQ(outcome.report.not_exercised, std::vector<std::string>{"preemptions"});
}

TEST(SoakTest, TellingItToStopEndsItEarly) {
  SoakOptions options = short_soak();
  options.num_requests = 0;
  int64_t asked = 0;
  SoakHooks hooks;
  hooks.should_stop = [&asked] { return ++asked > 300; };
  Soak soak(options, hooks);
  const EngineOptions engine_options = soak_engine_options(tiny_options()).value();
  const auto engine = Engine::open(engine_options, soak.sink());
  ASSERT_TRUE(engine.ok());
  const SoakReport report = soak.run(*engine.value(), engine_options);
  EXPECT_TRUE(report.interrupted);
  EXPECT_TRUE(report.passed());
  EXPECT_LT(report.load_s, 60.0);
}

}  // namespace
}  // namespace slipstream
