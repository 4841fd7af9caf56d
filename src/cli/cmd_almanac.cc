// slipstream almanac import, export, list: measured points into the store and out of it.
#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/strings.h"
#include "bench/point_export.h"
#include "bench/point_import.h"
#include "bench/store.h"
#include "cli/almanac_flags.h"
#include "cli/almanac_site.h"
#include "cli/command.h"
#include "cli/environment.h"
#include "cli/line_io.h"

namespace slipstream {
namespace {

std::vector<Flag> filter_flags(PointFilter& filter) {
  return {
      text_flag({"campaign", "", "NAME", "all", "only points of this campaign"},
                [&filter](const std::string& value) { filter.campaign = value; }),
      text_flag({"model", "m", "NAME", "all", "only points of this model"},
                [&filter](const std::string& value) { filter.model = value; }),
      text_flag({"engine", "", "NAME", "all", "only points of this engine"},
                [&filter](const std::string& value) { filter.engine = value; }),
      text_flag({"gpu", "", "NAME", "all",
                 "only points of GPUs with this in their name, such as H100; cpu: without a GPU"},
                [&filter](const std::string& value) { filter.gpu = value; }),
      int_flag({"tokens-in", "", "TOKENS", "all", "only points with prompts of this length"}, {},
               [&filter](int64_t value) { filter.tokens_in = value; }),
      int_flag({"tokens-out", "", "TOKENS", "all", "only points with answers of this length"}, {},
               [&filter](int64_t value) { filter.tokens_out = value; }),
  };
}

class ImportCommand : public Command {
 public:
  std::string name() const override { return "almanac import"; }
  std::string summary() const override { return "stores the measured points of record files"; }
  std::vector<Flag> flags() override {
    Flag set{{"set", "", "COLUMN=VALUE", "",
              "a column's value for every record, such as model=qwen3-8b; may be repeated"},
             [this](const std::string& value) { return add_override(value, options_.overrides); }};
    set.repeats = true;
    return {almanac_store_flag(store_path_),
            text_flag({"campaign", "", "NAME", "the file's name without its ending",
                       "the campaign of records that name none"},
                      [this](const std::string& value) { options_.campaign = value; }),
            std::move(set)};
  }
  std::vector<Positional> positionals() override {
    return {{"FILE",
             "JSON lines: records of `slipstream bench serve` and `throughput`, what"
             " `almanac export --jsonl` wrote, or the older public almanac's rows",
             true,
             [this](const std::string& value) -> Status {
               paths_.push_back(value);
               return {};
             },
             true}};
  }
  Result<int> run() override;

 private:
  std::string store_path_ = default_almanac_store();
  ImportOptions options_;
  std::vector<std::string> paths_;
};

Result<int> ImportCommand::run() {
  SLIPSTREAM_RETURN_IF_ERROR(require_almanac_store(store_path_));
  SLIPSTREAM_ASSIGN_OR_RETURN(const auto store, PointStore::open(store_path_));
  ImportCounts counts;
  Status status;
  for (const std::string& path : paths_) {
    status = import_points(path, options_, *store, counts,
                           [](const std::string& problem) { write_stderr(problem + "\n"); });
    if (!status.ok()) break;
  }
  Output output;
  output.write_now(str(counts.num_new, " stored, ", counts.num_present, " already there, ",
                       counts.num_skipped, " skipped (no points), ", counts.num_refused,
                       " refused\n"));
  if (!status.ok()) return status;
  if (!output.status().ok()) return output.status();
  return counts.num_refused == 0 ? 0 : failed("").exit_code();
}

class ExportCommand : public Command {
 public:
  std::string name() const override { return "almanac export"; }
  std::string summary() const override {
    return "prints stored points as JSON lines or CSV, or writes the page as a folder";
  }
  std::vector<Positional> positionals() override {
    return {text_positional("DIR",
                            "writes the page with all points there; DIR/index.html opens from disk",
                            false, [this](const std::string& value) { site_folder_ = value; })};
  }
  std::vector<Flag> flags() override {
    std::vector<Flag> flags = {
        almanac_store_flag(store_path_),
        switch_flag({"jsonl", "", "", "", "JSON lines, which `almanac import` reads back"},
                    [this] { jsonl_ = true; }),
        switch_flag({"csv", "", "", "", "CSV with a header; without the raw records"},
                    [this] { csv_ = true; })};
    for (Flag& flag : filter_flags(filter_)) flags.push_back(std::move(flag));
    return flags;
  }
  Result<int> run() override;

 private:
  std::string store_path_ = default_almanac_store();
  Status write_site(PointStore& store) const;

