// Any bytes as a tokenizer.json: loading gives a tokenizer or an error; a loaded tokenizer encodes
// and decodes short texts within its limits.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using slipstream::Tokenizer;
  constexpr size_t kMaxInputBytes = 64u << 10;
  if (size > kMaxInputBytes) return 0;
  const std::string_view json(reinterpret_cast<const char*>(data), size);
  const auto loaded = Tokenizer::from_json(json, "input");
  if (!loaded.ok()) return 0;
  const Tokenizer& tokenizer = *loaded.value();
  const std::string_view texts[] = {
      "Hello  world 123\n", "a\xCC\x81 \xE4\xB8\xAD<s>aaaaaaaaaaaaaaaa", json.substr(0, 256)};
  for (const std::string_view text : texts) {
    const auto ids = tokenizer.encode(text);
    if (!ids.ok()) continue;
    slipstream::DecodeStream stream(tokenizer);
    std::string streamed;
    for (const int32_t id : ids.value()) {
      if (id < 0 || id >= tokenizer.vocab_size()) std::abort();
      streamed += stream.push(id);
    }
    streamed += stream.flush();
    if (streamed != tokenizer.decode(ids.value())) std::abort();
  }
  return 0;
}
