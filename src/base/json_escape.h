// JSON string escaping without a JSON library: for log lines and streamed events.
#pragma once

#include <string>
#include <string_view>

namespace slipstream {

// Appends `text` escaped for a JSON string, without the quotes. Bytes that are not valid UTF-8
// become U+FFFD, so the output is always valid JSON.
void append_json_escaped(std::string& out, std::string_view text);

}  // namespace slipstream
