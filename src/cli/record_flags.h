// What the measurements of `bench` share: --json, --save, --repeats, and the words for a record.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/status.h"
#include "bench/record.h"
#include "cli/flag.h"
#include "cli/line_io.h"

namespace slipstream {

struct RecordFlags {
  bool json = false;
  std::string save_path;
  int repeats = 5;

  std::vector<Flag> flags();
};

// Prints each record as JSON, or as the line `words` makes of it.
Result<RecordWriter> open_records(const RecordFlags& flags, Output& output,
                                  std::function<std::string(const Json&)> words);

// "run 1: ", "median of 5: "
std::string label(const Json& record);

std::string fixed(double value, int digits);

}  // namespace slipstream
