#include "server/metrics_route.h"

#include <memory>
#include <string>
#include <utility>

#include "metrics/metrics.h"
#include "server/server_metrics.h"

namespace slipstream {

std::vector<Route> metrics_routes(ServerContext& context) {
  Route route;
  route.method = "GET";
  route.path = "/metrics";
  route.needs_engine = false;  // what is counted while loading and draining is worth reading
  route.handler = [&context](HttpRequest, std::shared_ptr<ResponseWriter> writer) {
    HttpResponse response;
    response.content_type = std::string(kMetricsContentType);
    response.body = context.metrics->text();
    writer->send(std::move(response));
  };
  return {route};
}

}  // namespace slipstream
