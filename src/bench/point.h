// A measured point: one engine, one model, one shape, one load, one repeat, and what came out. A
// flat JSON object whose keys are the columns below, in their order.
//
// Owns the table of columns, which the store's schema, import, export and the identity of a point
// all follow. Pure functions, from any thread.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/json.h"
#include "base/status.h"

namespace slipstream {

enum class ColumnType : uint8_t { kText, kInteger, kNumber, kJson };

enum class ColumnRole : uint8_t {
  kIdentity,         // says which point it is; must be there
  kIdentityDefault,  // the same; "" or 0 where it is left out
  kRequired,
  kOptional,
};

struct PointColumn {
  std::string name;
  ColumnType type = ColumnType::kText;
  ColumnRole role = ColumnRole::kOptional;

  bool is_identity() const {
    return role == ColumnRole::kIdentity || role == ColumnRole::kIdentityDefault;
  }
};

std::span<const PointColumn> point_columns();
const PointColumn* find_point_column(std::string_view name);  // null: there is none

// "a text", "a whole number from 0", ...
const char* column_type_text(ColumnType type);
// Whether a value may stand in a column; null may in an optional one.
bool fits_column(const Json& value, const PointColumn& column);

// Every column in its order, defaults filled in, numbers as the column has them; null where nothing
// is known. The error names all columns that are missing, unknown or of the wrong type.
Result<Json> complete_point(const Json& point);

// 16 hexadecimal digits from the identity columns of a complete point: the point, and the series of
// repeats it belongs to.
std::string point_id(const Json& point);
std::string series_id(const Json& point);

// Latencies as records and columns name them: "ttft", ... and "mean", "p50", ...
std::span<const std::string> latency_names();
std::span<const std::string> latency_statistics();

}  // namespace slipstream
