// How many tokens a text or a chat has, by the server that will read it.
//
// Owns the shapes of /tokenize: vLLM's (ours as well), llama.cpp's, and llama-cpp-python's. One
// call at a time.
#pragma once

#include <cstdint>
#include <string>

#include "base/status.h"
#include "bench/http_call.h"

namespace slipstream {

class TokenCounter {
 public:
  TokenCounter(HttpTarget target, std::string model)
      : target_(std::move(target)), model_(std::move(model)) {}

  // Of a completions prompt, with the special tokens that the server adds.
  Result<int64_t> count_text(const std::string& text);
  // Of a chat of one user message, with the template around it.
  Result<int64_t> count_chat(const std::string& text);

 private:
  enum class Dialect : uint8_t { kUnknown, kVllm, kLlamaCpp, kLlamaCppPython };

  Status find_dialect();
  Result<int64_t> count_content(const std::string& text, bool add_special);

  HttpTarget target_;
  std::string model_;
  Dialect dialect_ = Dialect::kUnknown;
};

}  // namespace slipstream
