// `/almanac/{file}`: the measured points behind the page at `/almanac`.
//
// What is served is public like the page: a script element sends no key. Network thread.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "base/status.h"
#include "server/http.h"

namespace slipstream {

struct DataFile {
  std::string content_type;
  std::string bytes;
};

// The file of this name, none when there is no such file, or why it cannot be made.
using DataFiles = std::function<Result<std::optional<DataFile>>(std::string_view name)>;

Route almanac_data_route(DataFiles files);

}  // namespace slipstream
