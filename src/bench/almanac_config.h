// The almanac's configurations as data: engines, tuned configurations of them, and campaigns, each
// a TOML file in its folder (engines/, configurations/, campaigns/).
//
// Checks files and puts contributed ones in place. Does not start an engine or run a campaign.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "base/status.h"

namespace slipstream {

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

struct AddedFile {
  std::string path;
  bool was_there = false;  // with the same bytes
};

// Copies a valid file to where `folder` keeps its kind. Another file of that name stays.
Result<AddedFile> add_almanac_file(const std::string& path, const AlmanacFile& file,
                                   const std::string& folder);

}  // namespace slipstream
