// --config FILE: the names of flags in TOML or JSON. Flags given on the command line win.
#pragma once

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"

namespace slipstream {

// Name and value of each entry, in the file's order; an array gives one entry per item. Names are
// as on the command line, without dashes in front; '_' is read as '-'. `known` are the flags of
// any command: another name is an error, so a typo does not pass unseen.
Result<std::vector<std::pair<std::string, std::string>>> read_config_file(
    const std::string& path, const std::set<std::string>& known);

}  // namespace slipstream
