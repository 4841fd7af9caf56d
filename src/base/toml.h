// The one door to toml++. Parsing never throws past this header; the result is JSON, so that a
// configuration may come in either.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "base/json.h"
#include "base/status.h"

namespace slipstream {

// Dates and times become strings. `what` names the document in messages, which give the line.
Result<Json> parse_toml(std::string_view text, const std::string& what);

// The same with the line of every key, for those who check what the values mean.
struct TomlDocument {
  Json value;
  // By path: "name", "settings.max_num_seqs.flags", "shapes[1].tokens_in", "shapes[1]".
  std::map<std::string, int> lines;
};
Result<TomlDocument> parse_toml_with_lines(std::string_view text, const std::string& what);

}  // namespace slipstream
