// Records from elsewhere become points: our own benchmarks' (kinds serve and throughput), the rows
// of the older public almanac, and the lines that `almanac export` writes.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/json.h"
#include "base/status.h"
#include "bench/store.h"

namespace slipstream {

struct ImportOptions {
  std::string campaign;             // of records that name none
  Json overrides = Json::object();  // column -> value, for every record
};

struct ConvertedRecord {
  Json point;
  IfTaken if_taken = IfTaken::kRefuse;
  std::string skipped;  // why it is not a point, such as "a summary of repeats"; empty: it is one
};

// The error names every column that is missing or of the wrong type, as the record calls it.
Result<ConvertedRecord> point_from_record(const Json& record, const ImportOptions& options);

// "tokens_in=128" into `overrides`.
Status add_override(const std::string& text, Json& overrides);

struct ImportCounts {
  int64_t num_new = 0, num_present = 0, num_skipped = 0, num_refused = 0;
};

// Stores every good line of a JSONL file; `report` gets "FILE:LINE: what is wrong" of each bad one.
// An error is one of the file or the store as a whole; what was stored before it is kept.
Status import_points(const std::string& path, const ImportOptions& options, PointStore& store,
                     ImportCounts& counts,
                     const std::function<void(const std::string& problem)>& report);

}  // namespace slipstream