  PointFilter filter_;
  std::string site_folder_;
  bool jsonl_ = false, csv_ = false;
};

Status ExportCommand::write_site(PointStore& store) const {
  SLIPSTREAM_RETURN_IF_ERROR(write_almanac_site(store, site_folder_));
  Output output;
  output.write_now(site_folder_ + "/index.html\n");
  return output.status();
}

Result<int> ExportCommand::run() {
  if (jsonl_ + csv_ + !site_folder_.empty() != 1) {
    return bad_usage("give one of --jsonl and --csv, or a folder for the page");
  }
  if (!site_folder_.empty() && filter_.is_set()) {
    return bad_usage("the page takes all points and filters them itself; leave the filters out");
  }
  SLIPSTREAM_RETURN_IF_ERROR(require_almanac_store(store_path_));
  SLIPSTREAM_ASSIGN_OR_RETURN(const auto store, PointStore::open_read_only(store_path_));
  if (!site_folder_.empty()) {
    SLIPSTREAM_RETURN_IF_ERROR(write_site(*store));
    return 0;
  }
  Output output;
  if (csv_) output.write(csv_header());
  SLIPSTREAM_RETURN_IF_ERROR(store->for_each(filter_, [&](const Json& point) -> Status {
    output.write(csv_ ? point_csv(point) : point_jsonl(point) + "\n");
    return output.status();
  }));
  output.flush();
  if (!output.status().ok()) return output.status();
  return 0;
}

// What one line of the list stands for: an engine on a model, a machine and a shape.
using ListKey = std::vector<std::string>;
struct ListRow {
  int64_t num_points = 0;
  double best_output_tok_s = 0.0;
};

// Names come from files: nothing of them moves the cursor.
std::string shown(const Json& value) {
  const std::string quoted = quote(value.get<std::string>());
  return quoted.substr(1, quoted.size() - 2);
}

ListKey list_key(const Json& point) {
  const auto count = point.at("num_devices").get<int64_t>();
  const std::string gpu = point.at("gpu") == "" ? "cpu" : shown(point.at("gpu"));
  return {shown(point.at("model")),
          shown(point.at("weights")),
          count > 1 ? str(count, "x ", gpu) : gpu,
          str(point.at("tokens_in").get<int64_t>(), "/", point.at("tokens_out").get<int64_t>()),
          shown(point.at("engine")),
          shown(point.at("engine_version"))};
}

std::string aligned(const std::vector<std::vector<std::string>>& lines, size_t num_text_columns) {
  std::vector<size_t> widths(lines.front().size(), 0);
  for (const auto& cells : lines) {
    for (size_t idx = 0; idx < cells.size(); ++idx) {
      widths[idx] = std::max(widths[idx], cells[idx].size());
    }
  }
  std::string text;
  for (const auto& cells : lines) {
    for (size_t idx = 0; idx < cells.size(); ++idx) {
      const std::string padding(widths[idx] - cells[idx].size(), ' ');
      text += idx < num_text_columns ? cells[idx] + padding : padding + cells[idx];
      text += idx + 1 < cells.size() ? "  " : "\n";
    }
  }
  return text;
}

class ListCommand : public Command {
 public:
  std::string name() const override { return "almanac list"; }
  std::string summary() const override { return "a table of what the store holds"; }
  std::vector<Flag> flags() override {
    std::vector<Flag> flags = {almanac_store_flag(store_path_)};
    for (Flag& flag : filter_flags(filter_)) flags.push_back(std::move(flag));
    return flags;
  }
  Result<int> run() override;

 private:
  std::string store_path_ = default_almanac_store();
  PointFilter filter_;
};

Result<int> ListCommand::run() {
  SLIPSTREAM_RETURN_IF_ERROR(require_almanac_store(store_path_));
  SLIPSTREAM_ASSIGN_OR_RETURN(const auto store, PointStore::open_read_only(store_path_));
  std::vector<std::pair<ListKey, ListRow>> rows;  // in the store's order
  std::map<ListKey, size_t> row_of;
  SLIPSTREAM_RETURN_IF_ERROR(store->for_each(filter_, [&](const Json& point) -> Status {
    const ListKey key = list_key(point);
    const auto [found, is_new] = row_of.try_emplace(key, rows.size());
    if (is_new) rows.emplace_back(key, ListRow{});
    ListRow& row = rows[found->second].second;
    ++row.num_points;
    row.best_output_tok_s = std::max(row.best_output_tok_s, point.at("output_tok_s").get<double>());
    return {};
  }));
  std::vector<std::vector<std::string>> lines = {
      {"model", "weights", "device", "in/out", "engine", "version", "points", "best output tok/s"}};
  for (const auto& [key, row] : rows) {
    lines.push_back(key);
    lines.back().push_back(std::to_string(row.num_points));
    lines.back().push_back(std::to_string(std::llround(row.best_output_tok_s)));
  }
  Output output;
  output.write_now(aligned(lines, 6));
  if (!output.status().ok()) return output.status();
  return 0;
}

}  // namespace

std::unique_ptr<Command> make_almanac_import_command() { return std::make_unique<ImportCommand>(); }
std::unique_ptr<Command> make_almanac_export_command() { return std::make_unique<ExportCommand>(); }
std::unique_ptr<Command> make_almanac_list_command() { return std::make_unique<ListCommand>(); }

}  // namespace slipstream
