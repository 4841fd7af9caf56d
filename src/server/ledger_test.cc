// Rules of the ledger: what was recorded is there after a kill, sums are exact for any period, and
// no file or disk can stop the server.
#include "server/ledger.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <map>
#include <random>
#include <string>
#include <tuple>

#include "base/temp_folder_for_test.h"

namespace slipstream {
namespace {

constexpr int64_t kHourMs = 3'600'000;

LedgerEntry entry_at(int64_t finished_unix_ms, const std::string& key, int64_t input,
                     int64_t output) {
  return {.finished_unix_ms = finished_unix_ms,
          .request_id = "cmpl-1",
          .key_label = key,
          .route = "/v1/completions",
          .model = "tiny",
          .input_tokens = input,
          .cached_tokens = input / 2,
          .output_tokens = output,
          .finish = "stop"};
}

std::vector<UsageRow> usage_of(Ledger& ledger, const UsageQuery& query = {}) {
  auto rows = ledger.usage(query);
  EXPECT_TRUE(rows.ok()) << rows.status().message();
  return rows.ok() ? rows.value() : std::vector<UsageRow>{};
}

int64_t num_requests(Ledger& ledger) {
  int64_t sum = 0;
  for (const UsageRow& row : usage_of(ledger)) sum += row.num_requests;
  return sum;
}

void expect_one_line(const Status& status, const std::string& says) {
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.message().find('\n'), std::string::npos) << status.message();
  EXPECT_NE(status.message().find(says), std::string::npos) << status.message();
}

// Overwrites bytes of a file in place.
void patch(const std::string& path, int64_t offset, std::string_view bytes) {
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  file.seekp(offset);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

// A ledger of one row, closed.
std::string written_ledger(const TempFolder& folder) {
  const std::string path = (folder / "usage.db").string();
  auto ledger = Ledger::open(path);
  EXPECT_TRUE(ledger.ok()) << ledger.status().message();
  const LedgerEntry entry = entry_at(1'000, "a", 10, 20);
  EXPECT_TRUE(ledger.value()->record({&entry, 1}).ok());
  return path;
}

TEST(Ledger, SumsPerKeyAndModelAndSortsThem) {
  const TempFolder folder;
  auto ledger = Ledger::open((folder / "made/on/the/way/usage.db").string()).value();
  std::vector<LedgerEntry> entries = {entry_at(5, "b", 1, 2), entry_at(6, "a", 10, 20),
                                      entry_at(7, "b", 100, 200), entry_at(8, "b", 4, 8)};
  entries[3].model = "big";
  ASSERT_TRUE(ledger->record(entries).ok());
  const std::vector<UsageRow> rows = usage_of(*ledger);
  ASSERT_EQ(rows.size(), 3u);
  EXPECT_EQ(rows[0].key_label, "a");
  EXPECT_EQ(rows[1].model, "big");
  EXPECT_EQ(rows[2].key_label, "b");
  EXPECT_EQ(rows[2].num_requests, 2);
  EXPECT_EQ(rows[2].input_tokens, 101);
  EXPECT_EQ(rows[2].cached_tokens, 50);
  EXPECT_EQ(rows[2].output_tokens, 202);
  EXPECT_EQ(usage_of(*ledger, {.key_label = "b", .only_key = true}).size(), 2u);
  EXPECT_TRUE(usage_of(*ledger, {.key_label = "", .only_key = true}).empty());
}

TEST(Ledger, AnyPeriodGivesWhatItsRowsGive) {
  const TempFolder folder;
  auto ledger = Ledger::open((folder / "usage.db").string()).value();
  std::mt19937 random(7);
  const auto draw = [&random](int64_t end) {
    return std::uniform_int_distribution<int64_t>(0, end - 1)(random);
  };
  std::vector<LedgerEntry> entries;
  for (int i = 0; i < 400; ++i) {
    const int64_t at = i % 8 == 0 ? draw(6) * kHourMs : draw(6 * kHourMs);
    entries.push_back(entry_at(at, draw(2) == 0 ? "a" : "b", draw(1'000), draw(1'000)));
  }
  ASSERT_TRUE(ledger->record(entries).ok());
  for (int i = 0; i < 300; ++i) {
    UsageQuery query;
    query.from_unix_ms = i % 3 == 0 ? draw(7) * kHourMs : draw(7 * kHourMs);
    query.to_unix_ms = i % 5 == 0 ? INT64_MAX : i % 7 == 0 ? draw(7) * kHourMs : draw(7 * kHourMs);
    query.only_key = i % 2 == 0;
    query.key_label = "a";
    std::map<std::string, std::tuple<int64_t, int64_t, int64_t, int64_t>> expected;
    for (const LedgerEntry& entry : entries) {
      if (entry.finished_unix_ms < query.from_unix_ms) continue;
      if (entry.finished_unix_ms >= query.to_unix_ms) continue;
      if (query.only_key && entry.key_label != query.key_label) continue;
      auto& [count, input, cached, output] = expected[entry.key_label];
      count += 1;
      input += entry.input_tokens;
      cached += entry.cached_tokens;
      output += entry.output_tokens;
    }
    const std::vector<UsageRow> rows = usage_of(*ledger, query);
    ASSERT_EQ(rows.size(), expected.size()) << query.from_unix_ms << " " << query.to_unix_ms;
    for (const UsageRow& row : rows) {
      EXPECT_EQ(
          std::tuple(row.num_requests, row.input_tokens, row.cached_tokens, row.output_tokens),
          expected[row.key_label]);
    }
  }
}

TEST(Ledger, AKilledProcessLosesNoRecordedRowAndAReaderBesideItSeesThem) {
  const TempFolder folder;
  const std::string path = (folder / "usage.db").string();
  int pipe_fds[2];
  ASSERT_EQ(pipe(pipe_fds), 0);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {  // records for ever and says so after each
    auto ledger = Ledger::open(path);
    if (!ledger.ok()) _exit(1);
    for (int64_t i = 0;; ++i) {
      const LedgerEntry entry = entry_at(1'000 + i, "key", 3, 5);
      if (!ledger.value()->record({&entry, 1}).ok()) _exit(1);
      const char byte = 'x';
      if (write(pipe_fds[1], &byte, 1) != 1) _exit(1);
    }
  }
  close(pipe_fds[1]);
  int64_t num_said = 0;
  const auto hear = [&] {
    char byte = 0;
    const bool heard = read(pipe_fds[0], &byte, 1) == 1;
    num_said += heard ? 1 : 0;
    return heard;
  };
  ASSERT_TRUE(hear());
  {
    auto reader = Ledger::open_read_only(path);
    ASSERT_TRUE(reader.ok()) << reader.status().message();
    for (int i = 0; i < 50; ++i) {
      EXPECT_GE(num_requests(*reader.value()), num_said);
      ASSERT_TRUE(hear());
    }
  }
  kill(child, SIGKILL);
  while (hear()) {
  }
  close(pipe_fds[0]);
  int state = 0;
  waitpid(child, &state, 0);
  ASSERT_TRUE(WIFSIGNALED(state)) << "the child failed before it was killed";
  auto ledger = Ledger::open(path).value();
  const std::vector<UsageRow> rows = usage_of(*ledger);
  ASSERT_EQ(rows.size(), 1u);
  EXPECT_GE(rows[0].num_requests, num_said);
  EXPECT_LE(rows[0].num_requests, num_said + 1);  // killed between record() and saying so
  EXPECT_EQ(rows[0].output_tokens, 5 * rows[0].num_requests);
}

TEST(Ledger, TwoServersMayShareAFile) {
  const TempFolder folder;
  const std::string path = (folder / "usage.db").string();
  auto first = Ledger::open(path).value();
  auto second = Ledger::open(path).value();
  for (int64_t i = 0; i < 100; ++i) {
    const LedgerEntry entry = entry_at(i, "key", 1, 1);
    ASSERT_TRUE(first->record({&entry, 1}).ok());
    ASSERT_TRUE(second->record({&entry, 1}).ok());
  }
  EXPECT_EQ(num_requests(*first), 200);
  second.reset();
  EXPECT_EQ(num_requests(*first), 200);
}

TEST(Ledger, RowsOutliveTheServerAndTheLogIsFoldedIn) {
  const TempFolder folder;
  const std::string path = written_ledger(folder);
  EXPECT_FALSE(std::filesystem::exists(path + "-wal"));
  const LedgerEntry entry = entry_at(2'000, "a", 1, 1);
  auto ledger = Ledger::open(path).value();
  ASSERT_TRUE(ledger->record({&entry, 1}).ok());
  EXPECT_EQ(num_requests(*ledger), 2);
}

TEST(Ledger, AFullDiskFailsTheRecordAndLosesNoRow) {
  const TempFolder folder;
  const std::string path = (folder / "usage.db").string();
  auto ledger = Ledger::open(path).value();
  const LedgerEntry entry = entry_at(1, "key", 1, 1);
  ASSERT_TRUE(ledger->record({&entry, 1}).ok());

  // Files may not grow any more: what a full disk does to a process.
  const auto old_handler = signal(SIGXFSZ, SIG_IGN);
  rlimit old_limit{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old_limit), 0);
  rlimit limit = old_limit;
  limit.rlim_cur = std::filesystem::file_size(path + "-wal");
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  const Status full = ledger->record({&entry, 1});
  const Status still_full = ledger->record({&entry, 1});
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &old_limit), 0);
  signal(SIGXFSZ, old_handler);

  expect_one_line(full, path);
  EXPECT_FALSE(still_full.ok());
  EXPECT_EQ(num_requests(*ledger), 1);
  ledger.reset();  // what waited is written as soon as it can be, at the latest now
  EXPECT_EQ(num_requests(*Ledger::open(path).value()), 3);
}

TEST(Ledger, AFileThatIsNotALedgerIsRefusedInOneLineAndLeftAlone) {
  const TempFolder folder;
  const std::string text(10'000, 'x');
  const std::string not_a_database = folder.write("text", text);
  for (const auto& opened :
       {Ledger::open(not_a_database), Ledger::open_read_only(not_a_database)}) {
    expect_one_line(opened.status(), "--usage-db");
  }
  EXPECT_EQ(read_file(not_a_database), text);
  expect_one_line(Ledger::open(folder.path()).status(), "--usage-db");
  expect_one_line(Ledger::open(not_a_database + "/usage.db").status(), "its folder cannot be made");
  expect_one_line(Ledger::open("").status(), "no file is named");
}

// Offsets of SQLite's file header: user_version at 60, application_id at 68.
TEST(Ledger, AnotherProgramsDatabaseOrANewerVersionIsRefused) {
  const TempFolder folder;
  const std::string path = written_ledger(folder);
  patch(path, 60, std::string("\0\0\0\x63", 4));
  expect_one_line(Ledger::open(path).status(), "newer version");
  expect_one_line(Ledger::open_read_only(path).status(), "newer version");
  patch(path, 68, "abcd");
  expect_one_line(Ledger::open(path).status(), "another program's database");
}

TEST(Ledger, ADamagedFileIsAnErrorNotACrash) {
  const TempFolder folder;
  const std::string path = written_ledger(folder);
  const auto num_bytes = static_cast<int64_t>(std::filesystem::file_size(path));
  const std::string whole = read_file(path);
  for (int64_t offset = 100; offset < num_bytes; offset += 1'000) {
    write_file(path, whole);
    patch(path, offset, std::string(1'000, '\xA5'));
    auto ledger = Ledger::open(path);
    if (!ledger.ok()) continue;
    const LedgerEntry entry = entry_at(1, "key", 1, 1);
    const Status recorded = ledger.value()->record({&entry, 1});
    if (!recorded.ok()) expect_one_line(recorded, path);
    const auto rows = ledger.value()->usage({});
    if (!rows.ok()) expect_one_line(rows.status(), path);
  }
}

TEST(Ledger, ReadingMakesNoFileAndWritesNoRow) {
  const TempFolder folder;
  const std::string path = (folder / "usage.db").string();
  expect_one_line(Ledger::open_read_only(path).status(), "is not there");
  EXPECT_FALSE(std::filesystem::exists(path));
  folder.write("usage.db", "");
  expect_one_line(Ledger::open_read_only(path).status(), "it is empty");
  std::filesystem::remove(path);
  written_ledger(folder);
  auto reader = Ledger::open_read_only(path).value();
  const LedgerEntry entry = entry_at(1, "key", 1, 1);
  EXPECT_FALSE(reader->record({&entry, 1}).ok());
  EXPECT_EQ(num_requests(*reader), 1);
}

TEST(Ledger, TheNamesOfKeysMayBeAnyText) {
  const TempFolder folder;
  auto ledger = Ledger::open((folder / "usage.db").string()).value();
  using std::string_literals::operator""s;
  const std::string key = "it's a \"key\"\0; DROP TABLE requests; \xFF"s;
  const LedgerEntry entry = entry_at(1, key, 1, 1);
  ASSERT_TRUE(ledger->record({&entry, 1}).ok());
  const std::vector<UsageRow> rows = usage_of(*ledger, {.key_label = key, .only_key = true});
  ASSERT_EQ(rows.size(), 1u);
  EXPECT_EQ(rows[0].key_label, key);
}

TEST(Ledger, InputAndOutputTokensHaveOnePrice) {
  UsageRow row;
  row.input_tokens = 1'500'000;
  row.cached_tokens = 1'000'000;  // of the input
  row.output_tokens = 500'000;
  EXPECT_DOUBLE_EQ(price_of(row, 0.25), 0.5);
}

}  // namespace
}  // namespace slipstream
