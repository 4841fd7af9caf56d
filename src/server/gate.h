// Gate: which requests get in. The one place that decides on route, key, media type, rates, and
// whether the server takes work at all; and that counts and logs every request when it ended.
//
// A key is a property of the matched route, so there is no path that avoids it. Network thread
// only.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "server/http_server.h"
#include "server/router.h"
#include "server/server_context.h"

namespace slipstream {

class Gate final : public HttpApp {
 public:
  // All three outlive the gate. `allowed_origins`: of browsers' pages that may read answers; "*":
  // all; none by default.
  Gate(ServerContext& context, const Router& router, std::vector<std::string> allowed_origins)
      : context_(context), router_(router), allowed_origins_(std::move(allowed_origins)) {}

  // With memory gone it throws, and nothing was admitted.
  HeadDecision decide(HttpRequest& request) override;
  void ended(const HttpOutcome& outcome) override;

 private:
  void decide(HttpRequest& request, HeadDecision& decision);
  bool is_allowed(std::string_view origin) const;
  bool answer_preflight(const HttpRequest& request, HeadDecision& decision) const;
  std::optional<ApiError> find_route(HttpRequest& request, HeadDecision& decision) const;
  std::optional<ApiError> check_key(HttpRequest& request, const Route& route) const;
  std::optional<ApiError> check_service(const Route& route) const;
  static std::optional<ApiError> check_body_type(const HttpRequest& request);
  std::optional<ApiError> admit(const HttpRequest& request, HeadDecision& decision);

  ServerContext& context_;
  const Router& router_;
  const std::vector<std::string> allowed_origins_;
};

}  // namespace slipstream
