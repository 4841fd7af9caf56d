#include "bench/token_counter.h"

#include <utility>

#include "base/json.h"
#include "base/strings.h"

namespace slipstream {
namespace {

constexpr int64_t kTimeoutMs = 30'000;

// The length of "tokens"; -1: the reply has none, or an empty list.
int64_t num_tokens(const Result<HttpReply>& reply) {
  if (!reply.ok() || reply->status != 200) return -1;
  const Result<Json> json = parse_json(reply->body, "tokens");
  if (!json.ok() || !json->is_object()) return -1;
  const auto tokens = json->find("tokens");
  const bool is_list = tokens != json->end() && tokens->is_array() && !tokens->empty();
  return is_list ? static_cast<int64_t>(tokens->size()) : -1;
}

Json user_message(const std::string& text) {
  return Json::array({Json{{"role", "user"}, {"content", text}}});
}

}  // namespace

Status TokenCounter::find_dialect() {
  const std::string text = "the";
  const auto counts = [&](const char* path, const Json& body) {
    return num_tokens(http_call(target_, path, dump_json(body), kTimeoutMs)) > 0;
  };
  // llama.cpp answers vLLM's shape with an empty list.
  if (counts("/tokenize", Json{{"model", model_}, {"prompt", text}})) {
    dialect_ = Dialect::kVllm;
  } else if (counts("/tokenize", Json{{"content", text}})) {
    dialect_ = Dialect::kLlamaCpp;
  } else if (counts("/extras/tokenize", Json{{"input", text}})) {
    dialect_ = Dialect::kLlamaCppPython;
  } else {
    return failed(str(target_.url,
                      " has no /tokenize, so prompts of text cannot be given a"
                      " length; use random ids (--dataset-name random with"
                      " --endpoint /v1/completions) or a file of prompts"));
  }
  return {};
}

Result<int64_t> TokenCounter::count_content(const std::string& text, bool add_special) {
  const bool is_python = dialect_ == Dialect::kLlamaCppPython;
  const Json body =
      is_python ? Json{{"input", text}} : Json{{"content", text}, {"add_special", add_special}};
  const int64_t count = num_tokens(http_call(target_, is_python ? "/extras/tokenize" : "/tokenize",
                                             dump_json(body), kTimeoutMs));
  if (count < 0) return failed(str(target_.url, ": /tokenize gave no tokens"));
  return count;
}

Result<int64_t> TokenCounter::count_text(const std::string& text) {
  if (dialect_ == Dialect::kUnknown) SLIPSTREAM_RETURN_IF_ERROR(find_dialect());
  if (dialect_ != Dialect::kVllm) return count_content(text, true);
  const int64_t count = num_tokens(http_call(
      target_, "/tokenize", dump_json(Json{{"model", model_}, {"prompt", text}}), kTimeoutMs));
  if (count < 0) return failed(str(target_.url, ": /tokenize gave no tokens"));
  return count;
}

Result<int64_t> TokenCounter::count_chat(const std::string& text) {
  if (dialect_ == Dialect::kUnknown) SLIPSTREAM_RETURN_IF_ERROR(find_dialect());
  if (dialect_ == Dialect::kVllm) {
    const int64_t count = num_tokens(http_call(
        target_, "/tokenize", dump_json(Json{{"model", model_}, {"messages", user_message(text)}}),
        kTimeoutMs));
    if (count < 0) return failed(str(target_.url, ": /tokenize gave no tokens for a chat"));
    return count;
  }
  if (dialect_ == Dialect::kLlamaCppPython) {
    return failed(str(target_.url,
                      " cannot count a chat's tokens; use --endpoint"
                      " /v1/completions, or a file of prompts"));
  }
  SLIPSTREAM_ASSIGN_OR_RETURN(
      const HttpReply reply,
      http_call(target_, "/apply-template", dump_json(Json{{"messages", user_message(text)}}),
                kTimeoutMs));
  const Result<Json> json = parse_json(reply.body, "template");
  const bool has_prompt =
      json.ok() && json->is_object() && json->contains("prompt") && json->at("prompt").is_string();
  if (!has_prompt) return failed(str(target_.url, ": /apply-template gave no prompt"));
  return count_content(json->at("prompt").get<std::string>(), true);
}

}  // namespace slipstream
