// Status and Result<T>: how everything a user or a file can cause is reported.
//
// An error carries the exit code that a command returns for it and one line of text that names
// what is wrong, where, and the fix. Our own bugs do not travel this way: see check.h.
#pragma once

#include <optional>
#include <string>
#include <utility>

#include "base/check.h"

namespace slipstream {

// The values are the process exit codes of the command line.
enum class StatusCode : int {
  kOk = 0,
  kFailed = 1,        // failed while running: I/O, network, cancelled
  kBadUsage = 2,      // the caller's arguments are wrong
  kInvalidModel = 3,  // the model's files are invalid or unsupported
  kDoesNotFit = 4,    // memory or device missing; the message gives needed and free bytes
};

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const { return code_ == StatusCode::kOk; }
  StatusCode code() const { return code_; }
  int exit_code() const { return static_cast<int>(code_); }
  const std::string& message() const { return message_; }

  // The same error with "`where`: " in front: each layer adds the file or key it knows.
  Status in(const std::string& where) const {
    return ok() ? *this : Status(code_, where + ": " + message_);
  }

 private:
  StatusCode code_ = StatusCode::kOk;
  std::string message_;
};

inline Status failed(std::string message) { return {StatusCode::kFailed, std::move(message)}; }
inline Status bad_usage(std::string message) { return {StatusCode::kBadUsage, std::move(message)}; }
inline Status invalid_model(std::string message) {
  return {StatusCode::kInvalidModel, std::move(message)};
}
inline Status does_not_fit(std::string message) {
  return {StatusCode::kDoesNotFit, std::move(message)};
}

// A value or an error. `value()` on an error is a bug of ours and stops the program.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}         // NOLINT: implicit by design
  Result(Status status) : status_(std::move(status)) {  // NOLINT: implicit by design
    SLIPSTREAM_CHECK(!status_.ok(), "a Result without a value needs an error");
  }

  bool ok() const { return value_.has_value(); }
  const Status& status() const { return status_; }
  T& value() & {
    SLIPSTREAM_CHECK(ok(), status_.message());
    return *value_;
  }
  const T& value() const& {
    SLIPSTREAM_CHECK(ok(), status_.message());
    return *value_;
  }
  T value() && {  // by value: `for (x : f().value())` keeps what it iterates over
    SLIPSTREAM_CHECK(ok(), status_.message());
    return std::move(*value_);
  }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

 private:
  std::optional<T> value_;
  Status status_;
};

}  // namespace slipstream

#define SLIPSTREAM_CONCAT_INNER(a, b) a##b
#define SLIPSTREAM_CONCAT(a, b) SLIPSTREAM_CONCAT_INNER(a, b)

// Returns the error of a Status expression to the caller.
#define SLIPSTREAM_RETURN_IF_ERROR(expr)             \
  do {                                               \
    ::slipstream::Status status_of_expr = (expr);    \
    if (!status_of_expr.ok()) return status_of_expr; \
  } while (false)

// Declares or assigns `lhs` from a Result expression, or returns its error to the caller.
#define SLIPSTREAM_ASSIGN_OR_RETURN(lhs, expr) \
  SLIPSTREAM_ASSIGN_OR_RETURN_INNER(SLIPSTREAM_CONCAT(result_, __LINE__), lhs, expr)
#define SLIPSTREAM_ASSIGN_OR_RETURN_INNER(result, lhs, expr) \
  auto result = (expr);                                      \
  if (!result.ok()) return result.status();                  \
  lhs = std::move(result).value()
