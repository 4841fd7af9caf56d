#include "base/toml.h"

#define TOML_EXCEPTIONS 0
#include <toml++/toml.h>

#include <sstream>
#include <utility>

#include "base/strings.h"

namespace slipstream {
namespace {

// toml++ bounds the nesting of what it parsed (TOML_MAX_NESTED_VALUES), so recursion is bounded.
Json to_json(const toml::node& node) {
  if (const auto* table = node.as_table()) {
    Json object = Json::object();
    for (const auto& [key, value] : *table) object[std::string(key.str())] = to_json(value);
    return object;
  }
  if (const auto* array = node.as_array()) {
    Json items = Json::array();
    for (const auto& value : *array) items.push_back(to_json(value));
    return items;
  }
  if (const auto* value = node.as_string()) return value->get();
  if (const auto* value = node.as_integer()) return value->get();
  if (const auto* value = node.as_floating_point()) return value->get();
  if (const auto* value = node.as_boolean()) return value->get();
  std::ostringstream text;
  if (const auto* value = node.as_date()) text << value->get();
  if (const auto* value = node.as_time()) text << value->get();
  if (const auto* value = node.as_date_time()) text << value->get();
  return text.str();
}

}  // namespace

Result<Json> parse_toml(std::string_view text, const std::string& what) {
  const toml::parse_result result = toml::parse(text, what);
  if (!result) {
    return bad_usage(str(what, ": line ", result.error().source().begin.line, ": ",
                         result.error().description()));
  }
  return to_json(result.table());
}

}  // namespace slipstream
