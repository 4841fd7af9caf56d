#include "cli/config_file.h"

#include <algorithm>

#include "base/json.h"
#include "base/mmap_file.h"
#include "base/strings.h"
#include "base/toml.h"

namespace slipstream {
namespace {

constexpr uint64_t kMaxConfigBytes = 1u << 20;

// The value as a user would type it after the flag.
Result<std::string> as_text(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_boolean() || value.is_number()) return dump_json(value);
  return bad_usage("must be a text, a number, true, false or an array of these");
}

}  // namespace

Result<std::vector<std::pair<std::string, std::string>>> read_config_file(
    const std::string& path, const std::set<std::string>& known) {
  const std::string where = "--config " + path;
  Result<std::string> text = read_text_file(path, kMaxConfigBytes);
  if (!text.ok()) return bad_usage("--config " + text.status().message());
  const size_t first = text->find_first_not_of(" \t\r\n");
  const bool is_json = first != std::string::npos && text.value()[first] == '{';
  Result<Json> config = is_json ? parse_json(text.value(), where) : parse_toml(text.value(), where);
  if (!config.ok()) return bad_usage(config.status().message());

  std::vector<std::pair<std::string, std::string>> entries;
  for (const auto& [key, value] : config->items()) {
    std::string name = key;
    std::replace(name.begin(), name.end(), '_', '-');
    if (!known.contains(name)) {
      return bad_usage(str(where, ": ", quote(key), " is not the name of a flag"));
    }
    const Json items = value.is_array() ? value : Json::array({value});
    for (const Json& item : items) {
      Result<std::string> item_text = as_text(item);
      if (!item_text.ok()) return item_text.status().in(str(where, ": ", quote(key)));
      entries.emplace_back(name, std::move(item_text).value());
    }
  }
  return entries;
}

}  // namespace slipstream
