// Points as text: JSON lines, which `almanac import` reads back, and CSV for spreadsheets.
#pragma once

#include <string>

#include "base/json.h"

namespace slipstream {

// One object with `point_id` and every column that is known; without a newline.
std::string point_jsonl(const Json& point);

// RFC 4180 with \n line ends; an unknown value is an empty field. The raw record stays out.
std::string csv_header();
std::string point_csv(const Json& point);

}  // namespace slipstream
