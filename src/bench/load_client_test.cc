// Rules of the load client: every stream is counted once and as what it was, times are those of the
// bytes' arrival, and a server that is gone ends the run.
#include "bench/load_client.h"

#include <gtest/gtest.h>

#include <atomic>
#include <map>

#include "base/strings.h"
#include "bench/load_check.h"
#include "bench/load_stats.h"
#include "bench/response_reader.h"
#include "bench/scripted_server.h"

namespace slipstream {
namespace {

constexpr int64_t kNsPerMs = 1'000'000;

HttpTarget target_at(int port) {
  HttpTarget target = parse_target(str("http://localhost:", port, "/v1")).value();
  EXPECT_TRUE(resolve_target(target).ok());
  return target;
}

std::vector<LoadSession> sessions_of(int64_t count) {
  std::vector<LoadSession> sessions;
  for (int64_t i = 0; i < count; ++i) sessions.push_back({0, str("{\"prompt\":[", i, "]}"), 1});
  return sessions;
}

TEST(LoadClient, EveryStreamIsCountedOnceAndByItsKind) {
  const Result<Json> record = check_load({.num_streams = 400,
                                          .num_chunks = 20,
                                          .ttft_ms = 20.0,
                                          .itl_ms = 5.0,
                                          .stall_every = 40,
                                          .stall_ms = 1000.0});
  ASSERT_TRUE(record.ok()) << record.status().message();
  EXPECT_EQ(record->at("requests"), 400);
  EXPECT_EQ(record->at("errors"), 8);  // 2 %
  EXPECT_EQ(record->at("errors_by_kind"), record->at("expected_errors_by_kind"));
  EXPECT_EQ(record->at("errors_by_kind").size(), 4u);
  EXPECT_EQ(record->at("chunks"), 392 * 20);
  EXPECT_EQ(record->at("output_tokens_total"), 392 * 20);
  EXPECT_EQ(record->at("stalls").at("count"), record->at("expected_stalls"));
  EXPECT_GE(record->at("expected_stalls"), 5);  // ten, but for what a busy machine makes of them
  // Loose: this is a test, not a measurement.
  EXPECT_GE(record->at("ttft_ms").at("p50"), 20.0);
  EXPECT_NEAR(record->at("itl_ms").at("p50").get<double>(), 5.0, 2.0);
  EXPECT_LT(record->at("arrival_error_ms").at("p50").get<double>(), 1.0);
  EXPECT_GT(record->at("client_lag_ms").at("samples"), 392 * 20 / 2);
}

TEST(LoadClient, ABoundOnConcurrencyHolds) {
  std::atomic<int64_t> num_scripts{0};
  const auto server = ScriptedServer::create(12, [&](int64_t) {
    ++num_scripts;
    return StreamScript{.ttft_ns = 10 * kNsPerMs, .itl_ns = kNsPerMs, .num_chunks = 3};
  });
  ASSERT_TRUE(server.ok());
  LoadOptions options;
  options.max_concurrency = 3;
  const auto load = run_load(target_at((*server.value()).port()), sessions_of(12), options);
  ASSERT_TRUE(load.ok());
  EXPECT_EQ(num_scripts, 12);
  std::map<int64_t, int> changes;  // in flight, by time
  for (const StreamTimes& stream : load->streams) {
    EXPECT_TRUE(stream.ok) << stream.error;
    ++changes[stream.sent_ns];
    --changes[stream.ended_ns];
  }
  int in_flight = 0;
  int most = 0;
  for (const auto& [time_ns, change] : changes) {
    in_flight += change;
    most = std::max(most, in_flight);
  }
  EXPECT_EQ(most, 3);
}

TEST(LoadClient, ScheduledRequestsAreNotSentBeforeTheirTime) {
  const auto server =
      ScriptedServer::create(3, [](int64_t) { return StreamScript{.num_chunks = 1}; });
  ASSERT_TRUE(server.ok());
  std::vector<LoadSession> sessions = sessions_of(3);
  sessions[1].send_at_ns = 40 * kNsPerMs;
  sessions[2].send_at_ns = 80 * kNsPerMs;
  const auto load = run_load(target_at((*server.value()).port()), sessions, {});
  ASSERT_TRUE(load.ok());
  const auto& streams = load->streams;
  EXPECT_GE(streams[1].sent_ns - streams[0].sent_ns, 39 * kNsPerMs);
  EXPECT_GE(streams[2].sent_ns - streams[1].sent_ns, 35 * kNsPerMs);
}

TEST(LoadClient, LaterTurnsCarryTheAnswersBefore) {
  const auto server =
      ScriptedServer::create(4, [](int64_t) { return StreamScript{.num_chunks = 2}; });
  ASSERT_TRUE(server.ok());
  std::vector<LoadSession> sessions = sessions_of(1);
  sessions[0].num_turns = 3;
  LoadOptions options;
  std::vector<std::string> seen;
  options.next_body = [&seen](size_t session_idx, const std::vector<std::string>& answers) {
    EXPECT_EQ(session_idx, 0u);
    seen = answers;
    return str("{\"prompt\":[", answers.size(), "]}");
  };
  const auto load = run_load(target_at((*server.value()).port()), sessions, options);
  ASSERT_TRUE(load.ok());
  ASSERT_EQ(load->streams.size(), 3u);
  for (const StreamTimes& stream : load->streams) EXPECT_TRUE(stream.ok) << stream.error;
  EXPECT_EQ(seen, (std::vector<std::string>{" word word", " word word"}));
}

TEST(LoadClient, AServerThatIsGoneEndsTheRun) {
  auto server = ScriptedServer::create(1, [](int64_t) { return StreamScript{}; });
  ASSERT_TRUE(server.ok());
  const HttpTarget target = target_at((*server.value()).port());
  server.value().reset();
  LoadOptions options;
  options.max_concurrency = 4;
  const auto load = run_load(target, sessions_of(5000), options);
  ASSERT_TRUE(load.ok());
  EXPECT_TRUE(load->server_lost);
  int64_t num_tried = 0;
  for (const StreamTimes& stream : load->streams) {
    EXPECT_FALSE(stream.ok);
    num_tried += stream.error_kind == "connect" ? 1 : 0;
    EXPECT_TRUE(stream.error_kind == "connect" || stream.error_kind == "not_sent");
  }
  EXPECT_GE(num_tried, 32);
}

TEST(LoadClient, AnInterruptEndsWhatIsUnderWay) {
  const auto server =
      ScriptedServer::create(8, [](int64_t) { return StreamScript{.ttft_ns = 60'000 * kNsPerMs}; });
  ASSERT_TRUE(server.ok());
  int num_asked = 0;
  const LoadHooks hooks{.on_progress = {}, .should_stop = [&] { return ++num_asked > 3; }};
  const auto load = run_load(target_at((*server.value()).port()), sessions_of(8), {}, hooks);
  ASSERT_TRUE(load.ok());
  EXPECT_TRUE(load->interrupted);
  for (const StreamTimes& stream : load->streams) EXPECT_EQ(stream.error_kind, "interrupted");
}

TEST(LoadClient, ARequestThatTakesTooLongIsATimeout) {
  const auto server =
      ScriptedServer::create(1, [](int64_t) { return StreamScript{.ttft_ns = 60'000 * kNsPerMs}; });
  ASSERT_TRUE(server.ok());
  LoadOptions options;
  options.request_timeout_ms = 50;
  const auto load = run_load(target_at((*server.value()).port()), sessions_of(1), options);
  ASSERT_TRUE(load.ok());
  EXPECT_EQ(load->streams[0].error_kind, "timeout");
}

TEST(HttpTarget, UrlsAreTakenApart) {
  const HttpTarget plain = parse_target("http://example.org").value();
  EXPECT_EQ(plain.host, "example.org");
  EXPECT_EQ(plain.port, 80);
  const HttpTarget deep = parse_target("http://[::1]:8000/api/v1/").value();
  EXPECT_EQ(deep.host, "::1");
  EXPECT_EQ(deep.authority(), "[::1]:8000");
  EXPECT_EQ(deep.path_of("/v1/models"), "/api/v1/models");
  for (const char* bad : {"", "localhost:8000", "https://h", "http://", "http://h:0", "http://h:x",
                          "http://h:70000", "http://a b", "http://[::1", "http://u@h"}) {
    EXPECT_FALSE(parse_target(bad).ok()) << bad;
  }
}

// Whatever the pieces are in which a response comes, its lines are the same.
TEST(ResponseReader, PiecesOfAnySizeGiveTheSameLines) {
  const std::string chunked =
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
      "9\r\ndata: one\r\n3\r\n\n\nd\r\n8\r\nata: two\r\n2\r\n\n\n\r\n0\r\n\r\n";
  const std::string to_the_end = "HTTP/1.1 200 OK\r\nServer: x\r\n\r\ndata: one\r\n\r\ndata: two";
  for (const std::string& response : {chunked, to_the_end}) {
    for (size_t piece = 1; piece <= response.size(); ++piece) {
      std::string lines;
      ResponseReader reader([&](std::string_view line) { lines += std::string(line) + "|"; });
      for (size_t at = 0; at < response.size(); at += piece) {
        ASSERT_TRUE(reader.feed(std::string_view(response).substr(at, piece)));
      }
      ASSERT_TRUE(reader.feed_end());
      EXPECT_TRUE(reader.complete());
      EXPECT_EQ(lines, "data: one|data: two|") << piece;
    }
  }
}

TEST(ResponseReader, RefusalsAndNonsense) {
  ResponseReader refused([](std::string_view) { FAIL(); });
  EXPECT_TRUE(refused.feed("HTTP/1.1 429 Too Many\r\nContent-Length: 4\r\n\r\nslow"));
  EXPECT_TRUE(refused.complete());
  EXPECT_EQ(refused.status(), 429);
  EXPECT_EQ(refused.refusal(), "slow");
  ResponseReader nonsense([](std::string_view) {});
  EXPECT_FALSE(nonsense.feed("SSH-2.0-OpenSSH_9.2\r\n\r\n"));
  ResponseReader cut([](std::string_view) {});
  EXPECT_TRUE(cut.feed("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"));
  EXPECT_FALSE(cut.feed_end());
}

}  // namespace
}  // namespace slipstream
