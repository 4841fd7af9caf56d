// Source text to tokens: delimiters, white-space control, literals. Knows nothing of statements.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/jinja/error.h"

namespace slipstream::jinja {

enum class TokenType : uint8_t {
  kData,        // text between tags, white space already trimmed
  kBlockBegin,  // {%
  kBlockEnd,
  kVariableBegin,  // {{
  kVariableEnd,
  kName,
  kString,  // `text` is the decoded literal
  kInteger,
  kFloat,
  kOperator,  // `text` is the operator
  kEnd,
};

struct Token {
  TokenType type = TokenType::kEnd;
  int line = 1;
  std::string text;
  int64_t integer = 0;
  double number = 0.0;

  bool is_operator(std::string_view op) const { return type == TokenType::kOperator && text == op; }
  bool is_name(std::string_view name) const { return type == TokenType::kName && text == name; }
};

// trim_blocks and lstrip_blocks are on, as for every chat template. The list ends with kEnd.
// Raises TemplateSyntaxError.
std::vector<Token> tokenize(std::string_view source);

}  // namespace slipstream::jinja
