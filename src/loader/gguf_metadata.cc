// Typed access to GGUF metadata.
#include <cmath>

#include "base/strings.h"
#include "loader/gguf.h"

namespace slipstream {
namespace {

const char* kind_name(const GgufValue& value) {
  struct Namer {
    const char* operator()(int64_t) const { return "an integer"; }
    const char* operator()(double) const { return "a number"; }
    const char* operator()(bool) const { return "a bool"; }
    const char* operator()(std::string_view) const { return "a string"; }
    const char* operator()(const GgufArray& array) const {
      if (std::holds_alternative<std::vector<int64_t>>(array.items)) return "an array of integers";
      if (std::holds_alternative<std::vector<double>>(array.items)) return "an array of numbers";
      return "an array of strings";
    }
  };
  return std::visit(Namer{}, value);
}

Status wrong_type(const std::string& key, const char* expected, const GgufValue& value) {
  return invalid_model(
      str("key ", quote(key), ": expected ", expected, ", got ", kind_name(value)));
}

template <typename T>
Result<const std::vector<T>*> array_of(const GgufMetadata& metadata, const std::string& key,
                                       const char* expected) {
  const GgufValue* value = metadata.find(key);
  if (value == nullptr) return static_cast<const std::vector<T>*>(nullptr);
  const auto* array = std::get_if<GgufArray>(value);
  const auto* items = array != nullptr ? std::get_if<std::vector<T>>(&array->items) : nullptr;
  if (items == nullptr) return wrong_type(key, expected, *value);
  return items;
}

}  // namespace

size_t GgufArray::size() const {
  return std::visit([](const auto& values) { return values.size(); }, items);
}

const GgufValue* GgufMetadata::find(const std::string& key) const {
  const auto it = values.find(key);
  return it == values.end() ? nullptr : &it->second;
}

Result<int64_t> GgufMetadata::get_int(const std::string& key, int64_t fallback) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return fallback;
  if (const auto* integer = std::get_if<int64_t>(value)) return *integer;
  return wrong_type(key, "an integer", *value);
}

Result<double> GgufMetadata::get_number(const std::string& key, double fallback) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return fallback;
  if (const auto* integer = std::get_if<int64_t>(value)) return static_cast<double>(*integer);
  const auto* number = std::get_if<double>(value);
  if (number == nullptr) return wrong_type(key, "a number", *value);
  if (!std::isfinite(*number)) {
    return invalid_model(str("key ", quote(key), ": ", *number, " is not a finite number"));
  }
  return *number;
}

Result<bool> GgufMetadata::get_bool(const std::string& key, bool fallback) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return fallback;
  if (const auto* flag = std::get_if<bool>(value)) return *flag;
  return wrong_type(key, "a bool", *value);
}

Result<std::string> GgufMetadata::get_string(const std::string& key,
                                             const std::string& fallback) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return fallback;
  if (const auto* text = std::get_if<std::string_view>(value)) return std::string(*text);
  return wrong_type(key, "a string", *value);
}

Result<const std::vector<std::string_view>*> GgufMetadata::get_strings(
    const std::string& key) const {
  return array_of<std::string_view>(*this, key, "an array of strings");
}

Result<const std::vector<int64_t>*> GgufMetadata::get_ints(const std::string& key) const {
  return array_of<int64_t>(*this, key, "an array of integers");
}

Result<const std::vector<double>*> GgufMetadata::get_numbers(const std::string& key) const {
  return array_of<double>(*this, key, "an array of numbers");
}

}  // namespace slipstream
