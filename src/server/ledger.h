// Ledger: what every finished request used, per key, in SQLite (WAL).
//
// A row is committed before the client gets the last byte, so a crash or SIGKILL loses at most the
// requests in flight; a power cut, at most the last seconds. Checkpoints, which may wait for the
// disk, run on a thread of the ledger's own. One thread calls the methods; other processes may
// read or write the same file.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"

namespace slipstream {

struct LedgerEntry {
  int64_t finished_unix_ms = 0;
  std::string request_id;
  std::string key_label;  // "" without keys
  std::string route;
  std::string model;
  int64_t input_tokens = 0;
  int64_t cached_tokens = 0;  // of the input
  int64_t output_tokens = 0;
  std::string finish;  // "stop", "length", "abort", "error", "deadline"
};

struct UsageRow {
  std::string key_label;
  std::string model;
  int64_t num_requests = 0;
  int64_t input_tokens = 0;
  int64_t cached_tokens = 0;
  int64_t output_tokens = 0;
};

struct UsageQuery {
  int64_t from_unix_ms = 0;
  int64_t to_unix_ms = INT64_MAX;  // exclusive
  std::string key_label;           // with only_key
  bool only_key = false;
};

class Ledger {
 public:
  // Creates the file and its folder if they are missing.
  static Result<std::unique_ptr<Ledger>> open(const std::string& path);
  // Only reads: `slipstream usage` beside a running server.
  static Result<std::unique_ptr<Ledger>> open_read_only(const std::string& path);
  virtual ~Ledger() = default;

  // One transaction. After a failure (disk full, the file is locked) the entries wait in memory, up
  // to a limit, and later calls write them: do not record them again. Never waits long.
  virtual Status record(std::span<const LedgerEntry> entries) = 0;
  // Per key and model, sorted.
  virtual Result<std::vector<UsageRow>> usage(const UsageQuery& query) = 0;
};

// One price for an input and an output token.
double price_of(const UsageRow& row, double price_per_million_tokens);

}  // namespace slipstream
