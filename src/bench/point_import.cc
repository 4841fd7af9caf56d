#include "bench/point_import.h"

#include <array>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <set>
#include <utility>
#include <vector>

#include "base/sha256.h"
#include "base/strings.h"
#include "bench/point.h"

namespace slipstream {
namespace {

constexpr size_t kMaxLineBytes = 16u << 20;

// The value at "config.input_len"; null where there is none.
const Json* find_path(const Json& record, const std::string& path) {
  const Json* value = &record;
  for (const std::string& key : split(path, '.')) {
    if (!value->is_object()) return nullptr;
    const auto found = value->find(key);
    if (found == value->end()) return nullptr;
    value = &*found;
  }
  return value->is_null() ? nullptr : value;
}

std::string text_at(const Json& record, const std::string& path) {
  const Json* value = find_path(record, path);
  return value != nullptr && value->is_string() ? value->get<std::string>() : "";
}

// Fills a point column by column and remembers what the record lacks.
class Source {
 public:
  Source(const Json& record, const Json& overrides) : record_(record), overrides_(overrides) {
    point_ = overrides;
  }

  bool has(const std::string& column) const { return point_.contains(column); }
  // Not over what the command line gave.
  void put(const std::string& column, Json value) {
    if (!overrides_.contains(column)) point_[column] = std::move(value);
  }
  void optional(const std::string& column, const std::string& path, double scale = 0.0) {
    const Json* value = find_path(record_, path);
    if (value == nullptr || overrides_.contains(column)) return;
    if (!fits_column(*value, *find_point_column(column))) return wrong(path, column);
    point_[column] = scale == 0.0 ? *value : Json(value->get<double>() * scale);
  }
  void required(const std::string& column, const std::string& path) {
    if (has(column)) return;
    if (find_path(record_, path) == nullptr) return missing(path, column);
    optional(column, path);
  }
  void missing(const std::string& path, const std::string& column = "") {
    missing_ += (missing_.empty() ? "" : ", ") + path;
    if (!column.empty() && column != path) missing_ += " (--set " + column + "=VALUE)";
  }
  void wrong(const std::string& path, const std::string& column) {
    wrong_value(path, column_type_text(find_point_column(column)->type));
  }
  void wrong_value(const std::string& path, const std::string& expected) {
    if (!reported_.insert(path).second) return;
    wrong_ += str(wrong_.empty() ? "" : ", ", path, " (", expected, " is expected)");
  }
  Status status() const {
    std::string problem;
    if (!missing_.empty()) problem = "missing columns: " + missing_;
    if (!wrong_.empty()) {
      problem += str(problem.empty() ? "" : "; ", "columns of the wrong type: ", wrong_);
    }
    return problem.empty() ? Status() : failed(problem);
  }
  const Json& point() const { return point_; }
  double number(const std::string& column) const {
    const auto found = point_.find(column);
    return found != point_.end() && found->is_number() ? found->get<double>() : 0.0;
  }

