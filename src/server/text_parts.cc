#include "server/text_parts.h"

#include <algorithm>

#include "base/strings.h"

namespace slipstream {
namespace {

ApiError part_error(const std::string& where, const std::string& problem) {
  return invalid_request(where + problem, where);
}

}  // namespace

ApiResult<std::string> read_text(const Json& content, const std::string& where,
                                 std::initializer_list<std::string_view> types) {
  if (content.is_string()) return content.get<std::string>();
  if (!content.is_array()) {
    return part_error(where,
                      str(" is ", content.type_name(), "; it must be a string or text parts"));
  }
  std::string text;
  for (size_t part_idx = 0; part_idx < content.size(); ++part_idx) {
    const Json& part = content[part_idx];
    const std::string place = str(where, "[", part_idx, "]");
    if (part_idx > 0) text += '\n';
    if (part.is_string()) {
      text += part.get_ref<const std::string&>();
      continue;
    }
    const auto type = part.is_object() ? part.find("type") : part.end();
    if (!part.is_object() || type == part.end() || !type->is_string()) {
      return part_error(place, " must be an object with a type");
    }
    const auto& name = type->get_ref<const std::string&>();
    if (std::find(types.begin(), types.end(), name) == types.end()) {
      return part_error(place, str(" has the type ", quote(name), "; the model reads text only"));
    }
    const auto value = part.find("text");
    if (value == part.end() || !value->is_string()) {
      return part_error(place + ".text", " must be a string");
    }
    text += value->get_ref<const std::string&>();
  }
  return text;
}

}  // namespace slipstream
