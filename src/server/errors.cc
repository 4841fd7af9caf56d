#include "server/errors.h"

#include "base/json_escape.h"
#include "base/strings.h"

namespace slipstream {
namespace {

void append_member(std::string& out, const char* name, const std::string& value,
                   bool null_if_empty) {
  out += str(",\"", name, "\":");
  if (value.empty() && null_if_empty) {
    out += "null";
    return;
  }
  out += '"';
  append_json_escaped(out, value);
  out += '"';
}

}  // namespace

ApiError invalid_request(std::string message, std::string param, std::string code) {
  ApiError error;
  error.message = std::move(message);
  error.param = std::move(param);
  error.code = std::move(code);
  return error;
}

ApiError context_length_exceeded(std::string message, std::string param) {
  return invalid_request(std::move(message), std::move(param), "context_length_exceeded");
}

ApiError authentication_error(std::string message) {
  ApiError error;
  error.status = 401;
  error.type = "authentication_error";
  error.code = "invalid_api_key";
  error.message = std::move(message);
  return error;
}

ApiError not_found(std::string message, std::string code) {
  ApiError error;
  error.status = 404;
  error.type = "not_found_error";
  error.code = std::move(code);
  error.message = std::move(message);
  return error;
}

ApiError model_not_found(const std::string& model) {
  ApiError error = not_found(
      str("the model ", quote(model), " does not exist; GET /v1/models lists what is served"),
      "model_not_found");
  error.param = "model";
  return error;
}

ApiError method_not_allowed(const std::string& allowed) {
  ApiError error;
  error.status = 405;
  error.code = "method_not_allowed";
  error.message = str("this route allows ", allowed, " only");
  return error;
}

ApiError payload_too_large(std::string message) {
  ApiError error;
  error.status = 413;
  error.code = "payload_too_large";
  error.message = std::move(message);
  return error;
}

ApiError unsupported_media_type(std::string message) {
  ApiError error;
  error.status = 415;
  error.code = "unsupported_media_type";
  error.message = std::move(message);
  return error;
}

ApiError rate_limited(std::string message, int64_t retry_after_s) {
  ApiError error;
  error.status = 429;
  error.type = "rate_limit_error";
  error.code = "rate_limit_exceeded";
  error.message = std::move(message);
  error.retry_after_s = retry_after_s;
  return error;
}

ApiError server_error(std::string message) {
  ApiError error;
  error.status = 500;
  error.type = "server_error";
  error.message = std::move(message);
  return error;
}

ApiError internal_error() { return server_error("the request failed inside the server"); }

ApiError service_unavailable(std::string message, int64_t retry_after_s) {
  ApiError error;
  error.status = 503;
  error.type = "service_unavailable";
  error.message = std::move(message);
  error.retry_after_s = retry_after_s;
  return error;
}

ApiError deadline_exceeded(std::string message) {
  ApiError error;
  error.status = 504;
  error.type = "timeout_error";
  error.code = "deadline_exceeded";
  error.message = std::move(message);
  error.should_not_retry = true;
  return error;
}

std::string error_body(const ApiError& error) {
  std::string out = "{\"error\":{\"message\":\"";
  append_json_escaped(out, error.message);
  out += '"';
  append_member(out, "type", error.type, false);
  append_member(out, "param", error.param, true);
  append_member(out, "code", error.code, true);
  out += "}}";
  return out;
}

HttpResponse error_response(const ApiError& error) {
  HttpResponse response;
  response.status = error.status;
  response.body = error_body(error);
  if (error.status == 401) response.headers.emplace_back("www-authenticate", "Bearer");
  if (error.retry_after_s > 0) {
    response.headers.emplace_back("retry-after", std::to_string(error.retry_after_s));
  }
  if (error.should_not_retry) response.headers.emplace_back("x-should-retry", "false");
  return response;
}

HttpResponse shaped_error(const ErrorShape& shape, const ApiError& error,
                          std::string_view request_id) {
  return shape ? shape(error, request_id) : error_response(error);
}

std::string error_event(const ApiError& error) {
  return "data: " + error_body(error) + "\n\ndata: [DONE]\n\n";
}

}  // namespace slipstream
