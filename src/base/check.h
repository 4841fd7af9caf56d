// SLIPSTREAM_CHECK: for our own bugs, on in every build. What users or files can cause is a Status.
#pragma once

#include <string_view>

namespace slipstream {

// Prints "file:line: check failed: expression: detail" to stderr and aborts.
[[noreturn]] void check_failed(const char* file, int line, const char* expression,
                               std::string_view detail) noexcept;

}  // namespace slipstream

#define SLIPSTREAM_CHECK(condition, detail)                                 \
  do {                                                                      \
    if (!(condition)) [[unlikely]]                                          \
      ::slipstream::check_failed(__FILE__, __LINE__, #condition, (detail)); \
  } while (false)
