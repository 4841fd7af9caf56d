// The one door to toml++. Parsing never throws past this header; the result is JSON, so that a
// configuration may come in either.
#pragma once

#include <string>
#include <string_view>

#include "base/json.h"
#include "base/status.h"

namespace slipstream {

// Dates and times become strings. `what` names the document in messages, which give the line.
Result<Json> parse_toml(std::string_view text, const std::string& what);

}  // namespace slipstream
