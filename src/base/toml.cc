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

// The lines of a node and of what it holds. A key stands where its name does; a value in an array
// stands where it begins.
void add_lines(const toml::node& node, const std::string& path, std::map<std::string, int>& lines) {
  if (const auto* table = node.as_table()) {
    for (const auto& [key, value] : *table) {
      const std::string name(key.str());
      const std::string below = path.empty() ? name : path + "." + name;
      lines[below] = static_cast<int>(key.source().begin.line);
      add_lines(value, below, lines);
    }
  } else if (const auto* array = node.as_array()) {
    size_t idx = 0;
    for (const auto& value : *array) {
      const std::string below = str(path, "[", idx++, "]");
      lines[below] = static_cast<int>(value.source().begin.line);
      add_lines(value, below, lines);
    }
  }
}

}  // namespace

Result<TomlDocument> parse_toml_with_lines(std::string_view text, const std::string& what) {
  const toml::parse_result result = toml::parse(text, what);
  if (!result) {
    return bad_usage(str(what, ": line ", result.error().source().begin.line, ": ",
                         result.error().description()));
  }
  TomlDocument document{to_json(result.table()), {}};
  add_lines(result.table(), "", document.lines);
  return document;
}

Result<Json> parse_toml(std::string_view text, const std::string& what) {
  SLIPSTREAM_ASSIGN_OR_RETURN(TomlDocument document, parse_toml_with_lines(text, what));
  return std::move(document.value);
}

}  // namespace slipstream
