#include "base/json.h"

#include <set>
#include <vector>

#include "base/strings.h"

namespace slipstream {
namespace {

// Builds the value through nlohmann's own callback parser, stopping at excessive depth and at a
// key seen twice in one object.
class Guard {
 public:
  explicit Guard(JsonLimits limits) : limits_(limits) {}

  bool operator()(int depth, nlohmann::detail::parse_event_t event, const Json& parsed) {
    using Event = nlohmann::detail::parse_event_t;
    if (!problem_.empty()) return false;
    if (event == Event::object_start || event == Event::array_start) {
      if (depth >= limits_.max_depth) problem_ = str("nested deeper than ", limits_.max_depth);
      if (event == Event::object_start) keys_.emplace_back();
    } else if (event == Event::object_end) {
      if (!keys_.empty()) keys_.pop_back();
    } else if (event == Event::key && limits_.reject_duplicate_keys && !keys_.empty()) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!keys_.back().insert(key).second) problem_ = str("key ", quote(key), " appears twice");
    }
    return problem_.empty();
  }
  const std::string& problem() const { return problem_; }

 private:
  JsonLimits limits_;
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
  Guard guard(limits);
  try {
    Json value = Json::parse(text.begin(), text.end(),
                             [&guard](int depth, nlohmann::detail::parse_event_t event,
                                      Json& parsed) { return guard(depth, event, parsed); });
    if (!guard.problem().empty()) return failed(str(what, ": JSON ", guard.problem()));
    return value;
  } catch (const nlohmann::json::exception& error) {
    // nlohmann's text carries the byte offset; its "[json.exception...]" prefix is dropped.
    std::string_view message = error.what();
    const size_t bracket = message.find("] ");
    if (bracket != std::string_view::npos) message.remove_prefix(bracket + 2);
    return failed(str(what, ": not valid JSON: ", message));
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
