// What goes wrong inside a template: the kinds Python's jinja2 knows, plus our own limits.
// `Raise` travels as an exception inside this folder only; jinja.cc catches it at the door.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

namespace slipstream::jinja {

enum class ErrorKind : uint8_t {
  kTemplateError,   // raise_exception(): the template itself refuses its input
  kSyntaxError,     // the source does not parse, or names a filter or test nobody has
  kRuntimeError,    // TemplateRuntimeError: an unknown filter on a path that is really taken
  kUndefinedError,  // an undefined value was used
  kSecurityError,   // the sandbox refuses
  kTypeError,
  kValueError,
  kKeyError,
  kIndexError,
  kOverflowError,
  kZeroDivisionError,
  kRecursionError,
  kLimitError,  // out of steps, bytes or output: no counterpart in Python
};

// "TypeError", "UndefinedError" ...: the name jinja2 or Python gives the exception.
const char* error_kind_name(ErrorKind kind);

struct Error {
  ErrorKind kind = ErrorKind::kTemplateError;
  std::string message;
  int line = 0;  // of the template's source, 0 when unknown
};

struct Raise {
  Error error;
};

[[noreturn]] inline void raise(ErrorKind kind, std::string message) {
  throw Raise{{kind, std::move(message), 0}};
}
[[noreturn]] inline void raise_type_error(std::string message) {
  raise(ErrorKind::kTypeError, std::move(message));
}

}  // namespace slipstream::jinja
