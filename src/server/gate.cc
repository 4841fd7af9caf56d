#include "server/gate.h"

#include <algorithm>
#include <new>
#include <utility>

#include "base/clock.h"
#include "base/strings.h"
#include "server/access_log.h"
#include "server/errors.h"
#include "server/key_usage.h"
#include "server/server_metrics.h"

namespace slipstream {
namespace {

constexpr int64_t kLoadingRetryS = 2;
constexpr int64_t kDrainingRetryS = 5;
constexpr int64_t kMemoryRetryS = 1;
constexpr double kNsPerMs = 1e6;

std::string lower_case(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + ('a' - 'A'));
  }
  return lower;
}

// "application/json", with `charset=utf-8` as its only parameter.
bool is_json_type(std::string_view content_type) {
  std::string text = lower_case(content_type);
  text.erase(std::remove_if(text.begin(), text.end(), [](char c) { return c == ' ' || c == '"'; }),
             text.end());
  return text == "application/json" || text == "application/json;charset=utf-8";
}

}  // namespace

bool Gate::is_allowed(std::string_view origin) const {
  return std::any_of(allowed_origins_.begin(), allowed_origins_.end(),
                     [origin](const auto& allowed) { return allowed == "*" || allowed == origin; });
}

// A browser asks whether a page of another origin may send this request.
bool Gate::answer_preflight(const HttpRequest& request, HeadDecision& decision) const {
  const std::string_view origin = request.header("origin");
  if (origin.empty() || !is_allowed(origin)) return false;
  decision.headers.emplace_back("access-control-allow-origin", std::string(origin));
  decision.headers.emplace_back("vary", "Origin");
  decision.headers.emplace_back("access-control-expose-headers",
                                "x-request-id, retry-after, x-ratelimit-limit-requests, "
                                "x-ratelimit-remaining-requests, x-ratelimit-reset-requests, "
                                "x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, "
                                "x-ratelimit-reset-tokens");
  if (request.method != "OPTIONS" || request.header("access-control-request-method").empty()) {
    return false;
  }
  HttpResponse response;
  response.status = 204;
  response.headers = {
      {"access-control-allow-methods", "GET, HEAD, POST, OPTIONS"},
      {"access-control-allow-headers",
       "authorization, content-type, x-api-key, x-request-id, x-request-timeout-ms, "
       "anthropic-version, x-stainless-arch, x-stainless-lang, x-stainless-os, "
       "x-stainless-package-version, x-stainless-retry-count, x-stainless-runtime, "
       "x-stainless-runtime-version, x-stainless-timeout"},
      {"access-control-max-age", "600"}};
  decision.refusal = std::move(response);
  return true;
}

std::optional<ApiError> Gate::find_route(HttpRequest& request, HeadDecision& decision) const {
  const Router::Match match = router_.match(request.method, request.path);
  if (match.route != nullptr) {
    decision.route = match.route;
    request.path_tail = match.path_tail;
    return std::nullopt;
  }
  if (match.allow.empty()) {
    return not_found(str("no route ", quote(request.method, 16), " ", quote(request.path),
                         "; GET /openapi.json lists all"));
  }
  decision.headers.emplace_back("allow", match.allow);
  return method_not_allowed(match.allow);
}

std::optional<ApiError> Gate::check_key(HttpRequest& request, const Route& route) const {
  if (context_.keys == nullptr || context_.keys->empty()) return std::nullopt;
  if (!route.needs_key) return std::nullopt;
  request.key = context_.keys->find(request);
  if (request.key != nullptr) return std::nullopt;
  return authentication_error(
      "a valid API key is needed: send `Authorization: Bearer KEY` or `x-api-key: KEY`");
}

