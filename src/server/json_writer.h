// JsonWriter: writes JSON text straight into a string, for answers and streamed events.
//
// No tree is built and nothing is parsed: a token's event costs one pass over its bytes. The caller
// is trusted to open and close in order; strings are escaped and always valid UTF-8. One thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace slipstream {

class JsonWriter {
 public:
  explicit JsonWriter(std::string& out) : out_(out) {}

  JsonWriter& begin_object() { return open('{'); }
  JsonWriter& end_object() { return close('}'); }
  JsonWriter& begin_array() { return open('['); }
  JsonWriter& end_array() { return close(']'); }
  // `name` is escaped too: some names are tokens.
  JsonWriter& key(std::string_view name);
  JsonWriter& string(std::string_view value);
  JsonWriter& integer(int64_t value);
  // NaN and infinities, which JSON has not, become null.
  JsonWriter& number(double value);
  JsonWriter& number(float value);  // as short as a float allows
  JsonWriter& boolean(bool value) { return raw(value ? "true" : "false"); }
  JsonWriter& null() { return raw("null"); }
  // A complete JSON value that was written elsewhere.
  JsonWriter& raw(std::string_view json);

  JsonWriter& field(std::string_view name, std::string_view value) {
    return key(name).string(value);
  }
  JsonWriter& field(std::string_view name, const char* value) { return key(name).string(value); }
  JsonWriter& field(std::string_view name, int64_t value) { return key(name).integer(value); }

 private:
  JsonWriter& open(char bracket);
  JsonWriter& close(char bracket);
  template <typename Float>
  JsonWriter& floating(Float value);
  void separate();

  std::string& out_;
  bool needs_comma_ = false;
};

}  // namespace slipstream
