// Text files of prompts and traces, plain or gzipped.
#pragma once

#include <string>
#include <vector>

#include "base/status.h"

namespace slipstream {

// The lines without their ends, empty ones left out. Errors name the file; 256 MiB at most.
Result<std::vector<std::string>> read_dataset_lines(const std::string& path);

}  // namespace slipstream