std::optional<ApiError> Gate::check_service(const Route& route) const {
  if (!route.needs_engine) return std::nullopt;
  if (context_.draining) {
    ApiError error =
        service_unavailable("the server is shutting down and takes no new work", kDrainingRetryS);
    error.should_not_retry = true;
    return error;
  }
  if (context_.loading) {
    ApiError error = service_unavailable("the model is being loaded", kLoadingRetryS);
    error.code = "loading";
    return error;
  }
  if (context_.memory_is_low) {
    return rate_limited("the server is short of memory and takes no new work", kMemoryRetryS);
  }
  return std::nullopt;
}

std::optional<ApiError> Gate::check_body_type(const HttpRequest& request) {
  const std::string_view encoding = request.header("content-encoding");
  if (!encoding.empty() && lower_case(encoding) != "identity") {
    return unsupported_media_type("compressed bodies are not taken; leave Content-Encoding out");
  }
  if (request.method != "POST") return std::nullopt;
  const std::string_view content_type = request.header("content-type");
  // Without a type, but from a page of some origin: what a browser sends without asking first.
  const bool is_simple = content_type.empty() && !request.header("origin").empty();
  if (is_simple || (!content_type.empty() && !is_json_type(content_type))) {
    return unsupported_media_type("send the body as `Content-Type: application/json`");
  }
  return std::nullopt;
}

std::optional<ApiError> Gate::admit(const HttpRequest& request, HeadDecision& decision) {
  const bool is_metered = decision.route->needs_engine && request.method == "POST";
  if (!is_metered || context_.key_usage == nullptr) return std::nullopt;
  std::optional<ApiError> refusal = context_.key_usage->admit(request.key, request.arrival_ns);
  decision.admitted = !refusal.has_value();
  context_.key_usage->append_headers(request.key, request.arrival_ns, decision.headers);
  return refusal;
}

HeadDecision Gate::decide(HttpRequest& request) {
  HeadDecision decision;
  try {
    decide(request, decision);
  } catch (const std::bad_alloc&) {
    // Nobody else knows of the slot.
    if (decision.admitted) context_.key_usage->finish(request.key);
    throw;
  }
  return decision;
}

void Gate::decide(HttpRequest& request, HeadDecision& decision) {
  if (answer_preflight(request, decision)) return;
  std::optional<ApiError> error = find_route(request, decision);
  if (!error) error = check_key(request, *decision.route);
  if (!error) error = check_service(*decision.route);
  if (!error) error = check_body_type(request);
  if (!error) error = admit(request, decision);
  if (error) {
    const ErrorShape shape = decision.route != nullptr ? decision.route->error_shape : ErrorShape{};
    decision.refusal = shaped_error(shape, *error, request.request_id);
  }
}

void Gate::ended(const HttpOutcome& outcome) {
  if (outcome.admitted) context_.key_usage->finish(outcome.key);
  const int64_t duration_ns = outcome.ended_ns - outcome.arrival_ns;
  if (context_.metrics != nullptr) {
    HttpObservation http;
    http.handler = outcome.route != nullptr ? std::string_view(outcome.route->path) : "none";
    http.method = outcome.route != nullptr ? std::string_view(outcome.method) : "none";
    http.status = outcome.status;
    http.seconds = static_cast<double>(duration_ns) / 1e9;
    http.request_bytes = outcome.request_bytes;
    http.response_bytes = outcome.body_bytes;
    context_.metrics->count_http(http);
  }
  if (context_.access_log == nullptr) return;
  AccessLogLine line;
  line.request_id = outcome.request_id;
  if (outcome.key != nullptr) line.key_label = outcome.key->label;
  line.method = outcome.method;
  line.route = outcome.route != nullptr ? outcome.route->path : outcome.path;
  line.status = outcome.status;
  line.body_bytes = outcome.body_bytes;
  line.duration_ms = static_cast<double>(duration_ns) / kNsPerMs;
  line.has_call = outcome.call != nullptr;
  if (outcome.call != nullptr) line.call = *outcome.call;
  context_.access_log->record(line);
}

}  // namespace slipstream
