#include "server/usage_route.h"

#include <memory>
#include <utility>

#include "base/strings.h"
#include "base/time_text.h"
#include "server/errors.h"
#include "server/json_writer.h"
#include "server/ledger.h"

namespace slipstream {
namespace {

ApiResult<int64_t> time_ms(const HttpRequest& request, const char* name, int64_t fallback) {
  const std::string text = request.query_value(name);
  if (text.empty()) return fallback;
  const Result<int64_t> unix_ms = parse_unix_ms(text);
  if (!unix_ms.ok()) return invalid_request(str(name, ": ", unix_ms.status().message()), name);
  return unix_ms.value();
}

void write_row(const UsageRow& row, double price, JsonWriter& json) {
  json.begin_object()
      .field("key", row.key_label)
      .field("model", row.model)
      .field("requests", row.num_requests)
      .field("input_tokens", row.input_tokens)
      .field("cached_tokens", row.cached_tokens)
      .field("output_tokens", row.output_tokens)
      .field("total_tokens", row.input_tokens + row.output_tokens);
  json.key("price").number(price).end_object();
}

HttpResponse usage_response(const ServerContext& context, const HttpRequest& request) {
  if (context.ledger == nullptr) {
    return error_response(not_found("this server does not meter usage"));
  }
  const ApiResult<int64_t> from = time_ms(request, "from", 0);
  if (!from.ok()) return error_response(from.error());
  const ApiResult<int64_t> to = time_ms(request, "to", INT64_MAX);
  if (!to.ok()) return error_response(to.error());
  UsageQuery query;
  query.from_unix_ms = from.value();
  query.to_unix_ms = to.value();
  // A key sees its own use; a server without keys has one account.
  query.only_key = true;
  query.key_label = request.key != nullptr ? request.key->label : "";
  Result<std::vector<UsageRow>> rows = context.ledger->usage(query);
  if (!rows.ok()) return error_response(server_error("the usage records cannot be read"));
  HttpResponse response;
  JsonWriter json(response.body);
  UsageRow total;
  total.key_label = query.key_label;
  json.begin_object().field("object", "usage").key("data").begin_array();
  for (const UsageRow& row : rows.value()) {
    write_row(row, price_of(row, context.price_per_million_tokens), json);
    total.num_requests += row.num_requests;
    total.input_tokens += row.input_tokens;
    total.cached_tokens += row.cached_tokens;
    total.output_tokens += row.output_tokens;
  }
  json.end_array().key("total");
  write_row(total, price_of(total, context.price_per_million_tokens), json);
  json.key("price_per_million_tokens").number(context.price_per_million_tokens).end_object();
  return response;
}

}  // namespace

std::vector<Route> usage_routes(ServerContext& context) {
  Route route;
  route.method = "GET";
  route.path = "/usage";
  route.needs_engine = false;
  route.handler = [&context](HttpRequest request, std::shared_ptr<ResponseWriter> writer) {
    writer->send(usage_response(context, request));
  };
  return {route};
}

}  // namespace slipstream
