#include "server/ledger.h"

#include <sqlite3.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <mutex>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

#include "base/clock.h"
#include "base/log.h"
#include "base/strings.h"

namespace slipstream {
namespace {

constexpr int64_t kHourMs = 3'600'000;
constexpr int kSchemaVersion = 1;
constexpr int kApplicationId = 0x536c5573;  // "SlUs" in the file's header
constexpr int kOpenTimeoutMs = 5'000;
constexpr int kReadTimeoutMs = 2'000;
// How long record() may wait for another process that writes; longer would stall every stream.
constexpr int kRecordTimeoutMs = 5;
constexpr int64_t kRetryNs = 50'000'000;
constexpr size_t kMaxWaiting = 4'096;
constexpr std::chrono::milliseconds kCheckpointInterval{1'000};
// The log is folded in earlier when it has grown to this.
constexpr int kEarlyLogPages = 1'024;
// A log this long was never started afresh because rows kept coming: they are held up for it.
constexpr int kLongLogPages = 8'192;

// One row per request, and their sums per hour so that a long period is read at once. Rows may be
// deleted to save space; the sums stay.
constexpr const char* kSchema = R"(
CREATE TABLE requests(
  finished_unix_ms INTEGER NOT NULL, request_id TEXT NOT NULL, key_label TEXT NOT NULL,
  route TEXT NOT NULL, model TEXT NOT NULL, input_tokens INTEGER NOT NULL,
  cached_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL, finish TEXT NOT NULL) STRICT;
CREATE INDEX requests_by_time ON requests(finished_unix_ms, key_label);
CREATE TABLE usage_by_hour(
  key_label TEXT NOT NULL, unix_hour INTEGER NOT NULL, model TEXT NOT NULL,
  num_requests INTEGER NOT NULL, input_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL,
  output_tokens INTEGER NOT NULL,
  PRIMARY KEY(key_label, unix_hour, model)) STRICT, WITHOUT ROWID;
)";

constexpr const char* kInsertRequest =
    "INSERT INTO requests(finished_unix_ms, request_id, key_label, route, model, input_tokens,"
    " cached_tokens, output_tokens, finish) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";

constexpr const char* kAddToHour =
    "INSERT INTO usage_by_hour VALUES(?1, ?2, ?3, 1, ?4, ?5, ?6)"
    " ON CONFLICT(key_label, unix_hour, model) DO UPDATE SET num_requests = num_requests + 1,"
    " input_tokens = input_tokens + excluded.input_tokens,"
    " cached_tokens = cached_tokens + excluded.cached_tokens,"
    " output_tokens = output_tokens + excluded.output_tokens";

// Whole hours from the sums, what is left at both ends from the rows; one statement, so that all
// of it is one moment. `key` is "" or a condition.
std::string usage_sql(const std::string& key) {
  const std::string rows =
      "SELECT key_label, model, 1 AS requests, input_tokens, cached_tokens, output_tokens"
      " FROM requests WHERE " +
      key;
  return "SELECT key_label, model, sum(requests), sum(input_tokens), sum(cached_tokens),"
         " sum(output_tokens) FROM ("
         "SELECT key_label, model, num_requests AS requests, input_tokens, cached_tokens,"
         " output_tokens FROM usage_by_hour WHERE " +
         key + "unix_hour >= ?1 AND unix_hour < ?2 UNION ALL " + rows +
         "finished_unix_ms >= ?3 AND finished_unix_ms < ?4 UNION ALL " + rows +
         "finished_unix_ms >= ?5 AND finished_unix_ms < ?6"
         ") GROUP BY key_label, model ORDER BY key_label, model";
}

struct UsageRanges {
  int64_t first_hour = 0, end_hour = 0;  // whole hours
  int64_t head_from = 0, head_to = 0;    // before them
  int64_t tail_from = 0, tail_to = 0;    // and after
};

UsageRanges split_at_hours(int64_t from_ms, int64_t to_ms) {
  const int64_t from = std::max<int64_t>(from_ms, 0);
  const int64_t to = std::max<int64_t>(to_ms, 0);
  const int64_t first_hour = from / kHourMs + (from % kHourMs == 0 ? 0 : 1);
  const int64_t end_hour = to / kHourMs;
  if (first_hour >= end_hour) return {.head_from = from, .head_to = to};
  return {first_hour, end_hour, from, first_hour * kHourMs, end_hour * kHourMs, to};
}

class Statement {
 public:
  Statement() = default;
  explicit Statement(sqlite3_stmt* statement) : statement_(statement) {}
  Statement(Statement&& other) noexcept : statement_(std::exchange(other.statement_, nullptr)) {}
  Statement& operator=(Statement&& other) noexcept {
    std::swap(statement_, other.statement_);
    return *this;
  }
  ~Statement() { sqlite3_finalize(statement_); }

