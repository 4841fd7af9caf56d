#include "server/json_writer.h"

#include <array>
#include <charconv>
#include <cmath>

#include "base/json_escape.h"

namespace slipstream {

void JsonWriter::separate() {
  if (needs_comma_) out_ += ',';
  needs_comma_ = true;
}

JsonWriter& JsonWriter::open(char bracket) {
  separate();
  out_ += bracket;
  needs_comma_ = false;
  return *this;
}

JsonWriter& JsonWriter::close(char bracket) {
  out_ += bracket;
  needs_comma_ = true;
  return *this;
}

JsonWriter& JsonWriter::key(std::string_view name) {
  string(name);
  out_ += ':';
  needs_comma_ = false;
  return *this;
}

JsonWriter& JsonWriter::string(std::string_view value) {
  separate();
  out_ += '"';
  append_json_escaped(out_, value);
  out_ += '"';
  return *this;
}

JsonWriter& JsonWriter::integer(int64_t value) {
  separate();
  std::array<char, 24> digits{};
  const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), value).ptr;
  out_.append(digits.data(), end);
  return *this;
}

template <typename Float>
JsonWriter& JsonWriter::floating(Float value) {
  if (!std::isfinite(value)) return null();
  separate();
  std::array<char, 32> digits{};
  const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), value).ptr;
  const std::string_view text(digits.data(), static_cast<size_t>(end - digits.data()));
  out_ += text;
  // A whole number keeps a fraction: typed clients expect a float to look like one.
  if (text.find_first_not_of("-0123456789") == std::string_view::npos) out_ += ".0";
  return *this;
}

JsonWriter& JsonWriter::number(double value) { return floating(value); }
JsonWriter& JsonWriter::number(float value) { return floating(value); }

JsonWriter& JsonWriter::raw(std::string_view json) {
  separate();
  out_ += json;
  return *this;
}

}  // namespace slipstream
