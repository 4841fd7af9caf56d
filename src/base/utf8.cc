#include "base/utf8.h"

namespace slipstream {
namespace {

struct LeadByte {
  size_t length;
  uint32_t bits;
  unsigned char second_min;
  unsigned char second_max;
};

// Table 3-7 of the Unicode standard: which second bytes a lead byte allows.
LeadByte classify(unsigned char lead) {
  if (lead >= 0xC2 && lead <= 0xDF) return {2, lead & 0x1Fu, 0x80, 0xBF};
  if (lead == 0xE0) return {3, 0u, 0xA0, 0xBF};
  if (lead == 0xED) return {3, 0xDu, 0x80, 0x9F};
  if (lead >= 0xE1 && lead <= 0xEF) return {3, lead & 0x0Fu, 0x80, 0xBF};
  if (lead == 0xF0) return {4, 0u, 0x90, 0xBF};
  if (lead >= 0xF1 && lead <= 0xF3) return {4, lead & 0x07u, 0x80, 0xBF};
  if (lead == 0xF4) return {4, 4u, 0x80, 0x8F};
  return {0, 0, 0, 0};
}

}  // namespace

Utf8Step utf8_decode(std::string_view text, size_t position) {
  const auto lead = static_cast<unsigned char>(text[position]);
  if (lead < 0x80) return {lead, 1, true, false};
  const LeadByte kind = classify(lead);
  if (kind.length == 0) return {0xFFFD, 1, false, false};
  uint32_t code_point = kind.bits;
  for (size_t i = 1; i < kind.length; ++i) {
    if (position + i >= text.size()) return {0xFFFD, i, false, true};
    const auto byte = static_cast<unsigned char>(text[position + i]);
    const unsigned char low = i == 1 ? kind.second_min : 0x80;
    const unsigned char high = i == 1 ? kind.second_max : 0xBF;
    if (byte < low || byte > high) return {0xFFFD, i, false, false};
    code_point = (code_point << 6) | (byte & 0x3Fu);
  }
  return {code_point, kind.length, true, false};
}

bool utf8_valid(std::string_view text) {
  for (size_t position = 0; position < text.size();) {
    const Utf8Step step = utf8_decode(text, position);
    if (!step.valid) return false;
    position += step.length;
  }
  return true;
}

void utf8_append(std::string& out, uint32_t code_point) {
  if (code_point < 0x80) {
    out += static_cast<char>(code_point);
  } else if (code_point < 0x800) {
    out += static_cast<char>(0xC0 | (code_point >> 6));
    out += static_cast<char>(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    out += static_cast<char>(0xE0 | (code_point >> 12));
    out += static_cast<char>(0x80 | ((code_point >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (code_point & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | (code_point >> 18));
    out += static_cast<char>(0x80 | ((code_point >> 12) & 0x3F));
    out += static_cast<char>(0x80 | ((code_point >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (code_point & 0x3F));
  }
}

std::string utf8_sanitized(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t position = 0; position < text.size();) {
    const Utf8Step step = utf8_decode(text, position);
    if (step.valid) {
      out.append(text.substr(position, step.length));
    } else {
      out += "\xEF\xBF\xBD";
    }
    position += step.length;
  }
  return out;
}

}  // namespace slipstream
