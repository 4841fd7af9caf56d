#include "server/param_makers.h"

#include <algorithm>
#include <utility>

#include "base/strings.h"

namespace slipstream {
namespace {

constexpr size_t kMaxLabelBytes = 256;  // user, cache_salt, request_id
constexpr size_t kMaxTokenIdList = 1024;

ApiError wrong_type(const ParamRow& row, const char* expected, const Json& value) {
  return invalid_request(str(row.name, " is ", value.type_name(), "; it must be ", expected),
                         row.name);
}

ParamRow row_of(const RowHead& head, Json schema) {
  return {head.name, head.endpoints, head.group, std::move(schema), head.doc, {}};
}

}  // namespace

ParamError read_integer(const std::string& what, const Json& value, int64_t& out) {
  if (value.is_number_unsigned() && value.get<uint64_t>() > uint64_t{INT64_MAX}) {
    return invalid_request(str(what, " is ", value.get<uint64_t>(), ", which is out of range"));
  }
  if (!value.is_number_integer()) {
    if (value.is_number_float()) {
      return invalid_request(str(what, " is ", value.get<double>(), "; it must be an integer"));
    }
    return invalid_request(str(what, " is ", value.type_name(), "; it must be an integer"));
  }
  out = value.get<int64_t>();
  return {};
}

ParamError read_token_id(const std::string& what, const Json& value, const ParamEnv& env,
                         int32_t& out) {
  int64_t id = 0;
  if (auto error = read_integer(str("an element of ", what), value, id)) return error;
  if (id < 0 || id >= env.model->vocab_size) {
    return invalid_request(
        str(what, " names token ", id, "; the model has tokens 0 to ", env.model->vocab_size - 1));
  }
  out = static_cast<int32_t>(id);
  return {};
}

ParamError check_label(const std::string& name, const std::string& text) {
  if (text.size() > kMaxLabelBytes) {
    return invalid_request(str(name, " has ", text.size(), " bytes; at most ", kMaxLabelBytes),
                           name);
  }
  const bool plain = std::all_of(text.begin(), text.end(), [](char c) {
    return static_cast<unsigned char>(c) >= 0x20 && c != 0x7F;
  });
  if (!plain) return invalid_request(str(name, " has control characters"), name);
  return {};
}

ParamRow bool_row(const RowHead& head, std::optional<bool> preset,
                  std::function<void(ParsedParams&, bool)> set) {
  ParamRow row = row_of(head, {{"type", "boolean"}});
  if (preset) row.schema["default"] = *preset;
  row.set = [row, set = std::move(set)](ParsedParams& parsed, const ParamEnv&,
                                        const Json& value) -> ParamError {
    if (!value.is_boolean()) return wrong_type(row, "true or false", value);
    set(parsed, value.get<bool>());
    return {};
  };
  return row;
}

ParamRow int_row(const RowHead& head, const IntRange& range,
                 std::function<void(ParsedParams&, int64_t)> set) {
  ParamRow row =
      row_of(head, {{"type", "integer"}, {"minimum", range.min}, {"maximum", range.max}});
  if (range.preset) row.schema["default"] = *range.preset;
  row.set = [name = row.name, range, set = std::move(set)](ParsedParams& parsed, const ParamEnv&,
                                                           const Json& value) -> ParamError {
    int64_t number = 0;
    if (auto error = read_integer(name, value, number)) return error;
    if (number < range.min || number > range.max) {
      return invalid_request(
          str(name, " is ", number, "; it must be between ", range.min, " and ", range.max));
    }
    set(parsed, number);
    return {};
  };
  return row;
}

ParamRow number_row(const RowHead& head, const NumberRange& range,
                    std::function<void(ParsedParams&, float)> set) {
  ParamRow row = row_of(head, {{"type", "number"}});
  row.schema[range.min_excluded ? "exclusiveMinimum" : "minimum"] = range.min;
  row.schema["maximum"] = range.max;
  if (range.preset) row.schema["default"] = *range.preset;
  row.set = [row, range, set = std::move(set)](ParsedParams& parsed, const ParamEnv&,
                                               const Json& value) -> ParamError {
    if (!value.is_number()) return wrong_type(row, "a number", value);
    const double number = value.get<double>();
    // Written so that NaN fails.
    const bool above = range.min_excluded ? number > range.min : number >= range.min;
    if (!(above && number <= range.max)) {
      return invalid_request(str(row.name, " is ", number, "; it must be ",
                                 range.min_excluded ? "above " : "between ", range.min,
                                 range.min_excluded ? " and at most " : " and ", range.max));
    }
    set(parsed, static_cast<float>(number));
    return {};
  };
  return row;
}

ParamRow label_row(const RowHead& head, std::function<void(ParsedParams&, std::string)> set) {
  ParamRow row = row_of(head, {{"type", "string"}, {"maxLength", kMaxLabelBytes}});
  row.set = [row, set = std::move(set)](ParsedParams& parsed, const ParamEnv&,
                                        const Json& value) -> ParamError {
    if (!value.is_string()) return wrong_type(row, "a string", value);
    const auto& text = value.get_ref<const std::string&>();
    if (auto error = check_label(row.name, text)) return error;
    set(parsed, text);
    return {};
  };
  return row;
}

ParamRow token_ids_row(const RowHead& head,
                       std::function<void(ParsedParams&, std::vector<int32_t>)> set) {
  ParamRow row = row_of(head, {{"type", "array"},
                               {"items", {{"type", "integer"}, {"minimum", 0}}},
                               {"maxItems", kMaxTokenIdList}});
  row.set = [row, set = std::move(set)](ParsedParams& parsed, const ParamEnv& env,
                                        const Json& value) -> ParamError {
    if (!value.is_array()) return wrong_type(row, "an array of token ids", value);
    if (value.size() > kMaxTokenIdList) {
      return invalid_request(
          str(row.name, " has ", value.size(), " ids; at most ", kMaxTokenIdList));
    }
    std::vector<int32_t> ids(value.size());
    for (size_t idx = 0; idx < ids.size(); ++idx) {
      if (auto error = read_token_id(row.name, value[idx], env, ids[idx])) return error;
    }
    set(parsed, std::move(ids));
    return {};
  };
  return row;
}

ParamRow custom_row(const RowHead& head, Json schema, ParamSetter set) {
  ParamRow row = row_of(head, std::move(schema));
  row.set = std::move(set);
  return row;
}

ParamRow refused_row(const RowHead& head, std::string reason) {
  return custom_row(
      head, Json::object(),
      [reason = std::move(reason)](ParsedParams&, const ParamEnv&, const Json&) -> ParamError {
        return invalid_request(reason, "", "unsupported_parameter");
      });
}

ParamError read_stop_strings(const char* name, ParsedParams& parsed, const ParamEnv& env,
                             const Json& value) {
  std::vector<std::string>& stops = parsed.spec.sampling.stop;
  stops.clear();
  const auto add = [&](const Json& item) -> ParamError {
    if (!item.is_string()) {
      return invalid_request(str(name, " holds ", item.type_name(), "; it must hold strings"));
    }
    const auto& text = item.get_ref<const std::string&>();
    if (text.empty()) return invalid_request(str(name, " has an empty string"));
    if (std::ssize(text) > env.limits->max_stop_bytes) {
      return invalid_request(str(name, " has a string of ", text.size(), " bytes; at most ",
                                 env.limits->max_stop_bytes));
    }
    stops.push_back(text);
    return {};
  };
  if (value.is_string()) return add(value);
  if (!value.is_array()) {
    return invalid_request(
        str(name, " is ", value.type_name(), "; it must be a string or an array of strings"));
  }
  if (std::ssize(value) > env.limits->max_stop_strings) {
    return invalid_request(
        str(name, " has ", value.size(), " strings; at most ", env.limits->max_stop_strings));
  }
  for (const Json& item : value) {
    if (auto error = add(item)) return error;
  }
  return {};
}

}  // namespace slipstream
