// UTF-8: strict decoding (no overlong forms, no surrogates, nothing above U+10FFFF).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace slipstream {

struct Utf8Step {
  uint32_t code_point = 0;  // U+FFFD when not valid
  size_t length = 0;        // bytes consumed, at least 1; for an invalid sequence its maximal
                            // valid prefix, as the Unicode standard recommends
  bool valid = false;
  bool truncated = false;  // a valid prefix that the end of the text cuts off
};

// Decodes the code point at `position` (< text.size()).
Utf8Step utf8_decode(std::string_view text, size_t position);

bool utf8_valid(std::string_view text);

// `code_point` must be a scalar value.
void utf8_append(std::string& out, uint32_t code_point);

// Every invalid sequence replaced by U+FFFD.
std::string utf8_sanitized(std::string_view text);

}  // namespace slipstream
