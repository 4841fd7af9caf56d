// The almanac's page with its points: as files of a folder that opens from disk, and as what a
// server answers.
#pragma once

#include <string>

#include "base/status.h"
#include "bench/store.h"
#include "server/almanac_route.h"

namespace slipstream {

// Writes index.html and what it needs. The folder is new, empty, or holds an earlier export, whose
// files are replaced one by one, each as a whole.
Status write_almanac_site(PointStore& store, const std::string& folder);

// Reads the store when a file is asked for, so that the page shows a campaign as it goes on.
DataFiles live_almanac_files(std::string store_path);
// Reads everything now: later requests cost nothing. An empty path gives a page without points.
Result<DataFiles> loaded_almanac_files(const std::string& store_path);

}  // namespace slipstream
