// Code-point helpers with the meaning Python's str methods give them. Pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace slipstream::jinja {

int64_t count_code_points(std::string_view text);
std::u32string to_code_points(std::string_view text);
std::string to_utf8(std::u32string_view code_points);
// Byte offset of code point `index` (0 <= index <= length).
size_t byte_offset(std::string_view text, int64_t index);

// Byte position of `needle` at or after `from`, in linear time (std::string::find is quadratic on
// hostile text); npos when absent. rfind_text gives the last position.
size_t find_text(std::string_view text, std::string_view needle, size_t from = 0);
size_t rfind_text(std::string_view text, std::string_view needle);

bool is_space(char32_t c);
bool is_printable(char32_t c);
bool is_alpha(char32_t c);
bool is_digit(char32_t c);
bool is_upper(char32_t c);
bool is_lower(char32_t c);

std::string to_upper(std::string_view text);
std::string to_lower(std::string_view text);
std::string capitalize(std::string_view text);
std::string title(std::string_view text);  // str.title()
std::string swap_case(std::string_view text);

struct StripSides {
  bool left = true;
  bool right = true;
};
// Without `chars`, Unicode white space goes; with it, every code point that it contains.
std::string_view strip(std::string_view text, StripSides sides, const std::string_view* chars);

}  // namespace slipstream::jinja
