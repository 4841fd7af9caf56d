#include "base/json.h"

#include <set>
#include <utility>
#include <vector>

#include "base/strings.h"

namespace slipstream {
namespace {

// Builds the value, and stops at a key seen twice in one object. The library's own builders take
// quadratic time on hostile texts: they look at a whole array at the end of each of its objects,
// and for each key through all keys before it.
class Builder final : public nlohmann::json_sax<Json> {
 public:
  explicit Builder(const JsonLimits& limits) : limits_(limits) {}

  bool null() override { return put(nullptr) != nullptr; }
  bool boolean(bool value) override { return put(value) != nullptr; }
  bool number_integer(int64_t value) override { return put(value) != nullptr; }
  bool number_unsigned(uint64_t value) override { return put(value) != nullptr; }
  bool number_float(double value, const std::string&) override { return put(value) != nullptr; }
  bool string(std::string& value) override { return put(std::move(value)) != nullptr; }
  bool binary(binary_t& value) override { return put(Json::binary(std::move(value))) != nullptr; }

  bool start_object(size_t) override {
    open_.push_back(put(Json::object()));
    keys_.emplace_back();
    return true;
  }
  bool key(std::string& key) override {
    if (!limits_.reject_duplicate_keys) {
      member_ = &(*open_.back())[key];
      return true;
    }
    if (!keys_.back().insert(key).second) {
      problem_ = str("JSON key ", quote(key), " appears twice");
      return false;
    }
    Json::object_t::Container& members = open_.back()->get_ref<Json::object_t&>();
    members.emplace_back(std::move(key), nullptr);
    member_ = &members.back().second;
    return true;
  }
  bool end_object() override {
    open_.pop_back();
    keys_.pop_back();
    return true;
  }
  bool start_array(size_t) override {
    open_.push_back(put(Json::array()));
    return true;
  }
  bool end_array() override {
    open_.pop_back();
    return true;
  }
  bool parse_error(size_t, const std::string&, const Json::exception& error) override {
    // nlohmann's text carries the byte offset; its "[json.exception...]" prefix is dropped.
    std::string_view message = error.what();
    const size_t bracket = message.find("] ");
    if (bracket != std::string_view::npos) message.remove_prefix(bracket + 2);
    problem_ = str("not valid JSON: ", message);
    return false;
  }

  const std::string& problem() const { return problem_; }
  Json take() { return std::move(root_); }

 private:
  // Places stay where they are while they are open: only the innermost container grows.
  Json* put(Json value) {
    Json* place = &root_;
    if (!open_.empty() && open_.back()->is_array()) {
      auto& elements = open_.back()->get_ref<Json::array_t&>();
      elements.emplace_back();
      place = &elements.back();
    } else if (!open_.empty()) {
      place = member_;
    }
    *place = std::move(value);
    return place;
  }

  const JsonLimits limits_;
  Json root_;
  std::vector<Json*> open_;  // containers, outermost first
  Json* member_ = nullptr;   // of the innermost object: where its next value goes
  std::vector<std::set<std::string>> keys_;
  std::string problem_;
};

// Depth is checked on the raw text first: the parser itself would go on to the end.
bool too_deep(std::string_view text, int max_depth) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\')
        ++i;
      else if (c == '"')
        in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > max_depth) return true;
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return false;
}

Status wrong_type(const std::string& key, const char* expected, const Json& value) {
  return failed(str(key, ": expected ", expected, ", got ", value.type_name()));
}

const Json* find(const Json& object, const std::string& key) {
  if (!object.is_object()) return nullptr;
  const auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

}  // namespace

Result<Json> parse_json(std::string_view text, const std::string& what, JsonLimits limits) {
  if (text.size() > limits.max_bytes) {
    return failed(str(what, ": larger than the limit of ", human_bytes(limits.max_bytes)));
  }
  // The parser would take a zero byte for the end and never look at what follows.
  if (text.find('\0') != std::string_view::npos) {
    return failed(str(what, ": not valid JSON: a zero byte"));
  }
  if (too_deep(text, limits.max_depth)) {
    return failed(str(what, ": JSON nested deeper than ", limits.max_depth));
  }
  Builder builder(limits);
  try {
    if (!Json::sax_parse(text.begin(), text.end(), &builder)) {
      return failed(str(what, ": ", builder.problem()));
    }
    return builder.take();
  } catch (const nlohmann::json::exception& error) {
    return failed(str(what, ": not valid JSON: ", error.what()));
  }
}

std::string dump_json(const Json& value, int indent) {
  return value.dump(indent, ' ', false, Json::error_handler_t::replace);
}

Result<int64_t> json_int(const Json& object, const std::string& key, int64_t fallback) {
  const Json* value = find(object, key);
  if (value == nullptr) return fallback;
  if (value->is_number_unsigned() && value->get<uint64_t>() > uint64_t{INT64_MAX}) {
    return failed(str(key, ": ", value->get<uint64_t>(), " is out of range"));
  }
  if (!value->is_number_integer()) return wrong_type(key, "an integer", *value);
  return value->get<int64_t>();
}

Result<double> json_number(const Json& object, const std::string& key, double fallback) {
  const Json* value = find(object, key);
  if (value == nullptr) return fallback;
  if (!value->is_number()) return wrong_type(key, "a number", *value);
  return value->get<double>();
}

Result<bool> json_bool(const Json& object, const std::string& key, bool fallback) {
  const Json* value = find(object, key);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) return wrong_type(key, "true or false", *value);
  return value->get<bool>();
}

Result<std::string> json_string(const Json& object, const std::string& key,
                                const std::string& fallback) {
  const Json* value = find(object, key);
  if (value == nullptr) return fallback;
  if (!value->is_string()) return wrong_type(key, "a string", *value);
  return value->get<std::string>();
}

}  // namespace slipstream
