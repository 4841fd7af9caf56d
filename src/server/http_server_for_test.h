// TestServer: a real HttpServer with a Gate on a free loopback port, on a thread of its own.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "server/gate.h"
#include "server/http_server.h"
#include "server/raw_client_for_test.h"
#include "server/router.h"
#include "server/server_context.h"

namespace slipstream {

// What of an outcome outlives it.
struct EndedRequest {
  std::string method, path, request_id;
  int status = 0;
  int64_t body_bytes = 0;
  bool admitted = false;
};

class TestServer {
 public:
  struct Setup {
    HttpServerOptions http;
    std::vector<std::string> allowed_origins;
    KeyRing* keys = nullptr;
    KeyUsage* key_usage = nullptr;
  };

  explicit TestServer(const std::vector<Route>& routes) : TestServer(routes, Setup{}) {}
  TestServer(const std::vector<Route>& routes, Setup setup) {
    for (const Route& route : routes) router_.add(route);
    context_.keys = setup.keys;
    context_.key_usage = setup.key_usage;
    app_ = std::make_unique<App>(*this, std::move(setup.allowed_origins));
    setup.http.port = 0;
    setup.http.max_connections = std::min<int64_t>(setup.http.max_connections, 1000);
    auto server = HttpServer::create(setup.http, *app_);
    SLIPSTREAM_CHECK(server.ok(), server.status().message());
    server_ = std::move(server).value();
    thread_ = std::thread([this] { server_->run(); });
  }
  TestServer(const TestServer&) = delete;
  TestServer& operator=(const TestServer&) = delete;
  ~TestServer() {
    server_->stop();
    thread_.join();
    server_->close_connections();
  }

  int port() const { return server_->port(); }
  HttpServer& server() { return *server_; }
  ServerContext& context() { return context_; }
  // Runs `work` on the network thread and waits for it.
  void on_loop(std::function<void()> work) {
    std::promise<void> done;
    server_->post([&] {
      work();
      done.set_value();
    });
    done.get_future().wait();
  }
  // The first `count` requests that ended; waits for them.
  std::vector<EndedRequest> wait_ended(size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return ended_.size() >= count; });
    return ended_;
  }

 private:
  struct App final : HttpApp {
    App(TestServer& of_test, std::vector<std::string> allowed_origins)
        : test(of_test), gate(test.context_, test.router_, std::move(allowed_origins)) {}
    HeadDecision decide(HttpRequest& request) override { return gate.decide(request); }
    void ended(const HttpOutcome& outcome) override {
      gate.ended(outcome);
      const std::lock_guard lock(test.mutex_);
      test.ended_.push_back({outcome.method, outcome.path, outcome.request_id, outcome.status,
                             outcome.body_bytes, outcome.admitted});
      test.changed_.notify_all();
    }
    TestServer& test;
    Gate gate;
  };

  ServerContext context_;
  Router router_;
  std::unique_ptr<App> app_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<EndedRequest> ended_;
  std::unique_ptr<HttpServer> server_;
  std::thread thread_;
};

// A handler whose writers a test takes and answers itself, on the loop.
class Held {
 public:
  Handler handler() {
    return [this](HttpRequest request, std::shared_ptr<ResponseWriter> writer) {
      const std::lock_guard lock(mutex_);
      writer->on_close([this](CloseReason reason) {
        const std::lock_guard inner(mutex_);
        reasons_.push_back(reason);
        changed_.notify_all();
      });
      requests_.push_back(std::move(request));
      writers_.push_back(std::move(writer));
      changed_.notify_all();
    };
  }
  std::shared_ptr<ResponseWriter> take(size_t idx) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return writers_.size() > idx; });
    return std::move(writers_[idx]);
  }
  CloseReason wait_closed() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !reasons_.empty(); });
    return reasons_.front();
  }
  size_t num_closed() {
    const std::lock_guard lock(mutex_);
    return reasons_.size();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<HttpRequest> requests_;
  std::vector<std::shared_ptr<ResponseWriter>> writers_;
  std::vector<CloseReason> reasons_;
};

inline HttpResponse text_response(std::string body) {
  HttpResponse response;
  response.content_type = "text/plain";
  response.body = std::move(body);
  return response;
}

inline HttpResponse event_stream() {
  HttpResponse response;
  response.content_type = "text/event-stream; charset=utf-8";
  return response;
}

// Answers with "METHOD PATH?QUERY BODY".
inline Route echo_route(const std::string& method, const std::string& path) {
  Route route;
  route.method = method;
  route.path = path;
  route.handler = [](HttpRequest request, std::shared_ptr<ResponseWriter> writer) {
    writer->send(text_response(request.method + " " + request.path + "?" + request.query + " " +
                               request.body));
  };
  return route;
}

inline Route held_route(Held& held, const std::string& method, const std::string& path) {
  Route route;
  route.method = method;
  route.path = path;
  route.handler = held.handler();
  return route;
}

}  // namespace slipstream
