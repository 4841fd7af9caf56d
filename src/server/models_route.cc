#include "server/models_route.h"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "base/strings.h"
#include "server/errors.h"
#include "server/json_writer.h"

namespace slipstream {
namespace {

// vLLM's object, which OpenAI's is a part of.
void write_model(const ServerContext& context, const std::string& name, JsonWriter& json) {
  const ModelInfo& model = context.bridge->engine().model();
  json.begin_object()
      .field("id", name)
      .field("object", "model")
      .field("created", context.started_unix_s)
      .field("owned_by", "slipstream")
      .field("root", context.model_id);
  json.key("parent").null().field("max_model_len", model.max_model_len);
  json.key("permission").begin_array().begin_object();
  json.field("id", str("modelperm-", name))
      .field("object", "model_permission")
      .field("created", context.started_unix_s);
  for (const char* right : {"allow_create_engine", "allow_fine_tuning"}) {
    json.key(right).boolean(false);
  }
  for (const char* right : {"allow_sampling", "allow_logprobs", "allow_view"}) {
    json.key(right).boolean(true);
  }
  json.key("allow_search_indices").boolean(false).field("organization", "*");
  json.key("group").null().key("is_blocking").boolean(false).end_object().end_array();
  json.key("meta").begin_object();
  json.field("family", model.family)
      .field("n_params", model.num_parameters)
      .field("vocab_size", model.vocab_size)
      .field("n_ctx_train", model.max_model_len)
      .field("weights_format", model.weights_format)
      .field("kv_format", model.kv_format)
      .field("device", model.device)
      .field("executor", model.executor)
      .field("latency_executor", model.latency_executor)
      .end_object()
      .end_object();
}

void list_models(const ServerContext& context, ResponseWriter& writer) {
  HttpResponse response;
  JsonWriter json(response.body);
  json.begin_object().field("object", "list").key("data").begin_array();
  for (const std::string& name : context.model_names) write_model(context, name, json);
  json.end_array().end_object();
  writer.send(std::move(response));
}

void show_model(const ServerContext& context, const std::string& name, ResponseWriter& writer) {
  const std::vector<std::string>& names = context.model_names;
  if (std::find(names.begin(), names.end(), name) == names.end()) {
    return writer.send(error_response(model_not_found(name)));
  }
  HttpResponse response;
  JsonWriter json(response.body);
  write_model(context, name, json);
  writer.send(std::move(response));
}

}  // namespace

std::vector<Route> models_routes(ServerContext& context) {
  Route list;
  list.method = "GET";
  list.path = "/v1/models";
  list.handler = [&context](HttpRequest, std::shared_ptr<ResponseWriter> writer) {
    list_models(context, *writer);
  };
  Route one;
  one.method = "GET";
  one.path = "/v1/models/{id}";
  one.handler = [&context](HttpRequest request, std::shared_ptr<ResponseWriter> writer) {
    show_model(context, request.path_tail, *writer);
  };
  return {list, one};
}

}  // namespace slipstream
