#include "server/page_server.h"

#include <utility>

#include "base/strings.h"
#include "server/errors.h"
#include "server/http_server.h"
#include "server/router.h"

namespace slipstream {
namespace {

class RoutedPages final : public PageServer, public HttpApp {
 public:
  explicit RoutedPages(std::vector<Route> routes) {
    for (Route& route : routes) router_.add(std::move(route));
  }
  ~RoutedPages() override {
    if (http_ != nullptr) http_->close_connections();
  }

  Status listen(HttpServerOptions options) {
    SLIPSTREAM_ASSIGN_OR_RETURN(http_, HttpServer::create(std::move(options), *this));
    return {};
  }
  int port() const override { return http_->port(); }
  void run() override {
    http_->watch_signals([this] { http_->stop(); });
    http_->run();
  }

  HeadDecision decide(HttpRequest& request) override {
    const Router::Match match = router_.match(request.method, request.path);
    HeadDecision decision;
    decision.route = match.route;
    if (match.route != nullptr) {
      request.path_tail = match.path_tail;
    } else if (match.allow.empty()) {
      decision.refusal = error_response(not_found(str("no page ", quote(request.path))));
    } else {
      decision.headers.emplace_back("allow", match.allow);
      decision.refusal = error_response(method_not_allowed(match.allow));
    }
    return decision;
  }
  void ended(const HttpOutcome&) override {}

 private:
  Router router_;
  std::unique_ptr<HttpServer> http_;
};

}  // namespace

Result<std::unique_ptr<PageServer>> PageServer::create(const std::string& host, int port,
                                                       std::vector<Route> routes) {
  auto server = std::make_unique<RoutedPages>(std::move(routes));
  HttpServerOptions options;
  options.host = host;
  options.port = port;
  SLIPSTREAM_RETURN_IF_ERROR(server->listen(std::move(options)));
  return std::unique_ptr<PageServer>(std::move(server));
}

Route redirect_route(std::string from, std::string to) {
  Route route;
  route.method = "GET";
  route.path = std::move(from);
  route.needs_key = false;
  route.needs_engine = false;
  route.handler = [to = std::move(to)](HttpRequest, std::shared_ptr<ResponseWriter> writer) {
    HttpResponse response;
    response.status = 302;
    response.headers = {{"Location", to}};
    response.content_type = "text/plain";
    writer->send(std::move(response));
  };
  return route;
}

}  // namespace slipstream
