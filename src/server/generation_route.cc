#include "server/generation_route.h"

#include <chrono>
#include <optional>
#include <utility>

#include "server/json_route.h"
#include "server/server_context.h"
#include "server/server_metrics.h"

namespace slipstream {
namespace {

int64_t unix_now_s() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

// What a worker reads and writes.
struct Job {
  std::string body;
  std::optional<ApiResult<PreparedCall>> result;
};

ApiResult<PreparedCall> prepare(const std::string& body, const Dialect& dialect,
                                const FrontEnd& front_end) {
  ApiResult<Json> parsed = parse_body(body, *front_end.params.limits);
  if (!parsed.ok()) return parsed.error();
  return dialect.prepare(parsed.value(), front_end);
}

class GenerationRoute final : public std::enable_shared_from_this<GenerationRoute> {
 public:
  GenerationRoute(ServerContext& context, std::shared_ptr<const ParamTable> table, Dialect dialect)
      : context_(context), table_(std::move(table)), dialect_(std::move(dialect)) {}

  void handle(HttpRequest http, std::shared_ptr<ResponseWriter> writer) {
    const FrontEnd ends = front_end(context_, *table_);
    auto job = std::make_shared<Job>();
    job->body = std::move(http.body);
    const bool accepted = run_by_size(
        context_, job->body.size(),
        [self = shared_from_this(), job, ends] {
          job->result = prepare(job->body, self->dialect_, ends);
        },
        [self = shared_from_this(), job, http, writer] {
          if (!job->result) return self->refuse(internal_error(), http, *writer);
          self->start(http, std::move(*job->result), writer);
        });
    if (!accepted) refuse(rate_limited("too many large requests wait", 1), http, *writer);
  }

 private:
  void refuse(const ApiError& error, const HttpRequest& http, ResponseWriter& writer) const {
    writer.send(shaped_error(dialect_.error_shape, error, http.request_id));
  }

  void start(const HttpRequest& http, ApiResult<PreparedCall> prepared,
             std::shared_ptr<ResponseWriter> writer) {
    if (!prepared.ok()) return refuse(prepared.error(), http, *writer);
    CallSpec& spec = prepared->spec;
    if (spec.num_unknown_fields > 0)
      context_.metrics->count_unknown_fields(spec.num_unknown_fields);
    if (spec.model.empty()) spec.model = context_.model_id;
    const ApiResult<int64_t> deadline_ms = parse_deadline_ms(http.header("x-request-timeout-ms"));
    if (!deadline_ms.ok()) return refuse(deadline_ms.error(), http, *writer);
    spec.deadline_ms = deadline_ms.value();
    spec.route = dialect_.route;
    spec.created_s = unix_now_s();
    start_call(context_, http, std::move(spec), std::move(prepared->format), std::move(writer));
  }

  ServerContext& context_;
  const std::shared_ptr<const ParamTable> table_;
  const Dialect dialect_;
};

}  // namespace

FrontEnd front_end(const ServerContext& context, const ParamTable& table) {
  Engine& engine = context.bridge->engine();
  FrontEnd ends;
  ends.table = &table;
  ends.params = {.limits = &context.limits,
                 .model = &engine.model(),
                 .tokenizer = engine.tokenizer().get(),
                 .model_names = &context.model_names,
                 .allow_template_kwargs = context.allow_template_kwargs};
  ends.prompt = {.limits = &context.limits,
                 .model = &engine.model(),
                 .tokenizer = engine.tokenizer().get(),
                 .chat_template = context.chat_template,
                 .chat_template_error = context.chat_template_error};
  return ends;
}

Handler generation_handler(ServerContext& context, std::shared_ptr<const ParamTable> table,
                           Dialect dialect) {
  auto route = std::make_shared<GenerationRoute>(context, std::move(table), std::move(dialect));
  return [route](HttpRequest http, std::shared_ptr<ResponseWriter> writer) {
    route->handle(std::move(http), std::move(writer));
  };
}

}  // namespace slipstream
