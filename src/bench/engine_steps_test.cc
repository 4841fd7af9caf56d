#include "bench/engine_steps.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace slipstream {
namespace {

EngineOptions tiny_options() {
  EngineOptions options;
  options.model = SLIPSTREAM_SOURCE_DIR "/tests/golden/models/llama";
  options.skip_tokenizer_init = true;
  options.num_threads = 1;
  return options;
}

TEST(BenchEngineTest, EveryRepeatAndTheSummaryAreRecords) {
  std::vector<Json> written;
  auto records = RecordWriter::open(
      "", [&](const std::string& line) { written.push_back(parse_json(line, "record").value()); });
  EngineBenchOptions options;
  options.num_seqs = 8;
  options.output_len = 30;
  options.repeats = 2;
  const auto summary = bench_engine(tiny_options(), options, records.value());
  ASSERT_TRUE(summary.ok()) << summary.status().message();
  ASSERT_EQ(written.size(), 3u);
  int64_t num_steps = 0;
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(written[i]["kind"], "engine");
    EXPECT_EQ(written[i]["repeat"], i);
    EXPECT_EQ(written[i]["executor"], "fake");
    EXPECT_GT(written[i]["steps"].get<int64_t>(), 0);
    num_steps += written[i]["steps"].get<int64_t>();
  }
  EXPECT_EQ(written[2]["summary"], true);
  EXPECT_EQ(written[2]["steps"], num_steps);
  for (const char* phase : {"schedule", "batch", "forward", "draw", "collect", "emit", "sink"}) {
    EXPECT_GT(written[2]["host_us_per_step"][phase].get<double>(), 0.0) << phase;
  }
  const Json& step_us = written[2]["step_us"];
  EXPECT_LE(step_us["p50"].get<double>(), step_us["p99"].get<double>());
  EXPECT_LE(step_us["p99"].get<double>(), step_us["max"].get<double>());
}

TEST(BenchEngineTest, ARunWithoutAFullStepIsAnErrorThatNamesTheFlag) {
  auto records = RecordWriter::open("", [](const std::string&) {});
  EngineBenchOptions options;
  options.num_seqs = 64;
  options.output_len = 2;
  options.repeats = 1;
  EngineOptions engine_options = tiny_options();
  engine_options.kv_cache_bytes = 40 * 2 * 2 * 4 * 8 * 16 * 2;  // blocks for a few at once
  const auto summary = bench_engine(engine_options, options, records.value());
  ASSERT_FALSE(summary.ok());
  EXPECT_NE(summary.status().message().find("--output-len"), std::string::npos);
}

}  // namespace
}  // namespace slipstream
