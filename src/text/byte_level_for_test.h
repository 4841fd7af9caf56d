// A tokenizer.json whose tokens are the 256 bytes and what a test adds.
#pragma once

#include <cstdint>
#include <string>

#include "base/strings.h"
#include "base/utf8.h"

namespace slipstream {

// All 256 bytes spelled in the GPT-2 alphabet as ids 0..255, then `extra` vocabulary entries.
inline std::string byte_vocab(const std::string& extra) {
  std::string out;
  uint32_t next = 256;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const bool printable =
        (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    std::string spelling;
    utf8_append(spelling, printable ? byte : next++);
    if (spelling == "\"" || spelling == "\\") spelling.insert(spelling.begin(), '\\');
    if (byte > 0) out += ',';
    out += '"';
    out += spelling;
    out += "\":";
    out += std::to_string(byte);
  }
  return str("{", out, extra, "}");
}

inline std::string byte_level_json(const std::string& extra_vocab, const std::string& merges,
                                   const std::string& added, const std::string& more_model = "") {
  return R"({"added_tokens":[)" + added +
         R"(],"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"use_regex":true},)"
         R"("decoder":{"type":"ByteLevel"},"model":{"type":"BPE",)" +
         more_model + R"("vocab":)" + byte_vocab(extra_vocab) + R"(,"merges":[)" + merges + "]}}";
}

}  // namespace slipstream