  void bind(int idx, int64_t value) { sqlite3_bind_int64(statement_, idx, value); }
  // The text must live until the next reset().
  void bind(int idx, std::string_view text) {
    sqlite3_bind_text64(statement_, idx, text.data() == nullptr ? "" : text.data(), text.size(),
                        SQLITE_STATIC, SQLITE_UTF8);
  }
  bool step_row() { return sqlite3_step(statement_) == SQLITE_ROW; }
  int64_t column_int(int idx) { return sqlite3_column_int64(statement_, idx); }
  std::string column_text(int idx) {
    const auto* text = reinterpret_cast<const char*>(sqlite3_column_text(statement_, idx));
    return text == nullptr ? std::string()
                           : std::string(text, sqlite3_column_bytes(statement_, idx));
  }
  // The result of the last step, as of sqlite3_step; ends the statement.
  int reset() { return sqlite3_reset(statement_); }
  int run() {
    sqlite3_step(statement_);
    return reset();
  }

 private:
  sqlite3_stmt* statement_ = nullptr;
};

// One connection; used by one thread.
class Database {
 public:
  Database() = default;
  Database(Database&& other) noexcept
      : path_(std::move(other.path_)), handle_(std::exchange(other.handle_, nullptr)) {}
  Database& operator=(Database&& other) noexcept {
    std::swap(path_, other.path_);
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Database() { sqlite3_close_v2(handle_); }

  static Result<Database> open(const std::string& path, int flags, int timeout_ms) {
    Database database;
    database.path_ = path;
    const int code = sqlite3_open_v2(path.c_str(), &database.handle_,
                                     flags | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE, nullptr);
    if (code != SQLITE_OK) return database.error("cannot be opened");
    database.set_timeout(timeout_ms);
    return database;
  }

  void set_timeout(int timeout_ms) { sqlite3_busy_timeout(handle_, timeout_ms); }
  sqlite3* handle() const { return handle_; }

  // What went wrong last, in one line with a way out.
  Status error(const std::string& what) const {
    const int code = handle_ == nullptr ? SQLITE_NOMEM : sqlite3_extended_errcode(handle_);
    const char* fix = "name another file with --usage-db";
    switch (code & 0xFF) {
      case SQLITE_NOTADB:
      case SQLITE_CORRUPT:
        fix = "move the file away or name another one with --usage-db";
        break;
      case SQLITE_FULL:
        fix = "free disk space";
        break;
      case SQLITE_BUSY:
        fix = "another process holds it; try again";
        break;
      default:
        break;
    }
    const char* reason = handle_ == nullptr ? "out of memory" : sqlite3_errmsg(handle_);
    return failed(str("usage ledger ", quote(path_), " ", what, ": ", reason, "; ", fix));
  }
  Status refuse(const std::string& why) const {
    return failed(
        str("usage ledger ", quote(path_), ": ", why, "; name another file with --usage-db"));
  }

  Status execute(const char* sql, const std::string& what) {
    if (sqlite3_exec(handle_, sql, nullptr, nullptr, nullptr) != SQLITE_OK) return error(what);
    return {};
  }
  Result<Statement> prepare(const std::string& sql, const std::string& what) {
    sqlite3_stmt* statement = nullptr;
    if (sqlite3_prepare_v3(handle_, sql.c_str(), static_cast<int>(sql.size()),
                           SQLITE_PREPARE_PERSISTENT, &statement, nullptr) != SQLITE_OK) {
      return error(what);
    }
    return Statement(statement);
  }
  // The first column of the only row.
  Result<Statement> query_row(const std::string& sql) {
    SLIPSTREAM_ASSIGN_OR_RETURN(Statement statement, prepare(sql, "cannot be read"));
    if (!statement.step_row()) return error("cannot be read");
    return statement;
  }
  Result<int64_t> query_int(const std::string& sql) {
    SLIPSTREAM_ASSIGN_OR_RETURN(Statement statement, query_row(sql));
    return statement.column_int(0);
  }

 private:
  std::string path_;
  sqlite3* handle_ = nullptr;
};

// 0: a new file. Refuses what another program or a newer version made.
Result<int64_t> schema_version(Database& database) {
  SLIPSTREAM_ASSIGN_OR_RETURN(const int64_t version, database.query_int("PRAGMA user_version"));
  SLIPSTREAM_ASSIGN_OR_RETURN(const int64_t id, database.query_int("PRAGMA application_id"));
  SLIPSTREAM_ASSIGN_OR_RETURN(const int64_t num_tables,
                              database.query_int("SELECT count(*) FROM sqlite_master"));
  if (version == 0 && id == 0 && num_tables == 0) return int64_t{0};
  if (id != kApplicationId) return database.refuse("it is another program's database");
  if (version > kSchemaVersion) {
    return database.refuse(str("a newer version wrote it (schema ", version, ", this one knows ",
                               kSchemaVersion, ")"));
  }
  return version;
}

Status create_schema(Database& database) {
  SLIPSTREAM_RETURN_IF_ERROR(database.execute("BEGIN IMMEDIATE", "cannot be written"));
  // Looked at again with the lock held: two servers may start at once.
  SLIPSTREAM_ASSIGN_OR_RETURN(const int64_t version, schema_version(database));
  if (version == 0) {
    const std::string sql = str(kSchema, "PRAGMA application_id = ", kApplicationId,
                                "; PRAGMA user_version = ", kSchemaVersion, ";");
    SLIPSTREAM_RETURN_IF_ERROR(database.execute(sql.c_str(), "cannot be written"));
  }
  return database.execute("COMMIT", "cannot be written");
}

// A connection that may write, on a file that has the schema.
Result<Database> open_for_writing(const std::string& path) {
  SLIPSTREAM_ASSIGN_OR_RETURN(
      Database database,
      Database::open(path, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, kOpenTimeoutMs));
  SLIPSTREAM_ASSIGN_OR_RETURN(const int64_t version, schema_version(database));
  // A row changes three pages, each of which goes to the log: small ones make it a third cheaper.
  SLIPSTREAM_RETURN_IF_ERROR(database.execute("PRAGMA page_size = 2048", "cannot be configured"));
  {
    SLIPSTREAM_ASSIGN_OR_RETURN(Statement mode, database.query_row("PRAGMA journal_mode = WAL"));
    if (mode.column_text(0) != "wal") {
      return database.refuse("its file system cannot share memory between processes");
    }
  }
  SLIPSTREAM_RETURN_IF_ERROR(database.execute(
      "PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 0", "cannot be configured"));
  if (version == 0) SLIPSTREAM_RETURN_IF_ERROR(create_schema(database));
  return database;
}

Result<std::vector<UsageRow>> read_usage(Database& database, const UsageQuery& query) {
  SLIPSTREAM_ASSIGN_OR_RETURN(
      Statement statement,
      database.prepare(usage_sql(query.only_key ? "key_label = ?7 AND " : ""), "cannot be read"));
  const UsageRanges ranges = split_at_hours(query.from_unix_ms, query.to_unix_ms);
  statement.bind(1, ranges.first_hour);
  statement.bind(2, ranges.end_hour);
  statement.bind(3, ranges.head_from);
  statement.bind(4, ranges.head_to);
  statement.bind(5, ranges.tail_from);
  statement.bind(6, ranges.tail_to);
  if (query.only_key) statement.bind(7, query.key_label);
  std::vector<UsageRow> rows;
  while (statement.step_row()) {
    rows.push_back({.key_label = statement.column_text(0),
                    .model = statement.column_text(1),
                    .num_requests = statement.column_int(2),
                    .input_tokens = statement.column_int(3),
                    .cached_tokens = statement.column_int(4),
                    .output_tokens = statement.column_int(5)});
  }
  if (statement.reset() != SQLITE_OK) return database.error("cannot be read");
  return rows;
}

// Moves the log into the database on a thread of its own, because that waits for the disk.
class Checkpointer {
 public:
  explicit Checkpointer(Database database)
      : database_(std::move(database)), thread_([this] { work(); }) {}
  ~Checkpointer() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_one();
    thread_.join();
  }
  // After every commit, with the length of the log.
  void note_write(int log_pages) {
    dirty_.store(true, std::memory_order_relaxed);
    if (log_pages < kEarlyLogPages) return;
    {
      const std::lock_guard lock(mutex_);
      early_ = true;
    }
    wake_.notify_one();
  }