 private:
  const Json& record_;
  const Json& overrides_;
  Json point_;
  std::string missing_, wrong_;
  std::set<std::string> reported_;  // each once, whatever asks for it
};

std::string short_digest(const Json& value) {
  return to_hex(sha256(dump_json(value))).substr(0, 8);
}

// "closed 64", "poisson 3.5", "constant 2", "burst", "bursts 16 2", "trace NAME 4.7"
void put_arrival(const Json& record, Source& source) {
  if (source.has("arrival")) return;
  if (find_path(record, "arrival") == nullptr) return source.missing("arrival");
  const std::vector<std::string> words = split(text_at(record, "arrival"), ' ');
  const std::string& kind = words[0];
  if (words.size() == 1 && kind == "burst") return source.put("arrival", kind);
  const bool has_load = kind == "closed" || kind == "constant" || kind == "poisson";
  const bool has_name = kind == "bursts" || kind == "trace";
  const Result<Json> load = parse_json(words.back(), "arrival");
  if (words.size() != (has_name ? 3u : 2u) || !(has_load || has_name) || !load.ok() ||
      !load->is_number()) {
    return source.wrong_value("arrival",
                              "closed C, constant R, poisson R, burst, bursts N R or"
                              " trace NAME R");
  }
  source.put("arrival", has_load           ? kind
                        : kind == "bursts" ? "bursts of " + words[1]
                                           : "trace " + words[1]);
  source.put(kind == "closed" ? "concurrency" : "request_rate", load.value());
}

// What the client says of itself and counted besides.
void put_client_figures(const Json& record, Source& source) {
  source.optional("goodput_requests_s", "goodput.requests_s");
  source.optional("goodput_limits", "goodput.limits");
  source.optional("client_lag_ms_p99", "client_lag_ms.p99");
  source.optional("client_lag_ms_max", "client_lag_ms.max");
  source.optional("tokens_per_chunk_mean", "tokens_per_chunk.mean");
  source.optional("stalls", "stalls.count");
  const Json* reasons = find_path(record, "invalid_reasons");
  if (reasons == nullptr || !reasons->is_array()) return;
  std::string text;
  for (const Json& reason : *reasons) {
    if (reason.is_string()) text += (text.empty() ? "" : "; ") + reason.get<std::string>();
  }
  if (!text.empty()) source.put("invalid_reason", text);
}

// The machine as records of ours describe it. A client knows nothing of the server's device.
void put_machine(const Json& record, Source& source) {
  source.optional("cpu", "host.cpu");
  source.optional("cores_used", "host.cores_used");
  source.optional("memory_bytes", "host.memory_bytes");
  source.optional("driver", "host.driver");
  source.optional("cuda", "host.cuda");
  if (source.has("gpu")) return;
  const Json* gpus = find_path(record, "host.gpus");
  const bool on_gpu = gpus != nullptr && gpus->is_array() && !gpus->empty();
  if (on_gpu && (*gpus)[0].is_string()) {
    source.put("gpu", (*gpus)[0]);
    source.put("num_devices", gpus->size());
  } else if (starts_with(text_at(record, "device"), "cpu")) {
    source.put("gpu", "");
  } else {
    source.missing("device", "gpu");
  }
}

void put_model(const Json& record, Source& source) {
  source.required("model", "model.name");
  source.optional("model_family", "model.family");
  source.optional("model_params", "model.params");
  source.optional("kv", "model.kv");
  const bool is_dummy = text_at(record, "model.weights") == "dummy";
  std::string quantization = text_at(record, "config.quantization");
  if (quantization == "auto") quantization.clear();
  source.put("dummy_weights", is_dummy ? 1 : 0);
  if (!is_dummy && quantization.empty()) return source.required("weights", "model.weights");
  source.put("weights", quantization.empty() ? "unquantised" : quantization);
}

void put_latencies(const Json& record, Source& source) {
  for (const std::string& latency : latency_names()) {
    if (find_path(record, latency + "_ms") == nullptr) {
      // Nothing came back: there is nothing to time.
      const Json* requests = find_path(record, "requests");
      const Json* errors = find_path(record, "errors");
      const bool all_failed = requests != nullptr && errors != nullptr && *requests == *errors;
      if (!all_failed && !record.contains(latency + "_ms")) source.missing(latency + "_ms");
      continue;
    }
    for (const std::string& statistic : latency_statistics()) {
      source.optional(str(latency, "_ms_", statistic), str(latency, "_ms.", statistic));
    }
  }
}

// Who served. A client that was told nothing of the server knows only itself.
void put_engine(bool is_client_alone, Source& source) {
  const std::string prefix = is_client_alone ? "server." : "";
  source.required("engine", prefix + "engine");
  source.required("engine_version", prefix + "engine_version");
  source.optional("git_commit", prefix + "git_commit");
  if (!is_client_alone) return;
  if (!source.has("git_commit")) source.put("git_commit", "");
  source.put("client", "slipstream bench serve");
  source.optional("client_version", "engine_version");
}

void put_bench_record(const Json& record, const std::string& kind, Source& source) {
  put_engine(kind == "serve" && find_path(record, "model") == nullptr, source);
  for (const char* column : {"started_at", "requests_s", "output_tok_s"}) {
    source.required(column, column);
  }
  if (kind == "serve") {
    for (const char* column : {"requests", "errors"}) source.required(column, column);
    source.required("tokens_in", "config.input_len");
    source.required("tokens_out", "config.output_len");
    put_arrival(record, source);
    put_latencies(record, source);
    put_client_figures(record, source);
  } else {
    source.required("requests", "num_prompts");
    source.required("tokens_in", "input_len");
    source.required("tokens_out", "output_len");
    source.optional("concurrency", "max_num_seqs");
    source.put("errors", 0);  // one failed request fails the measurement
    source.put("arrival", "offline");
  }
  put_machine(record, source);
  put_model(record, source);
  source.optional("duration_s", "seconds");
  source.optional("client_command", "command");
  source.optional("config", "config");
  // What a record names as the columns do.
  for (const PointColumn& column : point_columns()) {
    const bool is_taken = source.has(column.name) || column.name == "record" ||
                          column.name == "model" || column.name == "arrival";
    if (!is_taken) source.optional(column.name, column.name);
  }
  if (kind == "throughput" && record.contains("config") && !source.has("engine_config")) {
    Json config = record.at("config");
    if (config.is_object()) config.erase("seed");
    source.put("engine_config", short_digest(config));
  }
  if (!source.has("total_tok_s")) {
    source.put("total_tok_s", source.number("output_tok_s") +
                                  source.number("requests_s") * source.number("tokens_in"));
  }
}

// "prompt_tokens=128,output_tokens=1024" of the older almanac's own database.
int64_t data_value(const std::string& data, const std::string& key) {
  for (const std::string& part : split(data, ',')) {
    if (!starts_with(part, key + "=")) continue;
    const Result<Json> value = parse_json(part.substr(key.size() + 1), key);
    if (value.ok() && value->is_number_integer()) return value->get<int64_t>();
  }
  return -1;
}

void put_older_shape(const Json& record, Source& source) {
  const std::string data = text_at(record, "data");
  for (const auto& [column, key] :
       {std::pair{"tokens_in", "prompt_tokens"}, std::pair{"tokens_out", "output_tokens"}}) {
    if (find_path(record, key) == nullptr && data_value(data, key) >= 0) {
      source.put(column, data_value(data, key));
    } else {
      source.required(column, key);
    }
    const std::string variance = str(key, "_variance");
    source.optional(str(column, "_variance"), variance);
  }
}

void put_older_load(const Json& record, Source& source) {
  const std::string rate_type = text_at(record, "rate_type");
  if (rate_type == "synchronous") {
    source.put("arrival", "closed");
    source.put("concurrency", 1);
  } else if (rate_type == "throughput") {
    source.put("arrival", "burst");
  } else if (rate_type == "constant" || rate_type == "poisson") {
    source.put("arrival", rate_type);
    // The published rows leave out the rate that was asked for; the one reached tells them apart.
    source.optional("request_rate", find_path(record, "rate") != nullptr ? "rate"
                                    : find_path(record, "queries_per_second") != nullptr
                                        ? "queries_per_second"
                                        : "completed_request_rate");
  } else if (rate_type.empty()) {
    source.missing("rate_type");
  } else {
    source.wrong_value("rate_type", "constant, poisson, synchronous or throughput");
  }
}

// "H100:8", "H100", "H100!"
void put_older_gpu(const Json& record, Source& source) {
  const std::vector<std::string> parts = split(text_at(record, "gpu"), ':');
  if (parts.empty() || parts[0].empty()) return source.required("gpu", "gpu");
  std::string name = parts[0];
  if (name.back() == '!') name.pop_back();
  source.put("gpu", name);
  const Result<Json> count = parts.size() > 1 ? parse_json(parts[1], "gpu") : Json(1);
  if (!count.ok() || !count->is_number_integer()) {
    return source.wrong_value("gpu", "a name, or a name and a number such as H100:8");
  }
  source.put("num_devices", count.value());
}

std::string iso_time(double unix_s) {
  constexpr double kYear9999 = 253'402'300'799.0;
  if (!(unix_s >= 0.0 && unix_s <= kYear9999)) return "";
  const auto seconds = static_cast<std::time_t>(unix_s);
  std::tm utc{};
  if (::gmtime_r(&seconds, &utc) == nullptr) return "";
  std::array<char, 40> text{};
  std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text.data();
}

void put_older_row(const Json& record, Source& source) {
  const std::string engine_key = record.contains("framework") ? "framework" : "llm_server_type";
  source.required("engine", engine_key);
  source.optional("engine_version", "framework_version");
  source.optional("engine_version", "version_metadata." + text_at(record, engine_key));
  source.required("model", record.contains("model_repo") ? "model_repo" : "model");
  source.optional("model_family", "model_family");
  source.optional("tokenizer", "tokenizer");
  source.put("weights", text_at(record, "quant").empty() ? "unstated" : text_at(record, "quant"));
  put_older_shape(record, source);
  put_older_load(record, source);
  put_older_gpu(record, source);
  const bool published = record.contains("queries_per_second");
  source.required("requests_s", published ? "queries_per_second" : "completed_request_rate");
  source.put("output_tok_s", source.number("requests_s") * source.number("tokens_out"));
  source.put("total_tok_s", source.number("requests_s") *
                                (source.number("tokens_in") + source.number("tokens_out")));
  source.optional("requests", "completed_request_count");
  source.optional("repeat", "repeat_index");
  source.optional("duration_s", "duration");
  source.optional("queue_s", "queue_duration");
  source.optional("cold_start_s", "cold_start_duration");
  source.optional("kv_cache_usage_percent_mean", "kv_cache_usage_mean");
  source.optional("server_region", "server_region");
  source.optional("client_region", "client_region");
  source.put("client", "guidellm");
  const Json* start = find_path(record, "start_time");
  if (start != nullptr && start->is_number()) {
    source.put("started_at", iso_time(start->get<double>()));
  }
  for (const auto& [column, key] :
       {std::pair{"itl", "itl"}, std::pair{"ttft", "ttft"}, std::pair{"e2e", "ttlt"}}) {
    for (const char* statistic : {"mean", "p50", "p90", "p95", "p99"}) {
      source.optional(str(column, "_ms_", statistic), str(key, "_", statistic), 1e3);
    }
    if (find_path(record, str(key, "_p50")) == nullptr) source.missing(str(key, "_p50"));
  }
  source.optional("tpot_ms_p50", "tpot_median", 1e3);
  Json config = Json::object();
  for (const char* key : {"cli_args", "env_vars", "kwargs", "llm_server_config", "client_config"}) {
    if (find_path(record, key) != nullptr) config[key] = record.at(key);
  }
  Json server = config;
  server.erase("client_config");
  source.put("engine_config", server.empty() ? "default" : short_digest(server));
  source.put("config", std::move(config));
}

// Where the record names none: what is imported together belongs together.
void put_campaign(const std::string& key, const ImportOptions& options, Source& source,
                  ConvertedRecord& converted) {
  source.optional("campaign", key);
  if (source.has("campaign")) return;
  source.put("campaign", options.campaign);
  converted.if_taken = IfTaken::kNextRepeat;
}

bool is_point_line(const Json& record) {
  return record.contains("point_id") && record.contains("campaign");
}

}  // namespace

Result<ConvertedRecord> point_from_record(const Json& record, const ImportOptions& options) {
  if (!record.is_object()) return failed("a JSON object is expected");
  ConvertedRecord converted;
  if (is_point_line(record)) {
    converted.point = record;
    converted.point.erase("point_id");
    converted.point.erase("series_id");
    converted.point.update(options.overrides);
    SLIPSTREAM_ASSIGN_OR_RETURN(converted.point, complete_point(converted.point));
    return converted;
  }
  Source source(record, options.overrides);
  if (record.contains("framework") || record.contains("llm_server_type")) {
    put_older_row(record, source);
    put_campaign("group_id", options, source, converted);
  } else {
    const std::string kind = text_at(record, "kind");
    if (kind.empty()) return failed("missing columns: kind");
    if (record.value("schema", Json(nullptr)) != 1) {
      return failed("schema must be 1: a newer version wrote this record");
    }
    if (kind != "serve" && kind != "throughput") converted.skipped = "of kind " + quote(kind);
    if (record.value("summary", Json(false)) == true) converted.skipped = "a summary of repeats";
    if (!converted.skipped.empty()) return converted;
    put_bench_record(record, kind, source);
    put_campaign("campaign", options, source, converted);
  }
  source.put("record", record);
  SLIPSTREAM_RETURN_IF_ERROR(source.status());
  SLIPSTREAM_ASSIGN_OR_RETURN(converted.point, complete_point(source.point()));
  return converted;
}

Status add_override(const std::string& text, Json& overrides) {
  const size_t equals = text.find('=');
  const std::string name = text.substr(0, equals);
  const PointColumn* column = find_point_column(name);
  if (equals == std::string::npos || column == nullptr || column->type == ColumnType::kJson) {
    return bad_usage(str("--set ", quote(text),
                         ": COLUMN=VALUE is expected, such as model=qwen3-8b"
                         " or gpu=H100; `almanac export --csv` lists the columns"));
  }
  Json value = text.substr(equals + 1);
  if (column->type != ColumnType::kText) {
    const Result<Json> parsed = parse_json(value.get<std::string>(), name);
    value = parsed.ok() ? parsed.value() : Json("");
  }
  if (!fits_column(value, *column)) {
    return bad_usage(
        str("--set ", quote(text), ": ", column_type_text(column->type), " is expected"));
  }
  overrides[name] = std::move(value);
  return {};
}

Status import_points(const std::string& path, const ImportOptions& options, PointStore& store,
                     ImportCounts& counts,
                     const std::function<void(const std::string& problem)>& report) {
  std::error_code code;
  if (std::filesystem::is_directory(path, code)) return failed(path + ": is a folder");
  std::ifstream file(path, std::ios::binary);
  if (!file) return failed(path + ": cannot be opened");
  ImportOptions chosen = options;
  if (chosen.campaign.empty()) chosen.campaign = std::filesystem::path(path).stem().string();
  int64_t line_number = 0;
  for (std::string line; std::getline(file, line);) {
    ++line_number;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    const auto refuse = [&](const std::string& why) {
      ++counts.num_refused;
      report(str(path, ":", line_number, ": ", why));
    };
    const bool is_cut = file.eof();  // there is no newline
    const Result<Json> record = parse_json(line, "record", {.max_bytes = kMaxLineBytes});
    if (!record.ok()) {
      refuse(record.status().message() + (is_cut ? "; the file ends within this line" : ""));
      continue;
    }
    const Result<ConvertedRecord> converted = point_from_record(record.value(), chosen);
    if (!converted.ok()) {
      refuse(converted.status().message());
      continue;
    }
    if (!converted->skipped.empty()) {
      ++counts.num_skipped;
      continue;
    }
    const Result<InsertOutcome> outcome = store.insert(converted->point, converted->if_taken);
    if (!outcome.ok()) return outcome.status().in(str(path, ":", line_number));
    if (outcome.value() == InsertOutcome::kTaken) {
      refuse(
          "another measurement of this point is stored; give this one another repeat or"
          " campaign (--set repeat=N, --set campaign=NAME)");
      continue;
    }
    ++(outcome.value() == InsertOutcome::kNew ? counts.num_new : counts.num_present);
  }
  if (file.bad()) return failed(path + ": cannot be read to its end");
  return {};
}

}  // namespace slipstream
