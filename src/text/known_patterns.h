// The pre-tokenizer patterns of published tokenizers, as data.
//
// Every pattern here runs in time linear in the text: no alternative can fail after more than a
// constant number of passes over what it has consumed. So they may run as machine code, without the
// step budget that other patterns get. GGUF files name theirs by tokenizer.ggml.pre.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace slipstream {

bool is_known_pattern(std::string_view pattern);

// GPT-2's split rule; ByteLevel pre-tokenizers use it.
std::string_view gpt2_pattern();

struct GgufPreTokenizer {
  std::string_view name;
  std::vector<std::string_view> patterns;  // applied one after the other, each match a piece
  bool ignore_merges = false;
  bool add_bos = false;  // unless the file's own key says otherwise
  bool nfc = false;
};

// Null when the name is not known.
const GgufPreTokenizer* find_gguf_pre_tokenizer(std::string_view name);
// "default, gpt-2, ...": for messages.
std::string gguf_pre_tokenizer_names();

}  // namespace slipstream
