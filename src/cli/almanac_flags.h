// What the almanac's commands share: which store they mean.
#pragma once

#include <string>

#include "base/status.h"
#include "cli/flag.h"

namespace slipstream {

// --store FILE; `path` holds the default.
Flag almanac_store_flag(std::string& path);
// An error when there is neither a --store nor a home folder to keep one in.
Status require_almanac_store(const std::string& path);

}  // namespace slipstream
