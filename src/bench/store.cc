#include "bench/store.h"

#include <sqlite3.h>

#include <filesystem>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "base/strings.h"
#include "bench/point.h"

namespace slipstream {
namespace {

constexpr int kSchemaVersion = 2;
constexpr int kApplicationId = 0x536c416c;  // "SlAl" in the file's header
constexpr int kTimeoutMs = 10'000;
// Of export: what a reader looks for first comes first. The id settles what is left.
constexpr const char* kOrder =
    " ORDER BY model, weights, dummy_weights, kv, gpu, cpu, num_devices, tokens_in, tokens_out,"
    " prefix_share, engine, engine_version, engine_config, git_commit, campaign, arrival,"
    " request_rate, concurrency, repeat, point_id";

std::string column_sql(const PointColumn& column) {
  return column.name + (column.type == ColumnType::kInteger  ? " INTEGER"
                        : column.type == ColumnType::kNumber ? " REAL"
                                                             : " TEXT");
}

std::string schema_sql() {
  std::string columns;
  for (const PointColumn& column : point_columns()) {
    columns += ", " + column_sql(column);
    if (column.role != ColumnRole::kOptional) columns += " NOT NULL";
  }
  return "CREATE TABLE points(point_id TEXT PRIMARY KEY, series_id TEXT NOT NULL" + columns +
         ") STRICT; CREATE INDEX points_by_series ON points(series_id);"
         " CREATE INDEX points_by_shape ON points(model, tokens_in, tokens_out, engine);";
}

std::string column_list() {
  std::string list;
  for (const PointColumn& column : point_columns())
    list += (list.empty() ? "" : ", ") + column.name;
  return list;
}

class Statement {
 public:
  explicit Statement(sqlite3_stmt* statement) : statement_(statement) {}
  Statement(Statement&& other) noexcept : statement_(std::exchange(other.statement_, nullptr)) {}
  Statement& operator=(Statement&&) = delete;
  ~Statement() { sqlite3_finalize(statement_); }

  void bind(int idx, std::string_view text) {
    sqlite3_bind_text64(statement_, idx, text.data() == nullptr ? "" : text.data(), text.size(),
                        SQLITE_TRANSIENT, SQLITE_UTF8);
  }
  void bind(int idx, int64_t value) { sqlite3_bind_int64(statement_, idx, value); }
  void bind(int idx, const Json& value, const PointColumn& column) {
    if (value.is_null()) {
      sqlite3_bind_null(statement_, idx);
    } else if (column.type == ColumnType::kInteger) {
      bind(idx, value.get<int64_t>());
    } else if (column.type == ColumnType::kNumber) {
      sqlite3_bind_double(statement_, idx, value.get<double>());
    } else if (column.type == ColumnType::kJson) {
      bind(idx, dump_json(value));
    } else {
      bind(idx, value.get_ref<const std::string&>());
    }
  }
  int step() { return sqlite3_step(statement_); }
  int64_t column_int(int idx) const { return sqlite3_column_int64(statement_, idx); }
  std::string column_text(int idx) const {
    const auto* text = reinterpret_cast<const char*>(sqlite3_column_text(statement_, idx));
    return text == nullptr ? std::string()
                           : std::string(text, sqlite3_column_bytes(statement_, idx));
  }
  Json column_json(int idx, const PointColumn& column) const {
    if (sqlite3_column_type(statement_, idx) == SQLITE_NULL) return nullptr;
    if (column.type == ColumnType::kInteger) return column_int(idx);
    if (column.type == ColumnType::kNumber) return sqlite3_column_double(statement_, idx);
    if (column.type == ColumnType::kText) return column_text(idx);
    const Result<Json> parsed = parse_json(column_text(idx), column.name);
    return parsed.ok() ? parsed.value() : Json(nullptr);
  }

 private:
  sqlite3_stmt* statement_ = nullptr;
};

class SqliteStore : public PointStore {
 public:
  explicit SqliteStore(std::string path) : path_(std::move(path)) {}
  SqliteStore(const SqliteStore&) = delete;
  SqliteStore& operator=(const SqliteStore&) = delete;
  ~SqliteStore() override { sqlite3_close_v2(handle_); }

  Status connect(int flags);
  Status prepare_for_writing();
  Status require_schema();

  Result<InsertOutcome> insert(const Json& point, IfTaken if_taken) override;
  Result<bool> contains(const Json& point) override;
  Status for_each(const PointFilter& filter,
                  const std::function<Status(const Json& point)>& visit) override;
  Status copy_to(const std::string& path) override;

