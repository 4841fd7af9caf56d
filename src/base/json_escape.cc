#include "base/json_escape.h"

#include <array>
#include <cstdio>

#include "base/utf8.h"

namespace slipstream {

void append_json_escaped(std::string& out, std::string_view text) {
  size_t position = 0;
  while (position < text.size()) {
    const auto byte = static_cast<unsigned char>(text[position]);
    if (byte >= 0x80) {
      const Utf8Step step = utf8_decode(text, position);
      if (step.valid) {
        out.append(text.substr(position, step.length));
      } else {
        out += "\xEF\xBF\xBD";
      }
      position += step.length;
      continue;
    }
    switch (byte) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      default:
        if (byte < 0x20) {
          std::array<char, 8> escaped{};
          std::snprintf(escaped.data(), escaped.size(), "\\u%04x", byte);
          out += escaped.data();
        } else {
          out += static_cast<char>(byte);
        }
    }
    ++position;
  }
}

}  // namespace slipstream
