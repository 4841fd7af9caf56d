// Rules of the page's files: every point is in each of them, and no text of a point can leave the
// place it stands in.
#include "bench/almanac_files.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "base/strings.h"
#include "base/temp_folder_for_test.h"
#include "bench/point.h"

namespace slipstream {
namespace {

Json point(const std::string& engine) {
  return Json{{"campaign", "c"},    {"engine", engine},    {"model", "m"},
              {"weights", "bf16"},  {"tokens_in", 128},    {"tokens_out", 1024},
              {"arrival", "burst"}, {"requests_s", 2.5},   {"output_tok_s", 10.0},
              {"total_tok_s", 20},  {"record", {{"a", 1}}}};
}

class AlmanacFiles : public ::testing::Test {
 protected:
  void SetUp() override {
    auto opened = PointStore::open((folder_ / "almanac.db").string());
    ASSERT_TRUE(opened.ok()) << opened.status().message();
    store_ = std::move(opened).value();
  }
  void store(const Json& point) { ASSERT_TRUE(store_->insert(point, IfTaken::kRefuse).ok()); }
  std::string file(std::string_view name) {
    const AlmanacFile* known = find_almanac_file(name);
    EXPECT_NE(known, nullptr) << name;
    const Result<std::string> bytes = make_almanac_file(*store_, *known);
    EXPECT_TRUE(bytes.ok()) << bytes.status().message();
    return bytes.ok() ? bytes.value() : "";
  }
  Json script() {
    const std::string text = file("points.js");
    const std::string start = "globalThis.almanacPoints = ";
    EXPECT_EQ(text.substr(0, start.size()), start);
    EXPECT_EQ(text.substr(text.size() - 2), ";\n");
    const std::string json = text.substr(start.size(), text.size() - start.size() - 2);
    const Result<Json> parsed = parse_json(json, "points.js");
    EXPECT_TRUE(parsed.ok()) << parsed.status().message();
    return parsed.ok() ? parsed.value() : Json();
  }

  TempFolder folder_;
  std::unique_ptr<PointStore> store_;
};

TEST_F(AlmanacFiles, TheScriptHasEveryColumnOfEveryPointButTheRecord) {
  store(point("one"));
  store(point("two"));
  const Json data = script();
  EXPECT_EQ(data.at("columns").size(), point_columns().size() + 1);  // two ids, no record
  EXPECT_EQ(data.at("columns")[0], Json({"point_id", "text"}));
  ASSERT_EQ(data.at("rows").size(), 2u);
  for (size_t idx = 0; idx < data.at("columns").size(); ++idx) {
    const std::string name = data.at("columns")[idx][0];
    EXPECT_NE(name, "record");
    if (name == "engine") {
      EXPECT_EQ(data.at("texts")[data.at("rows")[1][idx].get<size_t>()], "two");
    } else if (name == "output_tok_s") {
      EXPECT_EQ(data.at("rows")[1][idx], 10.0);
    } else if (name == "ttft_ms_p50") {
      EXPECT_TRUE(data.at("rows")[1][idx].is_null());
    }
  }
}

TEST_F(AlmanacFiles, TextsAreListedOnceAndStayTexts) {
  const std::string hostile = "\"};alert(1);//</script>\n\\";
  store(point(hostile));
  store(point(hostile + "2"));
  size_t num_models = 0;
  bool has_hostile = false;
  const Json data = script();
  for (const Json& text : data.at("texts")) {
    num_models += text == "m" ? 1 : 0;
    has_hostile = has_hostile || text == hostile;
  }
  EXPECT_EQ(num_models, 1u);
  EXPECT_TRUE(has_hostile);
}

TEST_F(AlmanacFiles, DownloadsHaveThePointsAndTheDatabaseIsAStore) {
  store(point("one"));
  store(point("two"));
  EXPECT_EQ(split(file("points.jsonl"), '\n').size(), 3u);
  EXPECT_EQ(split(file("points.csv"), '\n').size(), 4u);
  write_file(folder_ / "copy.db", file("points.db"));
  const auto copy = PointStore::open_read_only((folder_ / "copy.db").string());
  ASSERT_TRUE(copy.ok()) << copy.status().message();
  for (const Json& each : {point("one"), point("two")}) {
    const Result<bool> stored = copy.value()->contains(complete_point(each).value());
    ASSERT_TRUE(stored.ok());
    EXPECT_TRUE(stored.value());
  }
}

TEST_F(AlmanacFiles, AnEmptyStoreMakesWholeFiles) {
  EXPECT_EQ(script().at("rows").size(), 0u);
  EXPECT_EQ(file("points.jsonl"), "");
  EXPECT_EQ(split(file("points.csv"), '\n').size(), 2u);
}

TEST_F(AlmanacFiles, ACopyNeverReplacesAFile) {
  const std::string taken = folder_.write("taken.db", "precious");
  const Status status = store_->copy_to(taken);
  EXPECT_FALSE(status.ok());
  EXPECT_NE(status.message().find("cannot be copied to"), std::string::npos);
  EXPECT_EQ(read_file(taken), "precious");
}

TEST(AlmanacFile, UnknownNamesAreNoFiles) {
  for (const char* name : {"", "points", "points.db-wal", "../almanac.db"}) {
    EXPECT_EQ(find_almanac_file(name), nullptr) << name;
  }
}

}  // namespace
}  // namespace slipstream
