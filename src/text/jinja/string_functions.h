// Text operations that the methods of str and the filters share; each charges the budget.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "text/jinja/value.h"

namespace slipstream::jinja {

// A string that is Markup when `model` is.
Value same_kind(const Value& model, std::string text);
Value string_list(const Value& model, const std::vector<std::string_view>& pieces, Budget& budget);

// At most `limit` splits, no limit when negative. An empty separator raises ValueError.
std::vector<std::string_view> split_text(std::string_view text, std::string_view separator,
                                         int64_t limit, Budget& budget);
std::vector<std::string_view> split_space(std::string_view text, int64_t limit, Budget& budget);
std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends, Budget& budget);

size_t count_occurrences(std::string_view text, std::string_view needle);  // needle not empty
std::string replace_text(std::string_view text, std::string_view from, std::string_view to,
                         int64_t limit, Budget& budget);
std::string repeat_text(std::string_view text, int64_t count, Budget& budget);

}  // namespace slipstream::jinja