 private:
  void work() {
    std::unique_lock lock(mutex_);
    while (!stop_) {
      wake_.wait_for(lock, kCheckpointInterval, [this] { return stop_ || early_; });
      early_ = false;
      if (stop_ || !dirty_.exchange(false, std::memory_order_relaxed)) continue;
      lock.unlock();
      checkpoint();
      lock.lock();
    }
  }

  void checkpoint() {
    int log_pages = 0;
    int code = sqlite3_wal_checkpoint_v2(database_.handle(), nullptr, SQLITE_CHECKPOINT_PASSIVE,
                                         &log_pages, nullptr);
    if (code == SQLITE_OK && log_pages > kLongLogPages) {
      code = sqlite3_wal_checkpoint_v2(database_.handle(), nullptr, SQLITE_CHECKPOINT_RESTART,
                                       nullptr, nullptr);
    }
    const bool is_fine = code == SQLITE_OK || (code & 0xFF) == SQLITE_BUSY;
    if (!is_fine) dirty_.store(true, std::memory_order_relaxed);
    if (!is_fine && !failing_) {
      log_warn("ledger", database_.error("cannot be brought up to date").message());
    }
    failing_ = !is_fine;
  }

  Database database_;
  bool failing_ = false;
  std::atomic<bool> dirty_{false};
  std::mutex mutex_;  // guards the next two
  std::condition_variable wake_;
  bool stop_ = false;
  bool early_ = false;
  std::thread thread_;
};

class WritingLedger : public Ledger {
 public:
  static Result<std::unique_ptr<Ledger>> open(const std::string& path) {
    auto ledger = std::make_unique<WritingLedger>();
    SLIPSTREAM_ASSIGN_OR_RETURN(ledger->database_, open_for_writing(path));
    Database& database = ledger->database_;
    const std::string what = "cannot be used";
    SLIPSTREAM_ASSIGN_OR_RETURN(ledger->begin_, database.prepare("BEGIN IMMEDIATE", what));
    SLIPSTREAM_ASSIGN_OR_RETURN(ledger->commit_, database.prepare("COMMIT", what));
    SLIPSTREAM_ASSIGN_OR_RETURN(ledger->insert_, database.prepare(kInsertRequest, what));
    SLIPSTREAM_ASSIGN_OR_RETURN(ledger->add_to_hour_, database.prepare(kAddToHour, what));
    // A file that may not be written is found now, not at the first request.
    SLIPSTREAM_RETURN_IF_ERROR(database.execute("BEGIN IMMEDIATE; COMMIT", "cannot be written"));
    SLIPSTREAM_ASSIGN_OR_RETURN(Database checkpoints, open_for_writing(path));
    database.set_timeout(kRecordTimeoutMs);
    ledger->checkpointer_ = std::make_unique<Checkpointer>(std::move(checkpoints));
    sqlite3_wal_hook(database.handle(), &WritingLedger::on_commit, ledger->checkpointer_.get());
    return std::unique_ptr<Ledger>(std::move(ledger));
  }