 private:
  Status error(const std::string& what) const;
  Status refuse(const std::string& why) const {
    return failed(str("almanac store ", quote(path_), ": ", why));
  }
  Status execute(const std::string& sql, const std::string& what);
  Result<Statement> prepare(const std::string& sql);
  Result<int64_t> query_int(const std::string& sql);
  Status add_new_columns();
  // 0: a new file. Refuses what another program or a newer version made.
  Result<int64_t> schema_version();
  Result<InsertOutcome> insert_locked(Json point, IfTaken if_taken);
  // Whether one of the points with this id says just the same, `but_for_repeat` if asked so.
  Result<bool> is_stored(const Json& point, const std::string& id_column, const std::string& id,
                         bool but_for_repeat);
  Result<bool> has_id(const std::string& id);
  Status write(const Json& point);
  Json read_point(const Statement& statement) const;

  std::string path_;
  sqlite3* handle_ = nullptr;
};

Status SqliteStore::error(const std::string& what) const {
  const int code = handle_ == nullptr ? SQLITE_NOMEM : sqlite3_extended_errcode(handle_);
  const char* fix = "name another file with --store";
  if ((code & 0xFF) == SQLITE_FULL || code == SQLITE_IOERR_WRITE) {
    fix = "free disk space and run it again: what was stored is kept";
  } else if ((code & 0xFF) == SQLITE_BUSY) {
    fix = "another process holds it; try again";
  } else if ((code & 0xFF) == SQLITE_NOTADB || (code & 0xFF) == SQLITE_CORRUPT) {
    fix = "move the file away or name another one with --store";
  }
  const char* reason = handle_ == nullptr ? "out of memory" : sqlite3_errmsg(handle_);
  return failed(str("almanac store ", quote(path_), " ", what, ": ", reason, "; ", fix));
}

Status SqliteStore::execute(const std::string& sql, const std::string& what) {
  if (sqlite3_exec(handle_, sql.c_str(), nullptr, nullptr, nullptr) != SQLITE_OK) {
    return error(what);
  }
  return {};
}

Result<Statement> SqliteStore::prepare(const std::string& sql) {
  sqlite3_stmt* statement = nullptr;
  if (sqlite3_prepare_v2(handle_, sql.c_str(), static_cast<int>(sql.size()), &statement, nullptr) !=
      SQLITE_OK) {
    return error("cannot be read");
  }
  return Statement(statement);
}

Result<int64_t> SqliteStore::query_int(const std::string& sql) {
  SLIPSTREAM_ASSIGN_OR_RETURN(Statement statement, prepare(sql));
  if (statement.step() != SQLITE_ROW) return error("cannot be read");
  return statement.column_int(0);
}

Status SqliteStore::connect(int flags) {
  const int code = sqlite3_open_v2(path_.c_str(), &handle_,
                                   flags | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE, nullptr);
  if (code != SQLITE_OK) return error("cannot be opened");
  sqlite3_busy_timeout(handle_, kTimeoutMs);
  return {};
}

Result<int64_t> SqliteStore::schema_version() {
  SLIPSTREAM_ASSIGN_OR_RETURN(const int64_t version, query_int("PRAGMA user_version"));
  SLIPSTREAM_ASSIGN_OR_RETURN(const int64_t id, query_int("PRAGMA application_id"));
  SLIPSTREAM_ASSIGN_OR_RETURN(const int64_t num_tables,
                              query_int("SELECT count(*) FROM sqlite_master"));
  if (version == 0 && id == 0 && num_tables == 0) return int64_t{0};
  if (id != kApplicationId) {
    return refuse("it is another program's database; name another file with --store");
  }
  if (version > kSchemaVersion) {
    return refuse(str("a newer version wrote it (schema ", version, ", this one knows ",
                      kSchemaVersion,
                      "); export it with that version and import the lines into a new store"));
  }
  return version;
}

Status SqliteStore::prepare_for_writing() {
  SLIPSTREAM_ASSIGN_OR_RETURN(int64_t version, schema_version());
  SLIPSTREAM_RETURN_IF_ERROR(
      execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL", "cannot be configured"));
  if (version == kSchemaVersion) return {};
  SLIPSTREAM_RETURN_IF_ERROR(execute("BEGIN IMMEDIATE", "cannot be written"));
  // Looked at again with the lock held: two commands may start at once.
  SLIPSTREAM_ASSIGN_OR_RETURN(version, schema_version());
  if (version == 0) {
    SLIPSTREAM_RETURN_IF_ERROR(execute(str(schema_sql(), "PRAGMA application_id = ", kApplicationId,
                                           "; PRAGMA user_version = ", kSchemaVersion, ";"),
                                       "cannot be written"));
  } else if (version < kSchemaVersion) {
    SLIPSTREAM_RETURN_IF_ERROR(add_new_columns());
  }
  return execute("COMMIT", "cannot be written");
}

// Versions differ in optional columns alone: those that a store lacks are empty in its points.
Status SqliteStore::add_new_columns() {
  for (const PointColumn& column : point_columns()) {
    SLIPSTREAM_ASSIGN_OR_RETURN(
        const int64_t is_there,
        query_int("SELECT count(*) FROM pragma_table_info('points') WHERE name = '" + column.name +
                  "'"));
    if (is_there != 0) continue;
    SLIPSTREAM_RETURN_IF_ERROR(execute("ALTER TABLE points ADD COLUMN " + column_sql(column),
                                       "cannot be brought up to"
                                       " date"));
  }
  return execute(str("PRAGMA user_version = ", kSchemaVersion), "cannot be brought up to date");
}

Status SqliteStore::require_schema() {
  SLIPSTREAM_ASSIGN_OR_RETURN(const int64_t version, schema_version());
  if (version == 0) return refuse("it is empty; `slipstream almanac import` fills it");
  if (version == kSchemaVersion) return {};
  return refuse(str("an older version wrote it (schema ", version, ", this one knows ",
                    kSchemaVersion, "); any `slipstream almanac import` brings it up to date"));
}

Json SqliteStore::read_point(const Statement& statement) const {
  Json point = Json::object();
  int idx = 0;
  for (const PointColumn& column : point_columns()) {
    point[column.name] = statement.column_json(idx++, column);
  }
  return point;
}

Result<bool> SqliteStore::is_stored(const Json& point, const std::string& id_column,
                                    const std::string& id, bool but_for_repeat) {
  SLIPSTREAM_ASSIGN_OR_RETURN(
      Statement statement,
      prepare("SELECT " + column_list() + " FROM points WHERE " + id_column + " = ?1"));
  statement.bind(1, id);
  int code = statement.step();
  for (; code == SQLITE_ROW; code = statement.step()) {
    Json stored = read_point(statement);
    if (but_for_repeat) stored["repeat"] = point.at("repeat");
    if (stored == point) return true;
  }
  if (code != SQLITE_DONE) return error("cannot be read");
  return false;
}

Result<bool> SqliteStore::has_id(const std::string& id) {
  SLIPSTREAM_ASSIGN_OR_RETURN(Statement statement,
                              prepare("SELECT count(*) FROM points WHERE point_id = ?1"));
  statement.bind(1, id);
  if (statement.step() != SQLITE_ROW) return error("cannot be read");
  return statement.column_int(0) != 0;
}

Status SqliteStore::write(const Json& point) {
  std::string places = "?1, ?2";
  for (size_t idx = 0; idx < point_columns().size(); ++idx) places += str(", ?", idx + 3);
  SLIPSTREAM_ASSIGN_OR_RETURN(Statement statement,
                              prepare("INSERT INTO points(point_id, series_id, " + column_list() +
                                      ") VALUES(" + places + ")"));
  statement.bind(1, point_id(point));
  statement.bind(2, series_id(point));
  int idx = 3;
  for (const PointColumn& column : point_columns()) {
    statement.bind(idx++, point.at(column.name), column);
  }
  return statement.step() == SQLITE_DONE ? Status() : error("cannot be written");
}

Result<InsertOutcome> SqliteStore::insert_locked(Json point, IfTaken if_taken) {
  const bool any_repeat = if_taken == IfTaken::kNextRepeat;
  const std::string series = series_id(point);
  SLIPSTREAM_ASSIGN_OR_RETURN(const bool stored,
                              is_stored(point, any_repeat ? "series_id" : "point_id",
                                        any_repeat ? series : point_id(point), any_repeat));
  if (stored) return InsertOutcome::kPresent;
  SLIPSTREAM_ASSIGN_OR_RETURN(const bool taken, has_id(point_id(point)));
  if (taken && !any_repeat) return InsertOutcome::kTaken;
  if (taken) {
    SLIPSTREAM_ASSIGN_OR_RETURN(
        const int64_t last,
        query_int("SELECT max(repeat) FROM points WHERE series_id = '" + series + "'"));
    point["repeat"] = last + 1;
  }
  SLIPSTREAM_RETURN_IF_ERROR(write(point));
  SLIPSTREAM_RETURN_IF_ERROR(execute("COMMIT", "cannot be written"));
  return InsertOutcome::kNew;
}

Result<InsertOutcome> SqliteStore::insert(const Json& point, IfTaken if_taken) {
  SLIPSTREAM_ASSIGN_OR_RETURN(Json complete, complete_point(point));
  SLIPSTREAM_RETURN_IF_ERROR(execute("BEGIN IMMEDIATE", "cannot be written"));
  Result<InsertOutcome> outcome = insert_locked(std::move(complete), if_taken);
  // A failed COMMIT may leave the transaction open.
  if (sqlite3_get_autocommit(handle_) == 0) {
    sqlite3_exec(handle_, "ROLLBACK", nullptr, nullptr, nullptr);
  }
  return outcome;
}

Result<bool> SqliteStore::contains(const Json& point) {
  for (const PointColumn& column : point_columns()) {
    if (column.is_identity() && !point.contains(column.name)) {
      return failed(str("the identity of a point needs ", column.name));
    }
  }
  return has_id(point_id(point));
}

// The conditions of a filter with their values, numbered from ?1.
struct Where {
  std::string sql;
  std::vector<Json> values;

  void add(const std::string& condition, Json value) {
    values.push_back(std::move(value));
    sql += (sql.empty() ? " WHERE " : " AND ") + str(condition, "?", values.size());
  }
};

Where where_of(const PointFilter& filter) {
  Where where;
  if (filter.campaign) where.add("campaign = ", *filter.campaign);
  if (filter.model) where.add("model = ", *filter.model);
  if (filter.engine) where.add("engine = ", *filter.engine);
  if (filter.gpu && (*filter.gpu == "cpu" || filter.gpu->empty())) {
    where.add("gpu = ", "");
  } else if (filter.gpu) {
    where.add("0 < instr(upper(gpu), upper(", *filter.gpu);
    where.sql += "))";
  }
  if (filter.tokens_in) where.add("tokens_in = ", *filter.tokens_in);
  if (filter.tokens_out) where.add("tokens_out = ", *filter.tokens_out);
  return where;
}

Status SqliteStore::for_each(const PointFilter& filter,
                             const std::function<Status(const Json& point)>& visit) {
  const Where where = where_of(filter);
  SLIPSTREAM_ASSIGN_OR_RETURN(Statement statement, prepare("SELECT " + column_list() +
                                                           " FROM points" + where.sql + kOrder));
  int idx = 1;
  for (const Json& value : where.values) {
    if (value.is_string()) {
      statement.bind(idx++, value.get_ref<const std::string&>());
    } else {
      statement.bind(idx++, value.get<int64_t>());
    }
  }
  int code = statement.step();
  for (; code == SQLITE_ROW; code = statement.step()) {
    SLIPSTREAM_RETURN_IF_ERROR(visit(read_point(statement)));
  }
  return code == SQLITE_DONE ? Status() : error("cannot be read");
}

Status SqliteStore::copy_to(const std::string& path) {
  SLIPSTREAM_ASSIGN_OR_RETURN(Statement statement, prepare("VACUUM INTO ?1"));
  statement.bind(1, path);
  if (statement.step() == SQLITE_DONE) return {};
  return failed(str("almanac store ", quote(path_), " cannot be copied to ", quote(path), ": ",
                    sqlite3_errmsg(handle_), "; free disk space or name another folder"));
}

}  // namespace

Result<std::unique_ptr<PointStore>> PointStore::open(const std::string& path) {
  if (path.empty()) return failed("no almanac store is named; name a file with --store");
  std::error_code code;
  const std::filesystem::path full_path = std::filesystem::absolute(path, code);
  if (!code) std::filesystem::create_directories(full_path.parent_path(), code);
  if (code) {
    return failed(str("almanac store ", quote(path), ": its folder cannot be made: ",
                      code.message(), "; name another file with --store"));
  }
  auto store = std::make_unique<SqliteStore>(full_path.string());
  SLIPSTREAM_RETURN_IF_ERROR(store->connect(SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE));
  SLIPSTREAM_RETURN_IF_ERROR(store->prepare_for_writing());
  return std::unique_ptr<PointStore>(std::move(store));
}

Result<std::unique_ptr<PointStore>> PointStore::open_read_only(const std::string& path) {
  std::error_code code;
  if (path.empty() || !std::filesystem::exists(path, code)) {
    return failed(str("almanac store ", quote(path),
                      " is not there: `slipstream almanac import` makes it; name another file with"
                      " --store"));
  }
  auto store = std::make_unique<SqliteStore>(path);
  SLIPSTREAM_RETURN_IF_ERROR(store->connect(SQLITE_OPEN_READONLY));
  SLIPSTREAM_RETURN_IF_ERROR(store->require_schema());
  return std::unique_ptr<PointStore>(std::move(store));
}

}  // namespace slipstream
