// Rules of the trace: every range is in the file or counted, and nobody waits for the file.
#include "base/trace.h"

#include <gtest/gtest.h>

#include <map>
#include <thread>

#include "base/json.h"
#include "base/temp_folder_for_test.h"

namespace slipstream {
namespace {

Json events_of(const std::string& path) {
  const Result<Json> parsed = parse_json(read_file(path), path);
  EXPECT_TRUE(parsed.ok()) << parsed.status().message();
  return parsed.ok() ? parsed.value() : Json::array();
}

std::vector<Json> ranges_of(const Json& events) {
  std::vector<Json> ranges;
  for (const Json& event : events) {
    if (event.value("ph", "") == "X") ranges.push_back(event);
  }
  return ranges;
}

TEST(Trace, ARangeCarriesItsNameThreadTimesAndArguments) {
  const TempFolder folder;
  const std::string path = (folder / "trace.json").string();
  {
    auto writer = TraceWriter::open(path).value();
    TraceLane* lane = writer->add_lane("eng\"ine");
    TraceRange outer(lane, "step");
    {
      TraceRange inner(lane, "forward");
      inner.arg("tokens", 17);
      inner.arg("rows", -3);
    }
  }
  const Json events = events_of(path);
  const std::vector<Json> ranges = ranges_of(events);
  ASSERT_EQ(ranges.size(), 2u);
  EXPECT_EQ(ranges[0]["name"], "forward");  // ranges are added as they end
  EXPECT_EQ(ranges[0]["args"], (Json{{"tokens", 17}, {"rows", -3}}));
  EXPECT_EQ(ranges[1]["name"], "step");
  EXPECT_FALSE(ranges[1].contains("args"));
  const auto start = [](const Json& range) { return range["ts"].get<double>(); };
  const auto end = [&](const Json& range) { return start(range) + range["dur"].get<double>(); };
  EXPECT_LE(start(ranges[1]), start(ranges[0]));
  EXPECT_GE(end(ranges[1]), end(ranges[0]) - 0.001);
  bool is_named = false;
  for (const Json& event : events) {
    if (event.value("name", "") != "thread_name") continue;
    EXPECT_EQ(event["args"]["name"], "eng\"ine");
    EXPECT_EQ(event["tid"], ranges[0]["tid"]);
    is_named = true;
  }
  EXPECT_TRUE(is_named);
}

TEST(Trace, TimesKeepTheirNanoseconds) {
  const TempFolder folder;
  const std::string path = (folder / "trace.json").string();
  {
    auto writer = TraceWriter::open(path).value();
    const int64_t now = steady_now_ns();
    writer->add_lane("t")->add({.name = "a", .begin_ns = now, .end_ns = now + 5'000'007});
  }
  EXPECT_NE(read_file(path).find("\"dur\":5000.007"), std::string::npos);
}

TEST(Trace, ANullLaneIsNoTrace) {
  TraceRange range(nullptr, "nothing");
  range.arg("tokens", 1);
}

TEST(Trace, ManyThreadsLoseNothingUncounted) {
  const TempFolder folder;
  const std::string path = (folder / "trace.json").string();
  constexpr int kThreads = 4;
  constexpr int64_t kRanges = 20'000;
  int64_t num_dropped = 0;
  {
    auto writer = TraceWriter::open(path, {.lane_capacity = 512, .flush_interval_ms = 1}).value();
    std::vector<std::thread> threads;
    for (int i = 0; i < kThreads; ++i) {
      threads.emplace_back([&] {
        TraceLane* lane = writer->add_lane("worker");
        for (int64_t j = 0; j < kRanges; ++j) {
          TraceRange range(lane, "work");
          range.arg("j", j);
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    num_dropped = writer->num_dropped();
  }
  std::map<int64_t, int64_t> last;  // per lane: in order
  const std::vector<Json> ranges = ranges_of(events_of(path));
  for (const Json& range : ranges) {
    const auto [it, is_new] = last.emplace(range["tid"].get<int64_t>(), -1);
    EXPECT_LT(it->second, range["args"]["j"].get<int64_t>());
    it->second = range["args"]["j"].get<int64_t>();
  }
  EXPECT_LE(last.size(), size_t{kThreads});
  EXPECT_EQ(static_cast<int64_t>(ranges.size()) + num_dropped, kThreads * kRanges);
}

TEST(Trace, TheFileEndsAtItsLimitAndStaysWhole) {
  const TempFolder folder;
  const std::string path = (folder / "trace.json").string();
  constexpr int64_t kRanges = 10'000;
  {
    auto writer =
        TraceWriter::open(
            path, {.max_file_bytes = 100'000, .lane_capacity = kRanges, .flush_interval_ms = 1})
            .value();
    TraceLane* lane = writer->add_lane("t");
    for (int64_t i = 0; i < kRanges; ++i) lane->add({.name = "work"});
    while (writer->num_dropped() == 0) std::this_thread::yield();
  }
  EXPECT_LE(read_file(path).size(), 100'000u + 256);
  EXPECT_GT(ranges_of(events_of(path)).size(), 500u);
  EXPECT_LT(ranges_of(events_of(path)).size(), static_cast<size_t>(kRanges));
}

TEST(Trace, AFullDiskStopsTheTraceOnly) {
  auto writer = TraceWriter::open("/dev/full", {.flush_interval_ms = 1}).value();
  TraceLane* lane = writer->add_lane("t");
  {
    TraceRange range(lane, "work");
  }
  while (writer->num_dropped() == 0) std::this_thread::yield();
  {
    TraceRange range(lane, "work");
  }
}

TEST(Trace, AFileThatCannotBeWrittenIsOneLine) {
  const auto writer = TraceWriter::open("/nowhere/at/all/trace.json");
  ASSERT_FALSE(writer.ok());
  EXPECT_NE(writer.status().message().find("'/nowhere/at/all/trace.json'"), std::string::npos);
  EXPECT_EQ(writer.status().message().find('\n'), std::string::npos);
}

}  // namespace
}  // namespace slipstream
