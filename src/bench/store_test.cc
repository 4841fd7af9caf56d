// Rules of the store: what was inserted is there, once, whatever the disk does; only files of this
// schema are touched.
#include "bench/store.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <vector>

#include "base/temp_folder_for_test.h"
#include "bench/point.h"

namespace slipstream {
namespace {

Json point_at(int64_t repeat, double requests_s = 2.5) {
  return Json{{"campaign", "june"},         {"engine", "vllm"},
              {"engine_version", "0.10.1"}, {"model", "qwen3-8b"},
              {"weights", "fp8"},           {"gpu", "NVIDIA H100"},
              {"tokens_in", 128},           {"tokens_out", 256},
              {"arrival", "poisson"},       {"request_rate", 2.5},
              {"repeat", repeat},           {"requests_s", requests_s},
              {"output_tok_s", 640.0},      {"total_tok_s", 960.0},
              {"ttft_ms_p999", 31.25},      {"first_error", "a \"quoted\", and\nsplit"},
              {"config", {{"a", {1, 2.5}}}}};
}

InsertOutcome insert(PointStore& store, const Json& point, IfTaken if_taken = IfTaken::kRefuse) {
  const auto outcome = store.insert(point, if_taken);
  EXPECT_TRUE(outcome.ok()) << outcome.status().message();
  return outcome.ok() ? outcome.value() : InsertOutcome::kTaken;
}

std::vector<Json> points_of(PointStore& store, const PointFilter& filter = {}) {
  std::vector<Json> points;
  const Status status = store.for_each(filter, [&](const Json& point) -> Status {
    points.push_back(point);
    return {};
  });
  EXPECT_TRUE(status.ok()) << status.message();
  return points;
}

void expect_one_line(const Status& status, const std::string& says) {
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.message().find('\n'), std::string::npos) << status.message();
  EXPECT_NE(status.message().find(says), std::string::npos) << status.message();
}

TEST(PointStore, GivesBackWhatWasInserted) {
  const TempFolder folder;
  const std::string path = (folder / "below" / "almanac.db").string();
  {
    const auto store = PointStore::open(path);
    ASSERT_TRUE(store.ok()) << store.status().message();
    EXPECT_EQ(insert(*store.value(), point_at(0)), InsertOutcome::kNew);
  }
  const auto store = PointStore::open_read_only(path);
  ASSERT_TRUE(store.ok()) << store.status().message();
  const std::vector<Json> points = points_of(*store.value());
  ASSERT_EQ(points.size(), 1u);
  EXPECT_EQ(points[0], complete_point(point_at(0)).value());
  EXPECT_EQ(points[0].at("kv"), "");
  EXPECT_TRUE(points[0].at("power_w_mean").is_null());
}

TEST(PointStore, APointIsStoredOnceAndNotReplaced) {
  const TempFolder folder;
  const auto store = PointStore::open((folder / "a.db").string()).value();
  EXPECT_EQ(insert(*store, point_at(0)), InsertOutcome::kNew);
  EXPECT_EQ(insert(*store, point_at(0)), InsertOutcome::kPresent);
  EXPECT_EQ(insert(*store, point_at(0, 9.0)), InsertOutcome::kTaken);
  EXPECT_EQ(insert(*store, point_at(1)), InsertOutcome::kNew);
  EXPECT_EQ(points_of(*store).size(), 2u);
  EXPECT_EQ(points_of(*store)[0].at("requests_s"), 2.5);
  EXPECT_TRUE(store->contains(complete_point(point_at(1)).value()).value());
  EXPECT_FALSE(store->contains(complete_point(point_at(2)).value()).value());
}

TEST(PointStore, AnotherMeasurementBecomesTheNextRepeatWhereAskedFor) {
  const TempFolder folder;
  const auto store = PointStore::open((folder / "a.db").string()).value();
  for (int pass = 0; pass < 2; ++pass) {
    const InsertOutcome expected = pass == 0 ? InsertOutcome::kNew : InsertOutcome::kPresent;
    for (const double requests_s : {1.0, 2.0, 3.0}) {
      EXPECT_EQ(insert(*store, point_at(0, requests_s), IfTaken::kNextRepeat), expected);
    }
  }
  const std::vector<Json> points = points_of(*store);
  ASSERT_EQ(points.size(), 3u);
  EXPECT_EQ(points[2].at("repeat"), 2);
  EXPECT_EQ(points[2].at("requests_s"), 3.0);
}

TEST(PointStore, FiltersNarrowAndOrderDoesNotDependOnInsertion) {
  const TempFolder folder;
  std::vector<Json> points;
  for (const char* engine : {"vllm", "sglang"}) {
    for (const int tokens_in : {1024, 128}) {
      Json point = point_at(0);
      point["engine"] = engine;
      point["tokens_in"] = tokens_in;
      if (tokens_in == 128) point["gpu"] = "";
      points.push_back(point);
    }
  }
  const auto forwards = PointStore::open((folder / "a.db").string()).value();
  const auto backwards = PointStore::open((folder / "b.db").string()).value();
  for (size_t idx = 0; idx < points.size(); ++idx) {
    insert(*forwards, points[idx]);
    insert(*backwards, points[points.size() - 1 - idx]);
  }
  EXPECT_EQ(points_of(*forwards), points_of(*backwards));
  EXPECT_EQ(points_of(*forwards, {.engine = "vllm"}).size(), 2u);
  EXPECT_EQ(points_of(*forwards, {.engine = "vllm", .tokens_in = 128}).size(), 1u);
  EXPECT_EQ(points_of(*forwards, {.gpu = "h100"}).size(), 2u);
  EXPECT_EQ(points_of(*forwards, {.gpu = "cpu"}).size(), 2u);
  EXPECT_EQ(points_of(*forwards, {.model = "qwen3-8b' OR 1 = 1 --"}).size(), 0u);
}

TEST(PointStore, SurvivesAKillRightAfterInsert) {
  const TempFolder folder;
  const std::string path = (folder / "a.db").string();
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const auto store = PointStore::open(path);
    const bool stored = store.ok() && store.value()->insert(point_at(0), IfTaken::kRefuse).ok();
    if (stored) ::kill(::getpid(), SIGKILL);
    ::_exit(1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(points_of(*PointStore::open(path).value()).size(), 1u);
}

TEST(PointStore, AFullDiskIsOneLineAndWhatWasStoredStays) {
  const TempFolder folder;
  const std::string path = (folder / "a.db").string();
  const auto store = PointStore::open(path).value();
  insert(*store, point_at(0));

  // Files may not grow any more: what a full disk does to a process.
  const auto old_handler = ::signal(SIGXFSZ, SIG_IGN);
  rlimit old_limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old_limit), 0);
  rlimit limit = old_limit;
  limit.rlim_cur = std::filesystem::file_size(path + "-wal");
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
  const auto full = store->insert(point_at(1), IfTaken::kRefuse);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &old_limit), 0);
  ::signal(SIGXFSZ, old_handler);

  ASSERT_FALSE(full.ok());
  expect_one_line(full.status(), path);
  expect_one_line(full.status(), "free disk space");
  EXPECT_EQ(points_of(*store).size(), 1u);
  EXPECT_EQ(insert(*store, point_at(1)), InsertOutcome::kNew);
}

