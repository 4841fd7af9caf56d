// The only reads of environment variables: SLIPSTREAM_HOME, SLIPSTREAM_LOG and the home folder.
#pragma once

#include <optional>
#include <string>

namespace slipstream {

// $HOME; empty when it is not set.
std::string home_folder();
// $SLIPSTREAM_HOME, else ~/.cache/slipstream; empty when there is no home folder either.
std::string cache_home();
// Where `serve` counts tokens and `usage` reads them; empty like cache_home().
std::string default_usage_db();
// Where `almanac` keeps its points; empty like cache_home().
std::string default_almanac_store();
// $SLIPSTREAM_LOG: a log level; none when unset or empty.
std::optional<std::string> log_level_from_environment();

}  // namespace slipstream
