#include "bench/point.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "base/sha256.h"
#include "base/strings.h"

namespace slipstream {
namespace {

const std::array<std::string, 4> kLatencies = {"ttft", "itl", "tpot", "e2e"};
const std::array<std::string, 7> kStatistics = {"mean", "p50", "p90", "p95", "p99", "p999", "max"};

std::vector<PointColumn> make_columns() {
  using enum ColumnType;
  using enum ColumnRole;
  std::vector<PointColumn> columns = {
      {"campaign", kText, kIdentity},
      {"engine", kText, kIdentity},
      {"engine_version", kText, kIdentityDefault},
      {"engine_config", kText, kIdentityDefault},  // a configuration's name, or a digest of flags
      {"git_commit", kText, kIdentityDefault},
      {"model", kText, kIdentity},
      {"weights", kText, kIdentity},                  // precision: "bf16", "fp8", "Q4_K"
      {"dummy_weights", kInteger, kIdentityDefault},  // 1: random ones, for speed alone
      {"kv", kText, kIdentityDefault},
      {"gpu", kText, kIdentityDefault},  // "": on the CPU
      {"cpu", kText, kIdentityDefault},
      {"num_devices", kInteger, kIdentityDefault},
      {"tokens_in", kInteger, kIdentity},
      {"tokens_out", kInteger, kIdentity},
      {"prefix_share", kNumber, kIdentityDefault},  // of the input, common to all requests
      {"arrival", kText,
       kIdentity},  // closed, constant, poisson, burst, bursts of N, trace NAME, offline
      {"request_rate", kNumber, kIdentityDefault},  // asked for, per second; 0: none
      {"concurrency", kInteger, kIdentityDefault},  // the most at once; 0: no bound
      {"repeat", kInteger, kIdentityDefault},
      {"started_at", kText, kOptional},
      {"model_family", kText, kOptional},
      {"model_params", kInteger, kOptional},
      {"tokenizer", kText, kOptional},
      {"cores_used", kInteger, kOptional},
      {"memory_bytes", kInteger, kOptional},
      {"driver", kText, kOptional},
      {"cuda", kText, kOptional},
      {"server_region", kText, kOptional},
      {"client_region", kText, kOptional},
      {"client", kText, kOptional},
      {"client_version", kText, kOptional},
      {"tokens_in_variance", kNumber, kOptional},
      {"tokens_out_variance", kNumber, kOptional},
      {"requests", kInteger, kOptional},
      {"errors", kInteger, kOptional},
      {"first_error", kText, kOptional},
      {"duration_s", kNumber, kOptional},
      {"queue_s", kNumber, kOptional},
      {"cold_start_s", kNumber, kOptional},
      {"requests_s", kNumber, kRequired},
      {"output_tok_s", kNumber, kRequired},
      {"total_tok_s", kNumber, kRequired},
  };
  for (const std::string& latency : kLatencies) {
    for (const std::string& statistic : kStatistics) {
      columns.push_back({latency + "_ms_" + statistic, kNumber, kOptional});
    }
  }
  const std::vector<PointColumn> rest = {
      {"goodput_requests_s", kNumber, kOptional},
      {"goodput_limits", kJson, kOptional},       // {"ttft_ms": 300}
      {"client_lag_ms_p99", kNumber, kOptional},  // how late the client handled what was due
      {"client_lag_ms_max", kNumber, kOptional},
      {"client_cpu_us_per_chunk", kNumber, kOptional},
      {"invalid_reason", kText, kOptional},  // why the figures are not to be believed
      {"tokens_per_chunk_mean", kNumber, kOptional},
      {"stalls", kInteger, kOptional},  // gaps within an answer above the client's limit
      {"mean_batch", kNumber, kOptional},
      {"gpu_busy_fraction", kNumber, kOptional},
      {"kv_cache_usage_percent_mean", kNumber, kOptional},
      {"peak_memory_bytes", kInteger, kOptional},
      {"power_w_mean", kNumber, kOptional},
      {"joules_per_output_token", kNumber, kOptional},
      {"accuracy_task", kText, kOptional},
      {"accuracy", kNumber, kOptional},
      {"image_bytes", kInteger, kOptional},
      {"server_command", kText, kOptional},
      {"client_command", kText, kOptional},
      {"config", kJson, kOptional},
      {"record", kJson, kOptional},  // what it was imported from, as it was
  };
  columns.insert(columns.end(), rest.begin(), rest.end());
  return columns;
}

// A whole number may be written 3.0.
bool is_whole(const Json& value) {
  if (value.is_number_unsigned()) return value.get<uint64_t>() <= INT64_MAX;
  if (value.is_number_integer()) return true;
  if (!value.is_number_float()) return false;
  const double number = value.get<double>();
  return std::floor(number) == number && std::fabs(number) <= 0x1p53;
}

Json as_column(const Json& value, const PointColumn& column) {
  if (!value.is_null()) {
    if (column.type == ColumnType::kInteger) return value.get<int64_t>();
    if (column.type == ColumnType::kNumber) return value.get<double>();
    return value;
  }
  if (column.role != ColumnRole::kIdentityDefault) return nullptr;
  if (column.type == ColumnType::kText) return "";
  if (column.type == ColumnType::kNumber) return 0.0;
  return column.name == "num_devices" ? 1 : 0;
}

std::string digest(const Json& point, bool with_repeat) {
  Json identity = Json::array();
  for (const PointColumn& column : point_columns()) {
    if (!column.is_identity() || (column.name == "repeat" && !with_repeat)) continue;
    identity.push_back(point.at(column.name));
  }
  return to_hex(sha256(dump_json(identity))).substr(0, 16);
}

void add_name(std::string& list, const std::string& name) {
  list += (list.empty() ? "" : ", ") + name;
}

}  // namespace

std::span<const PointColumn> point_columns() {
  static const std::vector<PointColumn> columns = make_columns();
  return columns;
}

const PointColumn* find_point_column(std::string_view name) {
  const auto columns = point_columns();
  const auto found = std::find_if(columns.begin(), columns.end(),
                                  [&](const PointColumn& column) { return column.name == name; });
  return found == columns.end() ? nullptr : &*found;
}

const char* column_type_text(ColumnType type) {
  switch (type) {
    case ColumnType::kText:
      return "a text";
    case ColumnType::kInteger:
      return "a whole number from 0";
    case ColumnType::kNumber:
      return "a number from 0";
    case ColumnType::kJson:
      return "an object";
  }
  return "";
}

bool fits_column(const Json& value, const PointColumn& column) {
  if (value.is_null()) {
    return column.role == ColumnRole::kOptional || column.role == ColumnRole::kIdentityDefault;
  }
  switch (column.type) {
    case ColumnType::kText:
      return value.is_string();
    case ColumnType::kInteger:
      return is_whole(value) && value.get<double>() >= 0.0;
    case ColumnType::kNumber:
      return value.is_number() && std::isfinite(value.get<double>()) && value.get<double>() >= 0.0;
    case ColumnType::kJson:
      return value.is_object();
  }
  return false;
}

Result<Json> complete_point(const Json& point) {
  std::string missing;
  std::string wrong;
  std::string unknown;
  Json complete = Json::object();
  for (const PointColumn& column : point_columns()) {
    const auto found = point.find(column.name);
    const Json value = found == point.end() ? Json(nullptr) : *found;
    const bool empty_name = column.role == ColumnRole::kIdentity && value == "";
    if (!fits_column(value, column) || empty_name) {
      if (value.is_null() || empty_name) {
        add_name(missing, column.name);
      } else {
        add_name(wrong, str(column.name, " (", column_type_text(column.type), " is expected)"));
      }
      continue;
    }
    complete[column.name] = as_column(value, column);
  }
  for (const auto& [key, value] : point.items()) {
    if (find_point_column(key) == nullptr) add_name(unknown, quote(key));
  }
  std::string problem;
  const auto add_problem = [&problem](const std::string& what, const std::string& list) {
    if (!list.empty()) problem += (problem.empty() ? "" : "; ") + what + list;
  };
  add_problem("missing columns: ", missing);
  add_problem("columns of the wrong type: ", wrong);
  add_problem("unknown columns: ", unknown);
  if (!problem.empty()) return failed(problem);
  return complete;
}

std::string point_id(const Json& point) { return digest(point, true); }
std::string series_id(const Json& point) { return digest(point, false); }

std::span<const std::string> latency_names() { return kLatencies; }
std::span<const std::string> latency_statistics() { return kStatistics; }

}  // namespace slipstream