// Overwrites the header's user_version (bytes 60 to 63, big-endian) or application id (68 to 71).
void patch(const std::string& path, int64_t offset, char last_byte) {
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  file.seekp(offset);
  file.write(&last_byte, 1);
}

TEST(PointStore, OtherFilesAreRefusedInOneLineAndLeftAlone) {
  const TempFolder folder;
  const std::string path = (folder / "a.db").string();
  {
    insert(*PointStore::open(path).value(), point_at(0));
  }
  patch(path, 63, 3);
  expect_one_line(PointStore::open(path).status(), "a newer version wrote it (schema 3");
  expect_one_line(PointStore::open_read_only(path).status(), "a newer version wrote it (schema 3");
  patch(path, 63, 2);
  patch(path, 71, 1);
  expect_one_line(PointStore::open(path).status(), "another program's database");

  const std::string text = folder.write("text", std::string(10'000, 'x'));
  expect_one_line(PointStore::open(text).status(), "move the file away");
  EXPECT_EQ(read_file(text), std::string(10'000, 'x'));
  expect_one_line(PointStore::open_read_only((folder / "none").string()).status(), "is not there");
  expect_one_line(PointStore::open(folder.path()).status(), folder.path());
}

TEST(Point, EveryMissingAndWrongColumnIsNamed) {
  Json point = point_at(0);
  point.erase("model");
  point["tokens_in"] = "128";
  point["ttft_ms_p50"] = true;
  point["speed"] = 3;
  const auto complete = complete_point(point);
  ASSERT_FALSE(complete.ok());
  for (const char* text :
       {"missing columns: model", "tokens_in (a whole number from 0 is expected)",
        "ttft_ms_p50 (a number from 0 is expected)", "unknown columns: 'speed'"}) {
    expect_one_line(complete.status(), text);
  }
}

TEST(Point, ItsIdIsThatOfItsIdentityAlone) {
  const Json a = complete_point(point_at(0)).value();
  const Json b = complete_point(point_at(0, 7.0)).value();
  const Json c = complete_point(point_at(1)).value();
  EXPECT_EQ(point_id(a), point_id(b));
  EXPECT_NE(point_id(a), point_id(c));
  EXPECT_EQ(series_id(a), series_id(c));
}

}  // namespace
}  // namespace slipstream
