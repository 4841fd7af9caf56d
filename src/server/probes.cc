#include "server/probes.h"

#include <utility>

#include "base/clock.h"
#include "base/strings.h"

namespace slipstream {
namespace {

constexpr int64_t kNsPerMs = 1'000'000;
constexpr int64_t kRetryS = 2;

HttpResponse ok_response(std::string body) {
  HttpResponse response;
  response.body = std::move(body);
  return response;
}

bool is_step_stuck(const EngineStats& stats, int64_t max_step_ms, int64_t now_ns) {
  return stats.step_started_ns != 0 && now_ns - stats.step_started_ns > max_step_ms * kNsPerMs;
}

}  // namespace

std::optional<ApiError> not_ready_reason(ServerContext& context, int64_t now_ns) {
  if (context.draining) return service_unavailable("the server is shutting down", kRetryS);
  if (context.loading) {
    ApiError error = service_unavailable("the model is being loaded", kRetryS);
    error.code = "loading";
    return error;
  }
  const EngineStats stats = context.bridge->engine().stats();
  if (context.max_queued_requests > 0 && stats.num_waiting >= context.max_queued_requests) {
    return service_unavailable(str("the queue is full: ", stats.num_waiting, " requests wait"),
                               kRetryS);
  }
  if (is_step_stuck(stats, context.limits.max_step_ms, now_ns)) {
    return service_unavailable(
        str("the engine's step has run for more than ", context.limits.max_step_ms, " ms"),
        kRetryS);
  }
  return std::nullopt;
}

std::vector<Route> probe_routes(ServerContext& context, std::string version) {
  const Handler ready = [&context](HttpRequest, std::shared_ptr<ResponseWriter> writer) {
    const std::optional<ApiError> reason = not_ready_reason(context, steady_now_ns());
    writer->send(reason ? error_response(*reason) : ok_response("{\"status\":\"ok\"}"));
  };
  const Handler live = [&context](HttpRequest, std::shared_ptr<ResponseWriter> writer) {
    // A step that takes ten times what readiness allows will not end by itself.
    const bool is_stuck =
        !context.loading && is_step_stuck(context.bridge->engine().stats(),
                                          10 * context.limits.max_step_ms, steady_now_ns());
    writer->send(is_stuck ? error_response(service_unavailable("the engine is stuck", 0))
                          : ok_response("{\"status\":\"ok\"}"));
  };
  const Handler load = [&context](HttpRequest, std::shared_ptr<ResponseWriter> writer) {
    writer->send(ok_response(str("{\"server_load\":", context.bridge->num_open(), "}")));
  };
  const Handler show_version = [version](HttpRequest, std::shared_ptr<ResponseWriter> writer) {
    writer->send(ok_response(str("{\"version\":\"", version, "\"}")));
  };
  std::vector<Route> routes;
  for (const char* path : {"/health", "/readyz", "/ping"}) {
    routes.push_back({"GET", path, ready, false, false, {}});
  }
  routes.push_back({"GET", "/livez", live, false, false, {}});
  routes.push_back({"GET", "/load", load, true, false, {}});
  routes.push_back({"GET", "/version", show_version, true, false, {}});
  return routes;
}

}  // namespace slipstream
