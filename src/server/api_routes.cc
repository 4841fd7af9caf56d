#include "server/api_routes.h"

#include <memory>
#include <utility>

#include "server/anthropic_messages.h"
#include "server/generation_route.h"
#include "server/metrics_route.h"
#include "server/models_route.h"
#include "server/openai_chat.h"
#include "server/openai_completions.h"
#include "server/openai_responses.h"
#include "server/openapi.h"
#include "server/params.h"
#include "server/tokenize_routes.h"
#include "server/usage_route.h"

namespace slipstream {

std::vector<Route> api_routes(ServerContext& context) {
  const auto table = std::make_shared<const ParamTable>(context.limits);
  std::vector<Route> routes;
  for (Dialect& dialect : std::vector<Dialect>{chat_dialect(), completions_dialect(),
                                               responses_dialect(), messages_dialect()}) {
    Route route;
    route.method = "POST";
    route.path = dialect.route;
    route.error_shape = dialect.error_shape;
    route.handler = generation_handler(context, table, std::move(dialect));
    routes.push_back(std::move(route));
  }
  routes.push_back(count_tokens_route(context, table));
  for (auto& group : {models_routes(context), tokenize_routes(context, table),
                      usage_routes(context), metrics_routes(context), openapi_routes(table)}) {
    routes.insert(routes.end(), group.begin(), group.end());
  }
  return routes;
}

}  // namespace slipstream
