#include "bench/build_info.h"

#include "bench/git_commit.h"

namespace slipstream {

std::string engine_version() { return SLIPSTREAM_VERSION; }

std::string git_commit() { return kGitCommit; }

std::string version_text() { return "slipstream " + engine_version() + " (" + git_commit() + ")"; }

}  // namespace slipstream