  ~WritingLedger() override {
    if (checkpointer_ == nullptr) return;  // open() failed
    database_.set_timeout(kOpenTimeoutMs);
    if (!waiting_.empty() && !write(waiting_).ok()) {
      log_error("ledger", "lost at the end: ", waiting_.size(), " entries");
    }
    sqlite3_wal_hook(database_.handle(), nullptr, nullptr);
    checkpointer_.reset();
    sqlite3_wal_checkpoint_v2(database_.handle(), nullptr, SQLITE_CHECKPOINT_TRUNCATE, nullptr,
                              nullptr);
  }

  Status record(std::span<const LedgerEntry> entries) override {
    if (waiting_.empty()) {
      const Status status = write(entries);
      if (!status.ok()) keep(entries);
      return status;
    }
    keep(entries);
    if (steady_now_ns() < retry_ns_) return failed("usage ledger: still waiting to be written");
    const Status status = write(waiting_);
    if (status.ok()) {
      log_info("ledger", "written late: ", waiting_.size(), " entries, lost: ", num_lost_);
      waiting_.clear();
      num_lost_ = 0;
    }
    retry_ns_ = steady_now_ns() + kRetryNs;
    return status;
  }

  Result<std::vector<UsageRow>> usage(const UsageQuery& query) override {
    return read_usage(database_, query);
  }

 private:
  static int on_commit(void* checkpointer, sqlite3*, const char*, int log_pages) {
    static_cast<Checkpointer*>(checkpointer)->note_write(log_pages);
    return SQLITE_OK;
  }

