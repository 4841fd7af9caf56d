#include "bench/config_checker.h"

#include <algorithm>

#include "base/strings.h"

namespace slipstream {
namespace {

bool is_texts(const Json& value) {
  return value.is_array() &&
         std::all_of(value.begin(), value.end(), [](const Json& item) { return item.is_string(); });
}

bool is_wholes(const Json& value) {
  return value.is_array() && std::all_of(value.begin(), value.end(),
                                         [](const Json& item) { return item.is_number_integer(); });
}

bool is_tables(const Json& value) {
  return value.is_array() &&
         std::all_of(value.begin(), value.end(), [](const Json& item) { return item.is_object(); });
}

bool is_kind(const Json& value, ValueKind kind) {
  switch (kind) {
    case ValueKind::kText:
      return value.is_string();
    case ValueKind::kWhole:
      return value.is_number_integer();
    case ValueKind::kNumber:
      return value.is_number();
    case ValueKind::kFlag:
      return value.is_boolean();
    case ValueKind::kTexts:
      return is_texts(value);
    case ValueKind::kWholes:
      return is_wholes(value);
    case ValueKind::kTable:
      return value.is_object();
    case ValueKind::kTables:
      return is_tables(value);
  }
  return false;
}

const char* kind_text(ValueKind kind) {
  switch (kind) {
    case ValueKind::kText:
      return "a text";
    case ValueKind::kWhole:
      return "a whole number";
    case ValueKind::kNumber:
      return "a number";
    case ValueKind::kFlag:
      return "true or false";
    case ValueKind::kTexts:
      return "an array of texts";
    case ValueKind::kWholes:
      return "an array of whole numbers";
    case ValueKind::kTable:
      return "a table";
    case ValueKind::kTables:
      return "an array of tables";
  }
  return "";
}

const Json* member(const Json& table, std::string_view key, ValueKind kind) {
  if (!table.is_object()) return nullptr;
  const auto found = table.find(std::string(key));
  return found != table.end() && is_kind(*found, kind) ? &*found : nullptr;
}

}  // namespace

int ConfigChecker::line_of(std::string path) const {
  while (true) {
    const auto found = document_.lines.find(path);
    if (found != document_.lines.end()) return found->second;
    const size_t end = path.find_last_of(".[");
    if (end == std::string::npos) return 1;
    path.resize(end);
  }
}

void ConfigChecker::report(const std::string& path, const std::string& problem) {
  problems_.push_back({line_of(path), problem});
}

std::vector<std::string> ConfigChecker::problems() const {
  std::vector<Problem> sorted = problems_;
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const Problem& a, const Problem& b) { return a.line < b.line; });
  std::vector<std::string> lines;
  for (const Problem& problem : sorted) {
    lines.push_back(str(file_, ":", problem.line, ": ", problem.text));
  }
  return lines;
}

void ConfigChecker::check_table(const Json& table, const std::string& path,
                                std::span<const KeyRule> rules) {
  const std::string prefix = path.empty() ? "" : path + ".";
  std::vector<std::string> known;
  for (const KeyRule& rule : rules) {
    known.emplace_back(rule.name);
    const auto found = table.find(rule.name);
    if (found == table.end()) {
      if (rule.is_required) {
        report(path, str("key ", quote(prefix + rule.name), " is missing; add ", rule.name, " = ",
                         rule.example));
      }
    } else if (!is_kind(*found, rule.kind)) {
      report(prefix + rule.name, str(quote(prefix + rule.name), " must be ", kind_text(rule.kind),
                                     ", such as ", rule.example));
    }
  }
  for (const auto& [key, value] : table.items()) {
    if (std::find(known.begin(), known.end(), key) != known.end()) continue;
    report(prefix + key, str("unknown key ", quote(prefix + key), "; remove it or use one of ",
                             list_text(known)));
  }
}

std::string ConfigChecker::text(const Json& table, std::string_view key) {
  const Json* value = member(table, key, ValueKind::kText);
  return value == nullptr ? "" : value->get<std::string>();
}

std::vector<std::string> ConfigChecker::texts(const Json& table, std::string_view key) {
  const Json* value = member(table, key, ValueKind::kTexts);
  return value == nullptr ? std::vector<std::string>() : value->get<std::vector<std::string>>();
}

const Json& ConfigChecker::table(const Json& table, std::string_view key) {
  static const Json empty = Json::object();
  const Json* value = member(table, key, ValueKind::kTable);
  return value == nullptr ? empty : *value;
}

const Json& ConfigChecker::tables(const Json& table, std::string_view key) {
  static const Json empty = Json::array();
  const Json* value = member(table, key, ValueKind::kTables);
  return value == nullptr ? empty : *value;
}

double ConfigChecker::number(const Json& table, std::string_view key, double fallback) {
  const Json* value = member(table, key, ValueKind::kNumber);
  return value == nullptr ? fallback : value->get<double>();
}

std::string list_text(const std::vector<std::string>& names) {
  std::string list;
  for (const std::string& name : names) list += (list.empty() ? "" : ", ") + name;
  return list;
}

}  // namespace slipstream
