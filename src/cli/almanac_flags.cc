#include "cli/almanac_flags.h"

namespace slipstream {

Flag almanac_store_flag(std::string& path) {
  return text_flag(
      {"store", "", "FILE", "$SLIPSTREAM_HOME/almanac.db", "the almanac's points, in SQLite"},
      [&path](const std::string& value) { path = value; });
}

Status require_almanac_store(const std::string& path) {
  if (!path.empty()) return {};
  return bad_usage("neither SLIPSTREAM_HOME nor HOME is set; name the store with --store");
}

}  // namespace slipstream
