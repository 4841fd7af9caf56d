// The points as files of the almanac's page: what it draws, and what it offers for download.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "base/status.h"
#include "bench/store.h"

namespace slipstream {

struct AlmanacFile {
  std::string_view name;  // relative to the page's data folder: "points.js"
  std::string_view content_type;
};

// points.js for the page; points.jsonl, points.csv and points.db for its readers.
std::span<const AlmanacFile> almanac_files();
const AlmanacFile* find_almanac_file(std::string_view name);  // null: there is none

// The bytes of one of them, from all points of the store.
Result<std::string> make_almanac_file(PointStore& store, const AlmanacFile& file);

}  // namespace slipstream
