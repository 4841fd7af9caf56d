// The definitions of the figures, on streams made by hand; those that `vllm bench serve` publishes.
#include "bench/load_stats.h"

#include <gtest/gtest.h>

#include "bench/distribution.h"
#include "bench/stream_event.h"

namespace slipstream {
namespace {

constexpr int64_t kMs = 1'000'000;

StreamTimes stream_at(int64_t sent_ms, std::vector<int64_t> chunk_ms, int64_t tokens) {
  StreamTimes stream;
  stream.ok = true;
  stream.sent_ns = sent_ms * kMs;
  for (const int64_t at_ms : chunk_ms) stream.chunk_ns.push_back(at_ms * kMs);
  stream.ended_ns = stream.chunk_ns.back() + kMs;
  stream.completion_tokens = tokens;
  stream.prompt_tokens = 10;
  return stream;
}

// Two answers: five tokens in five chunks, and six in three; one failed.
LoadResult load_by_hand() {
  LoadResult load;
  load.streams.push_back(stream_at(1000, {1100, 1120, 1140, 1160, 1500}, 5));
  load.streams.push_back(stream_at(1500, {1550, 1600, 1650}, 6));
  StreamTimes failed;
  failed.sent_ns = 1000 * kMs;
  failed.error_kind = "http_500";
  failed.error = "no";
  load.streams.push_back(failed);
  load.lag.add(20'000);
  load.num_chunks = 8;
  load.client_cpu_us = 40.0;
  return load;
}

TEST(LoadStats, FiguresOfOneAnswer) {
  const RequestFigures figures = figures_of(stream_at(1000, {1100, 1120, 1140, 1160, 1500}, 5));
  EXPECT_DOUBLE_EQ(figures.ttft_ms, 100.0);
  EXPECT_DOUBLE_EQ(figures.e2e_ms, 500.0);
  EXPECT_DOUBLE_EQ(figures.tpot_ms, (500.0 - 100.0) / 4);
  // Several tokens a chunk count as the tokens they are.
  EXPECT_DOUBLE_EQ(figures_of(stream_at(1500, {1550, 1600, 1650}, 6)).tpot_ms, 100.0 / 5);
  EXPECT_DOUBLE_EQ(figures_of(stream_at(0, {5}, 1)).tpot_ms, 0.0);
  StreamTimes without_usage = stream_at(0, {10, 20, 30}, -1);
  EXPECT_EQ(figures_of(without_usage).output_tokens, 3);
  EXPECT_DOUBLE_EQ(figures_of(without_usage).tpot_ms, 10.0);
}

TEST(LoadStats, TheRecordHoldsEveryFigure) {
  LoadFacts facts{.output_len = 6, .stall_ms = 200.0};
  ASSERT_TRUE(add_goodput_limits("ttft:60 tpot:30", facts.goodput).ok());
  Json record;
  add_load_figures(load_by_hand(), facts, record);
  EXPECT_EQ(record["requests"], 3);
  EXPECT_EQ(record["errors"], 1);
  EXPECT_EQ(record["errors_by_kind"], (Json{{"http_500", 1}}));
  EXPECT_EQ(record["first_error"], "http_500: no");
  EXPECT_EQ(record["output_tokens_total"], 11);
  EXPECT_EQ(record["short_answers"], 1);
  EXPECT_EQ(record["chunks"], 8);
  EXPECT_DOUBLE_EQ(record["tokens_per_chunk"]["max"], 2.0);
  const double seconds = 0.651;  // from the first send to the last end
  EXPECT_NEAR(record["seconds"], seconds, 1e-9);
  EXPECT_NEAR(record["requests_s"], 2 / seconds, 1e-9);
  EXPECT_NEAR(record["output_tok_s"], 11 / seconds, 1e-9);
  EXPECT_NEAR(record["total_tok_s"], 31 / seconds, 1e-9);
  EXPECT_DOUBLE_EQ(record["ttft_ms"]["mean"], 75.0);
  EXPECT_DOUBLE_EQ(record["itl_ms"]["max"], 340.0);
  EXPECT_DOUBLE_EQ(record["itl_ms"]["mean"], (20.0 * 3 + 340 + 50 * 2) / 6);
  EXPECT_EQ(record["stalls"]["count"], 1);
  EXPECT_NEAR(record["goodput"]["requests_s"], 1 / seconds, 1e-9);  // the first is too late
  EXPECT_NEAR(record["goodput"]["share"], 1.0 / 3, 1e-9);
  EXPECT_DOUBLE_EQ(record["client_cpu_us_per_chunk"], 5.0);
  EXPECT_EQ(record["valid"], true);
}

TEST(LoadStats, ALateClientIsNotBelieved) {
  LoadResult load = load_by_hand();
  for (int i = 0; i < 50; ++i) load.lag.add(1'500'000);
  Json record;
  add_load_figures(load, {}, record);
  EXPECT_EQ(record["valid"], false);
  EXPECT_DOUBLE_EQ(record["client_lag_ms"]["p99"], 1.5);
  load.lag = LagCounts();
  add_load_figures(load, {}, record);
  EXPECT_EQ(record["valid"], false) << "a lag nobody measured is not a small one";
}

TEST(LoadStats, NothingCameBack) {
  LoadResult load = load_by_hand();
  load.streams.erase(load.streams.begin(), load.streams.begin() + 2);
  Json record;
  add_load_figures(load, {}, record);
  EXPECT_EQ(record["errors"], 1);
  EXPECT_TRUE(record["ttft_ms"].is_null());
  EXPECT_EQ(record["requests_s"], 0.0);
}

TEST(LoadStats, LimitsAreReadAsVllmNamesThem) {
  GoodputLimits limits;
  ASSERT_TRUE(add_goodput_limits("ttft:300,tpot:50.5", limits).ok());
  ASSERT_TRUE(add_goodput_limits("e2el:2000", limits).ok());
  EXPECT_EQ(goodput_limits_json(limits),
            (Json{{"ttft_ms", 300.0}, {"tpot_ms", 50.5}, {"e2e_ms", 2000.0}}));
  for (const char* bad : {"ttft", "ttft:", "ttft:x", "ttft:-1", "itl:5", "ttft:300"}) {
    EXPECT_FALSE(add_goodput_limits(bad, limits).ok()) << bad;
  }
}

TEST(LoadStats, ASummaryIsTheMedianWithItsInterval) {
  std::vector<Json> records;
  for (const double rate : {10.0, 14.0, 11.0}) {
    Json record;
    add_load_figures(load_by_hand(), {}, record);
    record["repeat"] = records.size();
    record["requests_s"] = rate;
    records.push_back(record);
  }
  const Json summary = summary_of_repeats(records, 7);
  EXPECT_EQ(summary.at("summary"), true);
  EXPECT_EQ(summary.at("requests"), 9);
  EXPECT_EQ(summary.at("requests_s"), 11.0);
  const Json& interval = summary.at("ci95").at("requests_s");
  EXPECT_LT(interval[0], 35.0 / 3);
  EXPECT_GT(interval[1], 35.0 / 3);
  EXPECT_EQ(summary, summary_of_repeats(records, 7));
}

TEST(Distribution, BootstrapCoversTheTruthAboutAsOftenAsItSays) {
  int num_covered = 0;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    std::vector<double> values;
    uint64_t state = seed * 977 + 13;
    for (int i = 0; i < 40; ++i) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      values.push_back(static_cast<double>(state >> 40) * 0x1p-24);
    }
    const Interval interval = bootstrap_interval(values, mean, seed);
    if (interval.low <= 0.5 && interval.high >= 0.5) ++num_covered;
  }
  EXPECT_GE(num_covered, 176);  // 88 %
  EXPECT_LE(num_covered, 199);
}

TEST(StreamEvents, EveryDialectIsRead) {
  StreamEventReader reader;
  std::string answer;
  ASSERT_TRUE(
      reader.read(R"({"choices": [ {"text": "a\u00e9", "finish_reason": null} ]})", &answer));
  EXPECT_TRUE(reader.event().is_chunk());
  ASSERT_TRUE(reader.read(R"({"choices":[{"delta":{"content":"b"},"index":0}]})", &answer));
  EXPECT_TRUE(reader.event().is_chunk());
  EXPECT_EQ(answer, "a\u00e9b");
  ASSERT_TRUE(reader.read(R"({"choices":[{"delta":{"role":"assistant","content":""}}]})", nullptr));
  EXPECT_FALSE(reader.event().is_chunk()) << "chat's opening chunk";
  ASSERT_TRUE(reader.read(R"({"choices":[{"delta":{},"finish_reason":"stop"}]})", nullptr));
  EXPECT_FALSE(reader.event().is_chunk());
  EXPECT_TRUE(reader.event().has_finish);
  ASSERT_TRUE(reader.read(R"({"choices":[{"text":"","finish_reason":null}]})", nullptr));
  EXPECT_TRUE(reader.event().is_chunk()) << "a token that makes no whole character yet";
  ASSERT_TRUE(reader.read(R"({"choices":[{"text":"","token_ids":[5,6],"finish_reason":"length"}]})",
                          nullptr));
  EXPECT_TRUE(reader.event().is_chunk());
  EXPECT_EQ(reader.event().num_token_ids, 2);
  ASSERT_TRUE(reader.read(R"({"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4,
      "prompt_tokens_details":{"cached_tokens":1}}})",
                          nullptr));
  EXPECT_FALSE(reader.event().is_chunk());
  EXPECT_EQ(reader.event().prompt_tokens, 3);
  EXPECT_EQ(reader.event().completion_tokens, 4);
  ASSERT_TRUE(reader.read(R"({"error":{"message":"full","code":503}})", nullptr));
  EXPECT_TRUE(reader.event().is_error);
  EXPECT_EQ(reader.event().error, "full");
  ASSERT_TRUE(reader.read(R"({"message":"gone","object":"error"})", nullptr));
  EXPECT_TRUE(reader.event().is_error);
  EXPECT_EQ(reader.event().error, "gone");
  EXPECT_FALSE(reader.read(R"({"choices":[)", nullptr));
  ASSERT_TRUE(reader.read("{}", nullptr)) << "a broken event leaves the reader whole";
}

}  // namespace
}  // namespace slipstream
