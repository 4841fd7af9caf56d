// The content of a message in any dialect: a string, or typed parts that hold text.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>

#include "base/json.h"
#include "server/errors.h"

namespace slipstream {

// The text of `content`, its parts joined by line feeds. `where` names it in errors:
// "messages[2].content". Parts of another type than `types` are refused: the model reads text only.
ApiResult<std::string> read_text(const Json& content, const std::string& where,
                                 std::initializer_list<std::string_view> types);

}  // namespace slipstream
