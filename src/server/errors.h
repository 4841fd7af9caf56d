// ApiError: what a client did wrong or what went wrong for it, in OpenAI's error object.
//
// The one list of statuses, types and codes. Messages name what, where and the fix; they never
// carry internals.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/status.h"
#include "server/http.h"

namespace slipstream {

struct ApiError {
  int status = 400;
  std::string type = "invalid_request_error";
  std::string code;   // null in JSON when empty
  std::string param;  // null in JSON when empty
  std::string message;
  int64_t retry_after_s = 0;      // > 0: a Retry-After header
  bool should_not_retry = false;  // x-should-retry: false
};

ApiError invalid_request(std::string message, std::string param = "", std::string code = "");
ApiError context_length_exceeded(std::string message, std::string param);
ApiError authentication_error(std::string message);
ApiError not_found(std::string message, std::string code = "");
ApiError model_not_found(const std::string& model);
ApiError method_not_allowed(const std::string& allowed);
ApiError payload_too_large(std::string message);
ApiError unsupported_media_type(std::string message);
ApiError rate_limited(std::string message, int64_t retry_after_s);
ApiError server_error(std::string message);
ApiError internal_error();  // a 500 that says no more
ApiError service_unavailable(std::string message, int64_t retry_after_s);
ApiError deadline_exceeded(std::string message);

// {"error":{"message","type","param","code"}}
std::string error_body(const ApiError& error);
HttpResponse error_response(const ApiError& error);
// The same in a dialect's shape; null is OpenAI's.
HttpResponse shaped_error(const ErrorShape& shape, const ApiError& error,
                          std::string_view request_id);
// `data: {"error":...}\n\n` and `data: [DONE]\n\n`: how a stream that already began fails.
std::string error_event(const ApiError& error);

// A Result with an ApiError in place of a Status.
template <typename T>
class ApiResult {
 public:
  ApiResult(T value) : value_(std::move(value)) {}         // NOLINT: implicit by design
  ApiResult(ApiError error) : error_(std::move(error)) {}  // NOLINT: implicit by design
  bool ok() const { return value_.has_value(); }
  const ApiError& error() const { return error_; }
  T& value() & { return *value_; }
  const T& value() const& { return *value_; }
  T value() && { return std::move(*value_); }
  T* operator->() { return &*value_; }
  const T* operator->() const { return &*value_; }

 private:
  std::optional<T> value_;
  ApiError error_;
};

}  // namespace slipstream
