#include "bench/point_export.h"

#include "bench/point.h"

namespace slipstream {
namespace {

std::string csv_field(const Json& value) {
  if (value.is_null()) return "";
  if (!value.is_string() && !value.is_object()) return dump_json(value);
  const std::string text = value.is_string() ? value.get<std::string>() : dump_json(value);
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"') quoted += '"';
    quoted += c;
  }
  return quoted + '"';
}

}  // namespace

std::string point_jsonl(const Json& point) {
  Json line{{"point_id", point_id(point)}, {"series_id", series_id(point)}};
  for (const auto& [key, value] : point.items()) {
    if (!value.is_null()) line[key] = value;
  }
  return dump_json(line);
}

std::string csv_header() {
  std::string header = "point_id,series_id";
  for (const PointColumn& column : point_columns()) {
    if (column.name != "record") header += "," + column.name;
  }
  return header + "\n";
}

std::string point_csv(const Json& point) {
  std::string line = point_id(point) + "," + series_id(point);
  for (const PointColumn& column : point_columns()) {
    if (column.name != "record") line += "," + csv_field(point.at(column.name));
  }
  return line + "\n";
}

}  // namespace slipstream
