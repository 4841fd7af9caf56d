// What this binary was built from.
#pragma once

#include <string>

namespace slipstream {

std::string engine_version();  // "0.1.0"
// The commit of the source tree at build time, with "-dirty" when files differed from it;
// "unknown" outside a checkout.
std::string git_commit();
std::string version_text();  // "slipstream 0.1.0 (commit)"

}  // namespace slipstream
