// The almanac's configurations as data: engines, tuned configurations of them, and campaigns, each
// a TOML file in its folder (engines/, configurations/, campaigns/).
//
// Checks files and puts contributed ones in place. Does not start an engine or run a campaign.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/status.h"

namespace slipstream {

constexpr int64_t kDefaultStopTimeoutS = 30;    // from SIGTERM to SIGKILL
constexpr int64_t kDefaultPointTimeoutS = 600;  // of one point, until its engine counts as hung

// What one file says, or what is wrong with it.
struct AlmanacFile {
  std::string kind;  // "engine", "configuration", "campaign"
  std::string name;
  Json value;
  std::vector<std::string> problems;  // "FILE:LINE: what, and the fix"; empty: it is valid
};

// Checks `path` against the engines and configurations of the almanac in `folder`. An error is a
// file that cannot be read; what it says wrongly is in `problems`.
Result<AlmanacFile> check_almanac_file(const std::string& path, const std::string& folder);

// Where the almanac in `folder` keeps the file of that kind and name.
std::string almanac_file_path(const std::string& folder, const std::string& kind,
                              const std::string& name);

struct AddedFile {
  std::string path;
  bool was_there = false;  // with the same bytes
};

// Copies a valid file to where `folder` keeps its kind. Another file of that name stays.
Result<AddedFile> add_almanac_file(const std::string& path, const AlmanacFile& file,
                                   const std::string& folder);

}  // namespace slipstream
