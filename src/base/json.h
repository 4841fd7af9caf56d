// The one door to nlohmann's JSON. Parsing is bounded in bytes and depth and never throws past
// this header; getters check types and name the key; dumping never fails on invalid UTF-8.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/status.h"

namespace slipstream {

// Keys keep their order: tool schemas and templates depend on it.
using Json = nlohmann::ordered_json;

struct JsonLimits {
  uint64_t max_bytes = 64u << 20;
  int max_depth = 128;
  bool reject_duplicate_keys = true;
};

// The error names the byte offset. `what` names the document in messages.
Result<Json> parse_json(std::string_view text, const std::string& what, JsonLimits limits = {});

// Compact (indent < 0) or indented text; invalid UTF-8 becomes U+FFFD.
std::string dump_json(const Json& value, int indent = -1);

// Typed members of an object. Absent or null gives `fallback`; another type is an error that
// names the key.
Result<int64_t> json_int(const Json& object, const std::string& key, int64_t fallback);
Result<double> json_number(const Json& object, const std::string& key, double fallback);
Result<bool> json_bool(const Json& object, const std::string& key, bool fallback);
Result<std::string> json_string(const Json& object, const std::string& key,
                                const std::string& fallback);

}  // namespace slipstream
