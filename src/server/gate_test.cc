#include "server/gate.h"

#include <gtest/gtest.h>

#include <string>

#include "base/clock.h"
#include "server/http_server_for_test.h"
#include "server/key_usage.h"
#include "server/memory_guard.h"

namespace slipstream {
namespace {

class GateTest : public ::testing::Test {
 protected:
  GateTest() {
    Route open = echo_route("GET", "/health");
    open.needs_key = open.needs_engine = false;
    router_.add(open);
    router_.add(echo_route("POST", "/v1/chat"));
    router_.add(echo_route("GET", "/v1/models"));
    router_.add(echo_route("GET", "/v1/models/{id}"));
    EXPECT_TRUE(keys_.add("secret-key").ok());
  }

  HeadDecision decide(const std::string& method, const std::string& path, HttpHeaders headers = {},
                      std::vector<std::string> allowed_origins = {}) {
    Gate gate(context_, router_, std::move(allowed_origins));
    request_ = {};
    request_.method = method;
    request_.path = path;
    request_.headers = std::move(headers);
    request_.arrival_ns = steady_now_ns();
    return gate.decide(request_);
  }
  int status(const std::string& method, const std::string& path, HttpHeaders headers = {}) {
    const HeadDecision decision = decide(method, path, std::move(headers));
    return decision.refusal ? decision.refusal->status : 200;
  }

