#include "bench/almanac_files.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <system_error>
#include <unordered_map>
#include <utility>

#include "base/strings.h"
#include "bench/point.h"
#include "bench/point_export.h"

namespace slipstream {
namespace {

constexpr std::array<AlmanacFile, 4> kFiles = {{
    {"points.js", "text/javascript; charset=utf-8"},
    {"points.jsonl", "application/x-ndjson; charset=utf-8"},
    {"points.csv", "text/csv; charset=utf-8"},
    {"points.db", "application/vnd.sqlite3"},
}};

// Texts repeat from point to point, so cells of text are indices into one list.
class TextList {
 public:
  size_t index_of(const std::string& text) {
    const auto [found, is_new] = index_.try_emplace(text, texts_.size());
    if (is_new) texts_.push_back(text);
    return found->second;
  }
  const Json& texts() const { return texts_; }

 private:
  std::unordered_map<std::string, size_t> index_;
  Json texts_ = Json::array();
};

Json cell(const Json& value, const PointColumn& column, TextList& texts) {
  if (value.is_null()) return nullptr;
  if (column.type == ColumnType::kJson) return texts.index_of(dump_json(value));
  if (column.type == ColumnType::kText) return texts.index_of(value.get<std::string>());
  return value;
}

// {"columns": [[name, type]], "texts": [...], "rows": [[...]]}, assigned to a global name: a page
// that was opened from disk may load scripts but fetch nothing. The raw records stay out: they are
// as large as all the rest, and the JSON lines have them.
Result<std::string> points_script(PointStore& store) {
  Json columns = Json::array({{"point_id", "text"}, {"series_id", "text"}});
  for (const PointColumn& column : point_columns()) {
    if (column.name == "record") continue;
    const bool is_text = column.type == ColumnType::kText;
    const char* type = is_text ? "text" : column.type == ColumnType::kJson ? "json" : "number";
    columns.push_back({column.name, type});
  }
  TextList texts;
  Json rows = Json::array();
  SLIPSTREAM_RETURN_IF_ERROR(store.for_each({}, [&](const Json& point) -> Status {
    Json row = Json::array({texts.index_of(point_id(point)), texts.index_of(series_id(point))});
    for (const PointColumn& column : point_columns()) {
      if (column.name != "record") row.push_back(cell(point.at(column.name), column, texts));
    }
    rows.push_back(std::move(row));
    return {};
  }));
  return str("globalThis.almanacPoints = ",
             dump_json({{"columns", columns}, {"texts", texts.texts()}, {"rows", rows}}), ";\n");
}

Result<std::string> points_text(PointStore& store, std::string head,
                                const std::function<std::string(const Json& point)>& line) {
  SLIPSTREAM_RETURN_IF_ERROR(store.for_each({}, [&](const Json& point) -> Status {
    head += line(point);
    return {};
  }));
  return head;
}

// SQLite makes copies as files only.
Result<std::string> points_database(PointStore& store) {
  std::error_code code;
  std::string folder = (std::filesystem::temp_directory_path(code) / "almanac-XXXXXX").string();
  if (code || ::mkdtemp(folder.data()) == nullptr) {
    return failed("there is no temporary folder to copy the almanac's store into; set TMPDIR");
  }
  const std::string path = folder + "/points.db";
  const Status copied = store.copy_to(path);
  std::ifstream file(path, std::ios::binary);
  std::string bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  std::filesystem::remove_all(folder, code);
  if (!copied.ok()) return copied;
  return bytes;
}

}  // namespace

std::span<const AlmanacFile> almanac_files() { return kFiles; }

const AlmanacFile* find_almanac_file(std::string_view name) {
  const auto found = std::find_if(kFiles.begin(), kFiles.end(),
                                  [&](const AlmanacFile& file) { return file.name == name; });
  return found == kFiles.end() ? nullptr : &*found;
}

Result<std::string> make_almanac_file(PointStore& store, const AlmanacFile& file) {
  if (file.name == "points.js") return points_script(store);
  if (file.name == "points.csv") return points_text(store, csv_header(), point_csv);
  if (file.name == "points.db") return points_database(store);
  return points_text(store, "", [](const Json& point) { return point_jsonl(point) + "\n"; });
}

}  // namespace slipstream
