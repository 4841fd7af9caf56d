// The line format of `tokenize` and `detokenize`: one JSON value in, one JSON value out.
#pragma once

#include <string>
#include <string_view>

#include "base/status.h"
#include "text/tokenizer.h"

namespace slipstream {

// A JSON string in, a JSON array of ids out. No newline at the end.
Result<std::string> tokenize_line(const Tokenizer& tokenizer, std::string_view json_line,
                                  EncodeOptions options = {});

// A JSON array of ids in, a JSON string out. An id outside the vocabulary is an error.
Result<std::string> detokenize_line(const Tokenizer& tokenizer, std::string_view json_line,
                                    DecodeOptions options = {});

}  // namespace slipstream
