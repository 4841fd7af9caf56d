#include "server/server.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <future>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "base/clock.h"
#include "server/api_test_util.h"
#include "server/probes.h"
#include "server/raw_client_for_test.h"

namespace slipstream {
namespace {

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// Says nothing by itself; the test sends the events.
class WaitingEngine final : public Engine {
 public:
  Result<RequestId> submit(Request) override {
    const std::lock_guard lock(mutex_);
    ++num_submitted_;
    changed_.notify_all();
    return num_submitted_;
  }
  void cancel(RequestId) override {
    const std::lock_guard lock(mutex_);
    ++num_cancelled_;
    changed_.notify_all();
  }
  EngineStats stats() const override { return {}; }
  const ModelInfo& model() const override { return scripted_.model(); }
  const std::shared_ptr<const Tokenizer>& tokenizer() const override {
    return scripted_.tokenizer();
  }
  double measure_read_gb_s() override { return 1.0; }

  void wait_submitted(RequestId count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return num_submitted_ >= count; });
  }
  void wait_cancelled(int64_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return num_cancelled_ >= count; });
  }

 private:
  ScriptedEngine scripted_;
  std::mutex mutex_;
  std::condition_variable changed_;
  RequestId num_submitted_ = 0;
  int64_t num_cancelled_ = 0;
};

ServerOptions test_options() {
  ServerOptions options;
  options.port = 0;
  options.model_names = {"m"};
  options.access_log = false;
  options.version = "1.2.3";
  options.limits.max_connections = 100;
  return options;
}

class ServerTest : public ::testing::Test {
 protected:
  void start(ServerOptions options) {
    auto server = Server::create(std::move(options));
    ASSERT_TRUE(server.ok()) << server.status().message();
    server_ = std::move(server).value();
    thread_ = std::thread([this] { exit_code_.set_value(server_->run()); });
  }
  void attach() {
    auto engine = std::make_unique<WaitingEngine>();
    engine_ = engine.get();
    std::promise<void> ready;
    server_->attach(std::move(engine), 1.0, [&] { ready.set_value(); });
    ready.get_future().wait();
  }
  void TearDown() override {
    if (thread_.joinable()) thread_.join();
  }
  int exit_code() { return exit_code_.get_future().get(); }
  std::string get(const std::string& path, const std::string& more = "") {
    RawClient client(server_->port());
    client.send(get_request(path, more));
    return client.read_response();
  }
  void signal_once() { ::kill(::getpid(), SIGTERM); }
  // Until the server has noticed the signal.
  void wait_draining() {
    while (!contains(get("/readyz"), " 503 ")) std::this_thread::yield();
  }
  void send_token(RequestId id, const std::string& text, FinishReason finish) {
    TokenEvent event;
    event.request = id;
    event.token_id = 'a';
    event.text = text;
    event.finish = finish;
    event.first = finish == FinishReason::kNone;
    event.scheduled_ns = event.time_ns = steady_now_ns();
    server_->sink()({&event, 1});
  }
  static std::string completion(const std::string& more) {
    return post_request("/v1/completions", "{\"model\":\"m\",\"prompt\":\"hi\"" + more + "}");
  }

  std::unique_ptr<Server> server_;
  WaitingEngine* engine_ = nullptr;
  std::thread thread_;
  std::promise<int> exit_code_;
};

TEST_F(ServerTest, R14_ItListensWhileTheModelLoadsAndServesOnceItIsThere) {
  start(test_options());
  EXPECT_TRUE(contains(get("/livez"), " 200 "));
  EXPECT_TRUE(contains(get("/readyz"), " 503 "));
  RawClient client(server_->port());
  client.send(completion(""));
  const std::string refused = client.read_response();
  EXPECT_TRUE(contains(refused, " 503 "));
  EXPECT_TRUE(contains(refused, "retry-after: "));
  EXPECT_TRUE(contains(refused, "\"loading\""));
  attach();
  EXPECT_TRUE(contains(get("/readyz"), " 200 "));
  EXPECT_TRUE(contains(get("/health"), " 200 "));
  EXPECT_TRUE(contains(get("/version"), "1.2.3"));
  EXPECT_TRUE(contains(get("/load"), "{\"server_load\":0}"));
  signal_once();
  EXPECT_EQ(exit_code(), 0);
}

TEST_F(ServerTest, AModelThatDoesNotLoadEndsTheServer) {
  start(test_options());
  server_->fail();
  EXPECT_EQ(exit_code(), 1);
}

TEST_F(ServerTest, H6_OnlyTheProbesAndThePageAreOpen) {
  ServerOptions options = test_options();
  options.api_keys = {"a-secret-key"};
  start(std::move(options));
  attach();
  for (const char* path : {"/health", "/readyz", "/livez", "/ping", "/"}) {
    EXPECT_TRUE(contains(get(path), " 200 ")) << path;
  }
  for (const char* path : {"/version", "/load", "/metrics", "/v1/models", "/usage"}) {
    EXPECT_TRUE(contains(get(path), " 401 ")) << path;
  }
  EXPECT_TRUE(contains(get("/v1/models", "Authorization: Bearer a-secret-key\r\n"), " 200 "));
  signal_once();
  EXPECT_EQ(exit_code(), 0);
}

