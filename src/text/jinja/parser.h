// Tokens to Program. Raises TemplateSyntaxError, with the line.
#pragma once

#include <memory>
#include <string_view>

#include "text/jinja/ast.h"

namespace slipstream::jinja {

struct ParseLimits {
  size_t max_source_bytes = 1u << 20;
  int max_nesting = 120;  // brackets, statements and operators inside one another
};

std::shared_ptr<const Program> parse_program(std::string_view source, const ParseLimits& limits);

}  // namespace slipstream::jinja
