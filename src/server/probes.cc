#include "server/probes.h"

#include <utility>

#include "base/clock.h"
#include "base/strings.h"

namespace slipstream {
namespace {

constexpr int64_t kRetryS = 2;
constexpr const char* kStuck = "the engine is stuck: its step has run for far too long";

HttpResponse ok_response(std::string body) {
  HttpResponse response;
  response.body = std::move(body);
  return response;
}

// A step reads the weights once or, at its slowest, once for each of its tokens. One that takes
// several times as long, and seconds more, will not end by itself.
int64_t longest_step_ns(const ServerContext& context, const EngineStats& stats) {
  constexpr double kSlack = 4.0;
  constexpr int64_t kNsPerS = 1'000'000'000;
  constexpr int64_t kLeastNs = 5 * kNsPerS;
  if (context.read_gb_s <= 0.0) return kLeastNs;
  const auto bytes = static_cast<double>(context.bridge->engine().model().bytes_per_token) *
                     static_cast<double>(stats.step_num_tokens);
  return kLeastNs + static_cast<int64_t>(kSlack * bytes / context.read_gb_s);  // GB/s: bytes a ns
}

}  // namespace

bool is_step_stuck(const ServerContext& context, int64_t now_ns) {
  const EngineStats stats = context.bridge->engine().stats();
  return stats.step_started_ns != 0 &&
         now_ns - stats.step_started_ns > longest_step_ns(context, stats);
}

std::optional<ApiError> not_ready_reason(ServerContext& context, int64_t now_ns) {
  if (context.draining) return service_unavailable("the server is shutting down", kRetryS);
  if (context.loading) {
    ApiError error = service_unavailable("the model is being loaded", kRetryS);
    error.code = "loading";
    return error;
  }
  if (context.memory_is_low) return service_unavailable("the server is short of memory", kRetryS);
  const EngineStats stats = context.bridge->engine().stats();
  if (context.max_queued_requests > 0 && stats.num_waiting >= context.max_queued_requests) {
    return service_unavailable(str("the queue is full: ", stats.num_waiting, " requests wait"),
                               kRetryS);
  }
  if (is_step_stuck(context, now_ns)) return service_unavailable(kStuck, kRetryS);
  return std::nullopt;
}

std::vector<Route> probe_routes(ServerContext& context, std::string version) {
  const Handler ready = [&context](HttpRequest, std::shared_ptr<ResponseWriter> writer) {
    const std::optional<ApiError> reason = not_ready_reason(context, steady_now_ns());
    writer->send(reason ? error_response(*reason) : ok_response("{\"status\":\"ok\"}"));
  };
  const Handler live = [&context](HttpRequest, std::shared_ptr<ResponseWriter> writer) {
    const bool is_stuck = !context.loading && is_step_stuck(context, steady_now_ns());
    writer->send(is_stuck ? error_response(service_unavailable(kStuck, 0))
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