  Router router_;
  ServerContext context_;
  KeyRing keys_;
  HttpRequest request_;
};

std::string value_of(const HttpHeaders& headers, const std::string& name) {
  for (const auto& [key, value] : headers) {
    if (key == name) return value;
  }
  return "";
}

TEST_F(GateTest, H5_ARouteIsItsExactPathAndMethod) {
  EXPECT_EQ(status("GET", "/v1/models"), 200);
  EXPECT_EQ(status("HEAD", "/v1/models"), 200);
  for (const char* path : {"//v1/models", "/v1/models/", "/v1/../health", "/v1/./models",
                           "/v1/%6dodels", "/V1/models", "/v1/models ", "/v1/models;x", "*", "/"}) {
    EXPECT_EQ(status("GET", path), 404) << path;
  }
  EXPECT_EQ(status("POST", "/v1/models", {{"x-http-method-override", "GET"}}), 405);
  EXPECT_EQ(status("get", "/v1/models"), 405);
  EXPECT_EQ(status("OPTIONS", "/v1/models"), 405);
  EXPECT_EQ(value_of(decide("DELETE", "/v1/models").headers, "allow"), "GET, HEAD");
  EXPECT_EQ(decide("GET", "/v1/models/org/name").route->path, "/v1/models/{id}");
  EXPECT_EQ(request_.path_tail, "org/name");
}

TEST_F(GateTest, H6_EveryRouteButTheOpenOnesNeedsAKeyAndAllRefusalsAreAlike) {
  context_.keys = &keys_;
  EXPECT_EQ(status("GET", "/health"), 200);
  EXPECT_EQ(status("GET", "/v1/models", {{"authorization", "Bearer secret-key"}}), 200);
  ASSERT_NE(request_.key, nullptr);
  std::string first;
  for (const HttpHeaders& headers :
       {HttpHeaders{}, HttpHeaders{{"authorization", "Bearer wrong-key"}},
        HttpHeaders{{"authorization", "Bearer secret-kez"}}, HttpHeaders{{"x-api-key", ""}}}) {
    for (const auto& [method, path] : {std::pair("GET", "/v1/models"),
                                       {"POST", "/v1/chat"},
                                       {"GET", "/v1/models/x"},
                                       {"HEAD", "/v1/models"}}) {
      const HeadDecision decision = decide(method, path, headers);
      ASSERT_TRUE(decision.refusal.has_value());
      EXPECT_EQ(decision.refusal->status, 401);
      if (first.empty()) first = decision.refusal->body;
      EXPECT_EQ(decision.refusal->body, first);
    }
  }
}

TEST_F(GateTest, H4_TheHostDecidesNothing) {
  context_.keys = &keys_;
  EXPECT_EQ(status("GET", "/v1/models", {{"host", "x/health?"}}), 401);
}

TEST_F(GateTest, H7_ACompressedBodyIs415) {
  for (const char* encoding : {"gzip", "br", "zstd", "deflate, gzip"}) {
    EXPECT_EQ(status("POST", "/v1/chat", {{"content-encoding", encoding}}), 415) << encoding;
  }
  EXPECT_EQ(status("POST", "/v1/chat", {{"content-encoding", "Identity"}}), 200);
}

TEST_F(GateTest, H20_ABodyIsJsonOrUnnamed) {
  for (const char* type : {"application/json", "Application/JSON; charset=UTF-8",
                           "application/json;charset=\"utf-8\""}) {
    EXPECT_EQ(status("POST", "/v1/chat", {{"content-type", type}}), 200) << type;
  }
  for (const char* type :
       {"text/plain", "multipart/form-data; boundary=x", "application/jsonx",
        "application/x-www-form-urlencoded", "application/json; charset=latin1"}) {
    EXPECT_EQ(status("POST", "/v1/chat", {{"content-type", type}}), 415) << type;
  }
  EXPECT_EQ(status("POST", "/v1/chat"), 200);
  EXPECT_EQ(status("POST", "/v1/chat", {{"origin", "http://elsewhere"}}), 415)
      << "a page may send this without asking";
}

TEST_F(GateTest, NoPageOfAnotherOriginReadsAnythingUnlessItIsAllowed) {
  const HttpHeaders preflight = {{"origin", "http://page"},
                                 {"access-control-request-method", "POST"}};
  EXPECT_EQ(value_of(decide("GET", "/v1/models", {{"origin", "http://page"}}).headers,
                     "access-control-allow-origin"),
            "");
  EXPECT_EQ(decide("OPTIONS", "/v1/chat", preflight).refusal->status, 405);
  HeadDecision decision = decide("OPTIONS", "/v1/chat", preflight, {"http://page"});
  EXPECT_EQ(decision.refusal->status, 204);
  EXPECT_EQ(value_of(decision.headers, "access-control-allow-origin"), "http://page");
  EXPECT_EQ(decide("OPTIONS", "/v1/chat", preflight, {"http://other"}).refusal->status, 405);
  decision = decide("GET", "/v1/models", {{"origin", "http://page"}}, {"*"});
  EXPECT_FALSE(decision.refusal.has_value());
  EXPECT_EQ(value_of(decision.headers, "vary"), "Origin");
}

TEST_F(GateTest, R8R9_ShortOfMemoryNewWorkIsRefusedAndProbesAreNot) {
  context_.memory_is_low = true;
  EXPECT_EQ(status("POST", "/v1/chat"), 429);
  EXPECT_EQ(status("GET", "/health"), 200);
  EXPECT_EQ(value_of(decide("POST", "/v1/chat").refusal->headers, "retry-after"), "1");
  context_.memory_is_low = false;
  EXPECT_EQ(status("POST", "/v1/chat"), 200);
}

TEST(MemoryGuard, R9_MemoryIsLowNearTheContainersLimitAndNotAfter) {
  std::optional<MemoryLimit> limit;
  MemoryGuard guard([&limit] { return limit; });
  EXPECT_FALSE(guard.update());
  constexpr int64_t kGiB = int64_t{1} << 30;
  limit = MemoryLimit{.limit_bytes = kGiB, .used_bytes = kGiB - (33 << 20)};
  EXPECT_FALSE(guard.update());
  limit->used_bytes = kGiB - (31 << 20);
  EXPECT_TRUE(guard.update());
  // A large machine keeps no more than requests can need.
  limit = MemoryLimit{.limit_bytes = 1000 * kGiB, .used_bytes = 999 * kGiB};
  EXPECT_FALSE(guard.update());
}

TEST_F(GateTest, R14_WhileLoadingOrDrainingOnlyWhatNeedsNoEngineIsAnswered) {
  context_.loading = true;
  HeadDecision decision = decide("POST", "/v1/chat");
  EXPECT_EQ(decision.refusal->status, 503);
  EXPECT_NE(value_of(decision.refusal->headers, "retry-after"), "");
  EXPECT_NE(decision.refusal->body.find("\"loading\""), std::string::npos);
  EXPECT_EQ(status("GET", "/health"), 200);
  context_.loading = false;
  context_.draining = true;
  decision = decide("POST", "/v1/chat");
  EXPECT_EQ(decision.refusal->status, 503);
  EXPECT_EQ(value_of(decision.refusal->headers, "x-should-retry"), "false");
}

TEST_F(GateTest, RatesAreOfWorkNotOfLookingAndASlotComesBack) {
  KeyUsage usage({.requests_per_minute = 1, .max_concurrent = 1});
  context_.key_usage = &usage;
  EXPECT_EQ(status("GET", "/v1/models"), 200);
  HeadDecision decision = decide("POST", "/v1/chat");
  EXPECT_TRUE(decision.admitted);
  EXPECT_EQ(value_of(decision.headers, "x-ratelimit-remaining-requests"), "0");
  EXPECT_EQ(usage.num_running(nullptr), 1);
  Gate gate(context_, router_, {});
  HttpOutcome outcome;
  outcome.admitted = true;
  gate.ended(outcome);
  EXPECT_EQ(usage.num_running(nullptr), 0);
  decision = decide("POST", "/v1/chat");
  EXPECT_FALSE(decision.admitted);
  EXPECT_EQ(decision.refusal->status, 429);
  EXPECT_NE(value_of(decision.refusal->headers, "retry-after"), "");
}

TEST(Gate, ASlotComesBackWhenTheClientLeavesInTheMiddleOfItsBody) {
  KeyUsage usage({.max_concurrent = 1});
  TestServer::Setup setup;
  setup.key_usage = &usage;
  TestServer server({echo_route("POST", "/b")}, std::move(setup));
  RawClient client(server.port());
  client.send("POST /b HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nab");
  client.close();
  EXPECT_TRUE(server.wait_ended(1)[0].admitted);
  server.on_loop([&] {
    EXPECT_EQ(usage.num_running(nullptr), 0);
    EXPECT_TRUE(server.server().all_answered());
  });
}

}  // namespace
}  // namespace slipstream
