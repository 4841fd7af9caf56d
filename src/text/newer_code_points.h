// Members of general categories that the regular-expression library does not know yet.
#pragma once

#include <string_view>

namespace slipstream {

// For a category such as L or Lu: what to add to a character class that names it, in PCRE2's
// syntax. Empty when nothing was added.
std::string_view newer_code_points(std::string_view category);

}  // namespace slipstream
