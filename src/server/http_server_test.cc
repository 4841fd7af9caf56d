#include "server/http_server.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <future>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "server/errors.h"
#include "server/http_server_for_test.h"

namespace slipstream {
namespace {

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

int status_of(const std::string& response) {
  return response.size() > 12 ? std::stoi(response.substr(9, 3)) : 0;
}

std::string body_of(const std::string& response) {
  return response.substr(response.find("\r\n\r\n") + 4);
}

TEST(HttpServer, AConnectionServesOneRequestAfterAnother) {
  TestServer server({echo_route("GET", "/a"), echo_route("POST", "/b")});
  RawClient client(server.port());
  for (int turn = 0; turn < 3; ++turn) {
    client.send(get_request("/a?x=1"));
    EXPECT_EQ(body_of(client.read_response()), "GET /a?x=1 ");
    client.send(post_request("/b", "hello"));
    EXPECT_EQ(body_of(client.read_response()), "POST /b? hello");
  }
  client.send(get_request("/a", "Connection: close\r\n"));
  EXPECT_TRUE(contains(client.read_all(), "connection: close"));
}

TEST(HttpServer, H11_PipelinedRequestsAreAnsweredInOrderAndAHalfCloseIsNoAbort) {
  Held held;
  TestServer server({echo_route("GET", "/a"), held_route(held, "POST", "/slow")});
  RawClient client(server.port());
  client.send(get_request("/a?1") + post_request("/slow", "x") + get_request("/a?2"));
  client.shut_down_send();
  const auto writer = held.take(0);
  server.on_loop([&] { writer->send(text_response("slow")); });
  const std::string all = client.read_all();
  const size_t first = all.find("GET /a?1"), second = all.find("slow"), third = all.find("/a?2");
  ASSERT_NE(third, std::string::npos) << all;
  EXPECT_LT(first, second);
  EXPECT_LT(second, third);
  EXPECT_EQ(held.num_closed(), 0u);
}

TEST(HttpServer, ThousandsOfPipelinedRequestsDoNotGrowTheStackOrTheOutput) {
  TestServer server({echo_route("GET", "/a")});
  RawClient client(server.port());
  constexpr int kNumRequests = 20'000;
  std::thread sender([&] {
    std::string all;
    for (int i = 0; i < kNumRequests; ++i) all += get_request("/a");
    client.send(all);
    client.shut_down_send();
  });
  const std::string all = client.read_all();
  sender.join();
  size_t count = 0;
  for (size_t at = all.find("HTTP/1.1 200"); at != std::string::npos;
       at = all.find("HTTP/1.1 200", at + 1)) {
    ++count;
  }
  EXPECT_EQ(count, size_t{kNumRequests});
}

TEST(HttpServer, H12_AResetEndsTheResponseWithClientGone) {
  Held held;
  TestServer server({held_route(held, "POST", "/slow")});
  RawClient client(server.port());
  client.send(post_request("/slow", "x"));
  const auto writer = held.take(0);
  client.reset();
  EXPECT_EQ(held.wait_closed(), CloseReason::kClientGone);
  EXPECT_EQ(server.wait_ended(1)[0].status, 499);
  server.on_loop([&] {
    EXPECT_TRUE(writer->closed());
    writer->begin_stream(event_stream());  // late calls are ignored
    writer->write("late");
    writer->end();
  });
}

TEST(HttpServer, WhoAsksLateWhetherTheClientLeftIsStillTold) {
  std::promise<std::shared_ptr<ResponseWriter>> taken;
  Route route;
  route.method = "GET";
  route.path = "/a";
  route.handler = [&](HttpRequest, std::shared_ptr<ResponseWriter> writer) {
    taken.set_value(std::move(writer));
  };
  TestServer server({route});
  RawClient client(server.port());
  client.send(get_request("/a"));
  const auto writer = taken.get_future().get();
  client.reset();
  server.wait_ended(1);
  std::promise<CloseReason> told;
  server.on_loop([&] { writer->on_close([&](CloseReason reason) { told.set_value(reason); }); });
  EXPECT_EQ(told.get_future().get(), CloseReason::kClientGone);
}

TEST(HttpServer, AnOrdinaryCloseOfAWaitingClientIsNoticedBeforeTheAnswer) {
  Held held;
  TestServer server({held_route(held, "POST", "/slow")});
  RawClient client(server.port());
  client.send(post_request("/slow", "x"));
  const auto writer = held.take(0);
  client.close();
  EXPECT_EQ(held.wait_closed(), CloseReason::kClientGone);
}

TEST(HttpServer, AnOrdinaryCloseDuringAStreamIsNoticedBetweenEvents) {
  Held held;
  TestServer server({held_route(held, "POST", "/slow")});
  RawClient client(server.port());
  client.send(post_request("/slow", "x"));
  const auto writer = held.take(0);
  server.on_loop([&] {
    writer->begin_stream(event_stream());
    writer->write("data: 1\n\n");
  });
  client.read_until("data: 1\n\n");
  client.close();
  EXPECT_EQ(held.wait_closed(), CloseReason::kClientGone);
}

TEST(HttpServer, AStreamIsChunkedAndEndsWithItsLastChunk) {
  Held held;
  TestServer server({held_route(held, "POST", "/s")});
  RawClient client(server.port());
  client.send(post_request("/s", "x"));
  const auto writer = held.take(0);
  server.on_loop([&] {
    HttpResponse head = event_stream();
    head.body = "data: 1\n\n";
    writer->begin_stream(head);
    writer->write("data: 0123456789\n\n");
    writer->end();
  });
  const std::string head = client.read_until("\r\n\r\n");
  EXPECT_TRUE(contains(head, "transfer-encoding: chunked\r\n"));
  EXPECT_TRUE(contains(head, "cache-control: no-cache\r\n"));
  EXPECT_TRUE(contains(head, "x-content-type-options: nosniff\r\n"));
  EXPECT_FALSE(contains(head, "content-length"));
  EXPECT_EQ(client.read_until("0\r\n\r\n"),
            "9\r\ndata: 1\n\n\r\n12\r\ndata: 0123456789\n\n\r\n0\r\n\r\n");
  EXPECT_EQ(server.wait_ended(1)[0].body_bytes, 27);
  client.send(post_request("/s", "x"));
  held.take(1)->send(text_response("kept"));
}

TEST(HttpServer, AStreamToHttp10EndsWithTheConnection) {
  Held held;
  TestServer server({held_route(held, "GET", "/s")});
  RawClient client(server.port());
  client.send("GET /s HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
  const auto writer = held.take(0);
  server.on_loop([&] {
    writer->begin_stream(event_stream());
    writer->write("data: 1\n\n");
    writer->end();
  });
  const std::string all = client.read_all();
  EXPECT_FALSE(contains(all, "chunked"));
  EXPECT_TRUE(contains(all, "connection: close\r\n"));
  EXPECT_EQ(body_of(all), "data: 1\n\n");
}

TEST(HttpServer, HeadGetsTheHeadOnly) {
  TestServer server({echo_route("GET", "/a")});
  RawClient client(server.port());
  client.send("HEAD /a HTTP/1.1\r\nHost: t\r\n\r\n" + get_request("/a", "Connection: close\r\n"));
  const std::string all = client.read_all();
  EXPECT_TRUE(contains(all, "content-length: 9\r\n")) << all;
  EXPECT_EQ(all.find("HEAD /a"), std::string::npos);
  EXPECT_TRUE(contains(all, "\r\n\r\nHTTP/1.1 200 OK\r\n"));
}

TEST(HttpServer, H13_AStreamThatIsNotReadIsClosedAtTheLimitOfUnsentBytes) {
  Held held;
  TestServer::Setup setup;
  setup.http.max_unsent_bytes = 100'000;
  TestServer server({held_route(held, "POST", "/s")}, std::move(setup));
  RawClient client(server.port(), 4096);
  client.send(post_request("/s", "x"));
  const auto writer = held.take(0);
  size_t written = 0;
  server.on_loop([&] {
    writer->begin_stream(event_stream());
    const std::string event(1000, 'x');
    for (; !writer->closed() && written < 100u << 20; written += event.size()) writer->write(event);
  });
  EXPECT_EQ(held.wait_closed(), CloseReason::kSlowClient);
  EXPECT_LT(written, 20u << 20);  // what the kernel buffers, and the limit
}

TEST(HttpServer, ALargeAnswerReachesASlowReaderWhole) {
  TestServer::Setup setup;
  setup.http.max_unsent_bytes = 1000;  // of streams
  Route big;
  big.method = "GET";
  big.path = "/big";
  const std::string body(8 << 20, 'y');
  big.handler = [&body](HttpRequest, std::shared_ptr<ResponseWriter> writer) {
    writer->send(text_response(body));
  };
  TestServer server({big, echo_route("GET", "/a")}, std::move(setup));
  RawClient client(server.port(), 4096);
  client.send(get_request("/big") + get_request("/a"));
  EXPECT_EQ(body_of(client.read_response()), body);
  EXPECT_EQ(body_of(client.read_response()), "GET /a? ");
}

TEST(HttpServer, H8_ARequestThatTakesTooLongGets408) {
  TestServer::Setup setup;
  setup.http.read_timeout_ms = 50;
  setup.http.idle_timeout_ms = 60'000;
  TestServer server({echo_route("POST", "/b")}, std::move(setup));
  RawClient head(server.port()), body(server.port()), idle(server.port());
  head.send("POST /b HTT");
  body.send("POST /b HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nab");
  EXPECT_EQ(status_of(head.read_all()), 408);
  const std::string answer = body.read_all();
  EXPECT_EQ(status_of(answer), 408);
  EXPECT_TRUE(contains(answer, "connection: close"));
  idle.send(post_request("/b", "still here"));
  EXPECT_EQ(status_of(idle.read_response()), 200);
}

TEST(HttpServer, AnIdleConnectionIsClosedWithoutAWord) {
  TestServer::Setup setup;
  setup.http.idle_timeout_ms = 50;
  TestServer server({echo_route("GET", "/a")}, std::move(setup));
  RawClient client(server.port());
  client.send(get_request("/a"));
  client.read_response();
  EXPECT_TRUE(client.closed_by_server());
}

TEST(HttpServer, H1_ABodyTooLargeGets413AndACloseWhileTheClientStillSends) {
  TestServer::Setup setup;
  setup.http.parser.max_body_bytes = 1000;
  TestServer server({echo_route("POST", "/b")}, std::move(setup));
  RawClient client(server.port());
  client.send("POST /b HTTP/1.1\r\nHost: t\r\nContent-Length: 20000\r\n\r\n" +
              std::string(20'000, 'x'));
  EXPECT_EQ(status_of(client.read_all()), 413);
}

TEST(HttpServer, ARefusedRequestWithAShortBodyKeepsItsConnection) {
  TestServer server({echo_route("POST", "/b")});
  RawClient client(server.port());
  client.send(post_request("/nowhere", std::string(5000, 'x')) + post_request("/b", "y"));
  EXPECT_EQ(status_of(client.read_response()), 404);
  EXPECT_EQ(body_of(client.read_response()), "POST /b? y");
  client.send("POST /nowhere HTTP/1.1\r\nHost: t\r\nContent-Length: 8000000\r\n\r\n");
  EXPECT_EQ(status_of(client.read_response()), 404);
  client.shut_down_send();
  EXPECT_TRUE(client.closed_by_server());
}

TEST(HttpServer, ContinueIsSentOnlyForABodyThatWillBeRead) {
  TestServer server({echo_route("POST", "/b")});
  const std::string more = "Host: t\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
  RawClient client(server.port());
  client.send("POST /b HTTP/1.1\r\n" + more);
  EXPECT_EQ(client.read_until("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  client.send("ok");
  EXPECT_EQ(body_of(client.read_response()), "POST /b? ok");
  client.send("POST /nowhere HTTP/1.1\r\n" + more);
  EXPECT_EQ(status_of(client.read_response()), 404);
}

TEST(HttpServer, H19_ARequestIdIsEchoedOnlyWhenItIsHarmless) {
  TestServer server({echo_route("GET", "/a")});
  RawClient client(server.port());
  const auto id_for = [&](const std::string& sent) {
    client.send(get_request("/a", "X-Request-Id: " + sent + "\r\n"));
    const std::string response = client.read_response();
    const size_t at = response.find("x-request-id: ") + 14;
    return response.substr(at, response.find("\r\n", at) - at);
  };
  EXPECT_EQ(id_for("a"), "a");
  EXPECT_EQ(id_for("A-z_0.9"), "A-z_0.9");
  EXPECT_EQ(id_for(std::string(128, 'x')), std::string(128, 'x'));
  for (const std::string& bad : {std::string(129, 'x'), std::string("a b"), std::string("http://x"),
                                 std::string("a%0d%0aSet-Cookie:x"), std::string("")}) {
    EXPECT_EQ(id_for(bad).substr(0, 4), "req-") << bad;
  }
  EXPECT_EQ(id_for("same"), id_for("same")) << "a label, not a key";
}

TEST(HttpServer, AHandlerThatThrowsOrForgetsItsWriterAnswers500) {
  Route throws, forgets;
  throws.method = forgets.method = "GET";
  throws.path = "/throws";
  throws.handler = [](HttpRequest, std::shared_ptr<ResponseWriter>) {
    throw std::runtime_error("a secret detail");
  };
  forgets.path = "/forgets";
  forgets.handler = [](HttpRequest, std::shared_ptr<ResponseWriter>) {};
  TestServer server({throws, forgets, echo_route("GET", "/a")});
  RawClient client(server.port());
  for (const char* path : {"/throws", "/forgets"}) {
    client.send(get_request(path));
    const std::string response = client.read_response();
    EXPECT_EQ(status_of(response), 500);
    EXPECT_FALSE(contains(response, "secret"));
  }
  client.send(get_request("/a"));
  EXPECT_EQ(status_of(client.read_response()), 200);
}

TEST(HttpServer, AHeaderValueCannotEndItsLine) {
  Route route;
  route.method = "GET";
  route.path = "/a";
  route.handler = [](HttpRequest, std::shared_ptr<ResponseWriter> writer) {
    HttpResponse response;
    response.headers.emplace_back("x-thing", "a\r\nset-cookie: b");
    writer->send(response);
  };
  TestServer server({route});
  RawClient client(server.port());
  client.send(get_request("/a"));
  EXPECT_TRUE(contains(client.read_response(), "x-thing: aset-cookie: b\r\n"));
}

TEST(HttpServer, H10_AtTheConnectionLimitTheLongestIdleMakesRoomAndBusyOnesStay) {
  Held held;
  TestServer::Setup setup;
  setup.http.max_connections = 2;
  TestServer server({echo_route("GET", "/a"), held_route(held, "GET", "/slow")}, std::move(setup));
  RawClient busy(server.port()), idle(server.port());
  busy.send(get_request("/slow"));
  const auto writer = held.take(0);
  idle.send(get_request("/a"));
  EXPECT_EQ(status_of(idle.read_response()), 200);
  RawClient third(server.port());
  third.send(get_request("/a"));
  EXPECT_EQ(status_of(third.read_response()), 200);
  EXPECT_TRUE(idle.closed_by_server());
  server.on_loop([&] { writer->send(text_response("done")); });
  EXPECT_EQ(status_of(busy.read_response()), 200);
}

TEST(HttpServer, H10_AtTheConnectionLimitNobodyMakesRoomWhoseRequestHasCome) {
  TestServer::Setup setup;
  setup.http.max_connections = 1;
  TestServer server({echo_route("GET", "/a")}, std::move(setup));
  std::vector<std::unique_ptr<RawClient>> clients;
  server.on_loop([&] {  // so all of them wait when the server looks
    for (int i = 0; i < 4; ++i) {
      clients.push_back(std::make_unique<RawClient>(server.port()));
      clients.back()->send(get_request("/a"));
    }
  });
  for (const auto& client : clients) EXPECT_EQ(status_of(client->read_response()), 200);
}

TEST(HttpServer, H10_WithoutFilesForANewConnectionItWaitsAndTheProcessDoesNotSpin) {
  TestServer server({echo_route("GET", "/a")});
  RawClient before(server.port());
  before.send(get_request("/a"));
  EXPECT_EQ(status_of(before.read_response()), 200);
  rlimit limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &limit), 0);
  RawClient waiting(server.port(), 0);  // its socket exists before the limit falls
  server.on_loop([] {});
  // Nothing can be opened now.
  const int next_fd = ::dup(0);
  ::close(next_fd);
  const rlimit none{static_cast<rlim_t>(next_fd), limit.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  before.send(get_request("/a"));
  EXPECT_EQ(status_of(before.read_response()), 200) << "others are served";
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &limit), 0);
  waiting.send(get_request("/a"));
  EXPECT_EQ(status_of(waiting.read_response()), 200);
}

TEST(HttpServer, AtShutdownEveryUnfinishedResponseHasItsEnd) {
  Held held;
  std::shared_ptr<ResponseWriter> stream_writer;
  Route streams;
  streams.method = "POST";
  streams.path = "/stream";
  streams.handler = [&](HttpRequest, std::shared_ptr<ResponseWriter> writer) {
    stream_writer = writer;
    writer->begin_stream(event_stream());
    writer->on_close([&](CloseReason reason) {
      EXPECT_EQ(reason, CloseReason::kShutdown);
      stream_writer->write(error_event(server_error("the server is shutting down")));
      stream_writer->end();
    });
  };
  TestServer server({held_route(held, "POST", "/slow"), streams});
  RawClient slow(server.port()), stream(server.port());
  slow.send(post_request("/slow", "x"));
  stream.send(post_request("/stream", "x"));
  const auto slow_writer = held.take(0);
  stream.read_until("\r\n\r\n");
  server.on_loop([&] { server.server().shut_down_responses(); });
  const std::string answer = slow.read_all();
  EXPECT_EQ(status_of(answer), 503);
  EXPECT_TRUE(contains(answer, "x-should-retry: false"));
  const std::string events = stream.read_all();
  EXPECT_TRUE(contains(events, "data: {\"error\""));
  EXPECT_TRUE(contains(events, "data: [DONE]\n\n\r\n0\r\n\r\n")) << events;
  server.wait_ended(2);
  server.on_loop([&] { EXPECT_TRUE(server.server().all_answered()); });
}

TEST(HttpServer, ABusyPortAndAnEmptyHostAreOneLineThatNamesTheFix) {
  TestServer server({});
  HttpServerOptions options;
  options.port = server.port();
  struct NoApp final : HttpApp {
    HeadDecision decide(HttpRequest&) override { return {}; }
    void ended(const HttpOutcome&) override {}
  } app;
  const auto second = HttpServer::create(options, app);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.status().exit_code(), 1);
  EXPECT_TRUE(contains(second.status().message(), "--port"));
  // An empty host is not every host.
  options = {};
  options.port = 0;
  options.host = "";
  EXPECT_EQ(HttpServer::create(options, app).status().exit_code(), 2);
}

TEST(HttpServer, WorkIsPostedFromAnyThreadAndTimersRunInOrderOrNotAtAll) {
  TestServer server({});
  std::atomic<int> count{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int turn = 0; turn < 100; ++turn) server.server().post([&] { ++count; });
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::promise<std::string> order;
  std::string text;
  server.on_loop([&] {
    HttpServer& loop = server.server();
    loop.after_ms(60, [&] { order.set_value(text); });
    loop.after_ms(2, [&] { text += "2"; });
    loop.after_ms(1, [&] { text += "1"; });
    loop.cancel_timer(loop.after_ms(3, [&] { text += "never"; }));
  });
  EXPECT_EQ(order.get_future().get(), "12");
  EXPECT_EQ(count, 400);
}

}  // namespace
}  // namespace slipstream