  void keep(std::span<const LedgerEntry> entries) {
    if (waiting_.empty()) retry_ns_ = steady_now_ns() + kRetryNs;
    const size_t num_kept = std::min(entries.size(), kMaxWaiting - waiting_.size());
    waiting_.insert(waiting_.end(), entries.begin(),
                    entries.begin() + static_cast<ptrdiff_t>(num_kept));
    num_lost_ += entries.size() - num_kept;
  }

  Status write(std::span<const LedgerEntry> entries) {
    Status status = begin_.run() == SQLITE_OK ? Status() : database_.error("cannot be written");
    for (const LedgerEntry& entry : entries) {
      if (!status.ok()) break;
      status = write_entry(entry);
    }
    if (status.ok() && commit_.run() != SQLITE_OK) status = database_.error("cannot be written");
    if (!status.ok() && sqlite3_get_autocommit(database_.handle()) == 0) {
      sqlite3_exec(database_.handle(), "ROLLBACK", nullptr, nullptr, nullptr);
    }
    return status;
  }

  Status write_entry(const LedgerEntry& entry) {
    const int64_t finished_ms = std::max<int64_t>(entry.finished_unix_ms, 0);
    insert_.bind(1, finished_ms);
    insert_.bind(2, entry.request_id);
    insert_.bind(3, entry.key_label);
    insert_.bind(4, entry.route);
    insert_.bind(5, entry.model);
    insert_.bind(6, entry.input_tokens);
    insert_.bind(7, entry.cached_tokens);
    insert_.bind(8, entry.output_tokens);
    insert_.bind(9, entry.finish);
    if (insert_.run() != SQLITE_OK) return database_.error("cannot be written");
    add_to_hour_.bind(1, entry.key_label);
    add_to_hour_.bind(2, finished_ms / kHourMs);
    add_to_hour_.bind(3, entry.model);
    add_to_hour_.bind(4, entry.input_tokens);
    add_to_hour_.bind(5, entry.cached_tokens);
    add_to_hour_.bind(6, entry.output_tokens);
    if (add_to_hour_.run() != SQLITE_OK) return database_.error("cannot be written");
    return {};
  }

  Database database_;  // before the statements: they are finalised first
  Statement begin_;
  Statement commit_;
  Statement insert_;
  Statement add_to_hour_;
  std::unique_ptr<Checkpointer> checkpointer_;
  std::vector<LedgerEntry> waiting_;  // after a failure, until a later record() gets through
  int64_t retry_ns_ = 0;
  uint64_t num_lost_ = 0;  // there was no room to wait
};

class ReadingLedger : public Ledger {
 public:
  explicit ReadingLedger(Database database) : database_(std::move(database)) {}
  Status record(std::span<const LedgerEntry>) override {
    return failed("the usage ledger is open for reading only");
  }
  Result<std::vector<UsageRow>> usage(const UsageQuery& query) override {
    return read_usage(database_, query);
  }

 private:
  Database database_;
};

}  // namespace

Result<std::unique_ptr<Ledger>> Ledger::open(const std::string& path) {
  std::error_code error;
  const std::filesystem::path full_path = std::filesystem::absolute(path, error);
  if (!error) std::filesystem::create_directories(full_path.parent_path(), error);
  if (path.empty() || error) {
    return failed(
        str("usage ledger ", quote(path), ": ",
            path.empty() ? "no file is named" : "its folder cannot be made: " + error.message(),
            "; name another file with --usage-db"));
  }
  return WritingLedger::open(full_path.string());
}

Result<std::unique_ptr<Ledger>> Ledger::open_read_only(const std::string& path) {
  std::error_code error;
  const std::filesystem::path full_path = std::filesystem::absolute(path, error);
  if (path.empty() || error || !std::filesystem::exists(full_path, error)) {
    return failed(str("usage ledger ", quote(path),
                      " is not there: a server writes it; name its file with --usage-db"));
  }
  SLIPSTREAM_ASSIGN_OR_RETURN(
      Database database, Database::open(full_path.string(), SQLITE_OPEN_READONLY, kReadTimeoutMs));
  SLIPSTREAM_ASSIGN_OR_RETURN(const int64_t version, schema_version(database));
  if (version == 0) return database.refuse("it is empty");
  return std::unique_ptr<Ledger>(std::make_unique<ReadingLedger>(std::move(database)));
}

double price_of(const UsageRow& row, double price_per_million_tokens) {
  return static_cast<double>(row.input_tokens + row.output_tokens) / 1e6 * price_per_million_tokens;
}

}  // namespace slipstream
