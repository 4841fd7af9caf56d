#include "server/json_route.h"

#include <memory>
#include <optional>
#include <utility>

#include "server/params.h"
#include "server/worker_pool.h"

namespace slipstream {
namespace {

// Bodies up to this size take well below a millisecond.
constexpr size_t kInlineBytes = 16 << 10;

struct Job {
  std::string body;
  std::optional<ApiResult<std::string>> result;
};

void run(Job& job, const JsonFunction& function, const ServerLimits& limits) {
  ApiResult<Json> body = parse_body(job.body, limits);
  job.result = body.ok() ? function(body.value()) : ApiResult<std::string>(body.error());
}

}  // namespace

bool run_by_size(ServerContext& context, size_t num_bytes, std::function<void()> work,
                 std::function<void()> then) {
  if (num_bytes > kInlineBytes && context.workers != nullptr) {
    return context.workers->submit(std::move(work), std::move(then));
  }
  work();
  then();
  return true;
}

Handler json_handler(ServerContext& context, JsonFunction function, ErrorShape error_shape) {
  return [&context, function = std::move(function), shape = std::move(error_shape)](
             HttpRequest http, std::shared_ptr<ResponseWriter> writer) {
    auto job = std::make_shared<Job>();
    job->body = std::move(http.body);
    const bool accepted = run_by_size(
        context, job->body.size(),
        [job, function, &context] { run(*job, function, context.limits); },
        [job, writer, shape, request_id = http.request_id] {
          if (!job->result) return writer->send(shaped_error(shape, internal_error(), request_id));
          const ApiResult<std::string>& result = *job->result;
          if (!result.ok()) return writer->send(shaped_error(shape, result.error(), request_id));
          HttpResponse response;
          response.body = result.value();
          writer->send(std::move(response));
        });
    if (accepted) return;
    writer->send(
        shaped_error(shape, rate_limited("too many large requests wait", 1), http.request_id));
  };
}

}  // namespace slipstream
