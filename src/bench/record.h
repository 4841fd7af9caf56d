// Benchmark records: one JSON object a line, the same on stdout and in a record file.
//
// Owns the fields every record carries: what was measured, on which machine, at which commit, by
// which command. The kinds of measurement add their own.
#pragma once

#include <functional>
#include <string>

#include "base/json.h"
#include "base/status.h"
#include "slipstream/engine.h"

namespace slipstream {

constexpr int kRecordSchema = 1;

struct GpuNames {
  std::string name, driver, cuda;  // empty: no GPU
};

struct RecordHead {
  std::string kind;  // "decode", "prefill", "limits"
  Json config;
  int repeats = 1;
  int cores_used = 0;
  const ModelInfo* model = nullptr;  // null: no model was involved
  GpuNames gpu = {};                 // of a measurement without a model
  double bytes_per_token = 0.0;      // weights, and KV where decode reads it; of one sequence
};

// The shared fields, `started_at` being now.
Json begin_record(const RecordHead& head);

// Where records go as they are measured: to a line sink, and appended to a file.
class RecordWriter {
 public:
  // An empty `save_path` saves nothing. The file is opened for appending at once, so a path that
  // cannot be written fails before anything is measured.
  static Result<RecordWriter> open(const std::string& save_path,
                                   std::function<void(const std::string& line)> print);

  // On an error nothing of the record is in the file, and what was there before still is.
  Status write(const Json& record);
  // Whether a write() to the file failed.
  bool save_failed() const { return save_failed_; }

 private:
  RecordWriter(std::string path, std::function<void(const std::string& line)> print)
      : path_(std::move(path)), print_(std::move(print)) {}

  std::string path_;
  std::function<void(const std::string& line)> print_;
  bool save_failed_ = false;
};

}  // namespace slipstream
