#include "server/usage_route.h"

#include <charconv>
#include <chrono>
#include <memory>
#include <utility>

#include "base/strings.h"
#include "server/json_writer.h"
#include "server/ledger.h"

namespace slipstream {
namespace {

constexpr int64_t kMaxUnixS = 100'000'000'000;

// Reads "YYYY-MM-DD" with an optional time behind it.
bool parse_iso(const std::string& text, int64_t& unix_s) {
  int year = 0;
  unsigned month = 0;
  unsigned day = 0;
  int hour = 0;
  int minute = 0;
  int second = 0;
  char rest = 0;
  const auto digits = [&](size_t at, size_t count, auto& value) {
    if (at + count > text.size()) return false;
    const char* begin = text.data() + at;
    const auto [end, error] = std::from_chars(begin, begin + count, value);
    return error == std::errc() && end == begin + count;
  };
  const bool dated = digits(0, 4, year) && text[4] == '-' && digits(5, 2, month) &&
                     text[7] == '-' && digits(8, 2, day);
  if (!dated) return false;
  if (text.size() > 10) {
    rest = text[10];
    const bool timed = (rest == 'T' || rest == ' ') && digits(11, 2, hour) && text[13] == ':' &&
                       digits(14, 2, minute) && text[16] == ':' && digits(17, 2, second);
    if (!timed || (text.size() > 19 && text.substr(19) != "Z")) return false;
  }
  const std::chrono::year_month_day date{std::chrono::year(year), std::chrono::month(month),
                                         std::chrono::day(day)};
  if (!date.ok() || hour > 23 || minute > 59 || second > 59) return false;
  const auto days = std::chrono::sys_days(date).time_since_epoch();
  unix_s = std::chrono::duration_cast<std::chrono::seconds>(days).count() + hour * 3600 +
           minute * 60 + second;
  return true;
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
  const ApiResult<int64_t> from = parse_time_ms(request.query_value("from"), "from", 0);
  if (!from.ok()) return error_response(from.error());
  const ApiResult<int64_t> to = parse_time_ms(request.query_value("to"), "to", INT64_MAX);
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

ApiResult<int64_t> parse_time_ms(const std::string& text, const char* name, int64_t fallback) {
  if (text.empty()) return fallback;
  int64_t unix_s = 0;
  const char* end_of_text = text.data() + text.size();
  const auto [end, error] = std::from_chars(text.data(), end_of_text, unix_s);
  const bool number = error == std::errc() && end == end_of_text;
  if ((number || parse_iso(text, unix_s)) && unix_s >= 0 && unix_s <= kMaxUnixS) {
    return unix_s * 1000;
  }
  return invalid_request(
      str(name, " is ", quote(text), "; it must be Unix seconds or a date such as 2026-01-31"),
      name);
}

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