TEST_F(ServerTest, R1_ASignalRefusesNewWorkAndLosesNoneThatRuns) {
  start(test_options());
  attach();
  RawClient running(server_->port()), late(server_->port());
  running.send(completion(""));
  engine_->wait_submitted(1);
  signal_once();
  wait_draining();
  EXPECT_TRUE(contains(get("/livez"), " 200 "));
  late.send(completion(""));
  const std::string refused = late.read_response();
  EXPECT_TRUE(contains(refused, " 503 ")) << refused;
  EXPECT_TRUE(contains(refused, "x-should-retry: false"));
  send_token(1, "answer", FinishReason::kStop);
  const std::string answer = running.read_response();
  EXPECT_TRUE(contains(answer, " 200 ")) << answer;
  EXPECT_TRUE(contains(answer, "answer"));
  EXPECT_EQ(exit_code(), 0);
}

TEST_F(ServerTest, R2_WhatOutlivesTheDrainTimeoutGetsAnErrorAndTheExitCodeSaysSo) {
  ServerOptions options = test_options();
  options.drain_timeout_ms = 100;
  start(std::move(options));
  attach();
  RawClient stream(server_->port()), plain(server_->port());
  stream.send(completion(",\"stream\":true"));
  engine_->wait_submitted(1);
  plain.send(completion(""));
  engine_->wait_submitted(2);
  send_token(1, "first", FinishReason::kNone);
  stream.read_until("first");
  signal_once();
  const std::string rest = stream.read_all();
  EXPECT_TRUE(contains(rest, "data: {\"error\"")) << rest;
  EXPECT_TRUE(contains(rest, "data: [DONE]")) << rest;
  EXPECT_TRUE(contains(plain.read_all(), " 503 "));
  EXPECT_EQ(exit_code(), 1);
}

TEST_F(ServerTest, R3_ASecondSignalEndsAtOnceAndStillSaysSo) {
  ServerOptions options = test_options();
  options.drain_timeout_ms = 3'600'000;
  start(std::move(options));
  attach();
  RawClient stream(server_->port());
  stream.send(completion(",\"stream\":true"));
  engine_->wait_submitted(1);
  send_token(1, "first", FinishReason::kNone);
  stream.read_until("first");
  signal_once();
  wait_draining();
  signal_once();
  EXPECT_TRUE(contains(stream.read_all(), "data: {\"error\""));
  EXPECT_EQ(exit_code(), 1);
}

TEST_F(ServerTest, H12_AClientThatLeavesIsCancelledInTheEngine) {
  start(test_options());
  attach();
  {
    RawClient client(server_->port());
    client.send(completion(""));
    engine_->wait_submitted(1);
  }
  engine_->wait_cancelled(1);
  signal_once();
  EXPECT_EQ(exit_code(), 0);
}

// A failed check of the engine thread, for example, in a process of its own.
TEST(ServerDeathTest, R7_AThreadThatAbortsTakesTheProcessDownAfterTheClientsWereTold) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        auto server = Server::create(test_options()).value();
        std::thread network([&] { server->run(); });
        auto engine = std::make_unique<WaitingEngine>();
        WaitingEngine* waiting = engine.get();
        std::promise<void> ready;
        server->attach(std::move(engine), 1.0, [&] { ready.set_value(); });
        ready.get_future().wait();
        RawClient client(server->port());
        client.send(post_request("/v1/completions", "{\"model\":\"m\",\"prompt\":\"hi\"}"));
        waiting->wait_submitted(1);
        std::thread dying([] { SLIPSTREAM_CHECK(false, "a bug"); });
        const std::string answer = client.read_all();
        std::fputs(answer.c_str(), stderr);
        dying.join();
      },
      ::testing::KilledBySignal(SIGABRT), "HTTP/1.1 503");
}

TEST_F(ApiFixture, AFullQueueOrAStuckStepEndsReadiness) {
  const int64_t now_ns = steady_now_ns();
  context.max_queued_requests = 10;
  EXPECT_FALSE(not_ready_reason(context, now_ns).has_value());
  engine.engine_stats.num_waiting = 10;
  EXPECT_EQ(not_ready_reason(context, now_ns)->status, 503);
  engine.engine_stats.num_waiting = 9;
  engine.engine_stats.step_started_ns = now_ns - 4'900'000'000;
  EXPECT_FALSE(not_ready_reason(context, now_ns).has_value());
  engine.engine_stats.step_started_ns = now_ns - 5'100'000'000;
  EXPECT_EQ(not_ready_reason(context, now_ns)->status, 503);
  // Many tokens of a large model on a slow machine may take their time.
  ASSERT_EQ(engine.model().bytes_per_token, 1'000'000);
  engine.engine_stats.step_num_tokens = 100'000;
  context.read_gb_s = 10.0;
  EXPECT_FALSE(not_ready_reason(context, now_ns).has_value());
  engine.engine_stats.step_started_ns = now_ns - 46'000'000'000;
  EXPECT_EQ(not_ready_reason(context, now_ns)->status, 503);
}

}  // namespace
}  // namespace slipstream
