// Owns the methods of str. Each charges the budget before it builds something that can be larger
// than its input.
#include <algorithm>
#include <array>

#include "base/strings.h"
#include "base/utf8.h"
#include "text/jinja/args.h"
#include "text/jinja/operators.h"
#include "text/jinja/print.h"
#include "text/jinja/runtime.h"
#include "text/jinja/string_functions.h"
#include "text/jinja/unicode.h"

namespace slipstream::jinja {
namespace {

Value strip_sides(const char* name, const Value& self, const Args& args, StripSides sides) {
  const BoundArgs bound(name, args, {"chars"});
  if (bound.get_some(0) == nullptr) {
    return same_kind(self, std::string(strip(self.text(), sides, nullptr)));
  }
  const std::string_view chars = bound.text(0);
  return same_kind(self, std::string(strip(self.text(), sides, &chars)));
}

Value method_strip(Interpreter& in, const Value& self, const Args& args) {
  in.budget().scan(self.text().size() * 3);
  return strip_sides("strip", self, args, {});
}
Value method_lstrip(Interpreter& in, const Value& self, const Args& args) {
  in.budget().scan(self.text().size() * 3);
  return strip_sides("lstrip", self, args, {.left = true, .right = false});
}
Value method_rstrip(Interpreter& in, const Value& self, const Args& args) {
  in.budget().scan(self.text().size() * 3);
  return strip_sides("rstrip", self, args, {.left = false, .right = true});
}

template <std::string (*kMap)(std::string_view)>
Value method_map(Interpreter& in, const Value& self, const Args& args) {
  const BoundArgs bound("str method", args, {});
  in.budget().scan(self.text().size() * 3);
  in.budget().produce(self.text().size() * 4);
  return same_kind(self, kMap(self.text()));
}

// Python's start and end arguments as a byte range of the text.
std::string_view subrange(const Value& self, const BoundArgs& bound, size_t first, Budget& budget) {
  const bool open_start = bound.get_some(first) == nullptr;
  const bool open_end = bound.get_some(first + 1) == nullptr;
  const std::string& text = self.text();
  if (open_start && open_end) return text;
  budget.scan(text.size());
  const int64_t length = self.string_object().length;
  const auto clamp = [length](int64_t index) {
    return std::clamp<int64_t>(index < 0 ? index + length : index, 0, length);
  };
  const int64_t start = open_start ? 0 : clamp(bound.integer(first, 0));
  const int64_t end = open_end ? length : clamp(bound.integer(first + 1, 0));
  if (start >= end) return {};
  const size_t begin_byte = byte_offset(text, start);
  return std::string_view(text).substr(begin_byte, byte_offset(text, end) - begin_byte);
}

Value affix(const char* name, const Value& self, const Args& args, bool prefix, Budget& budget) {
  const BoundArgs bound(name, args, {"prefix", "start", "end"}, 1);
  const std::string_view text = subrange(self, bound, 1, budget);
  const auto matches = [&](const Value& candidate) {
    if (!candidate.is_string()) {
      raise_type_error(
          str(name, " first arg must be str or a tuple of str, not ", type_name(candidate)));
    }
    return prefix ? starts_with(text, candidate.text()) : ends_with(text, candidate.text());
  };
  if (!bound.get(0)->is_sequence(SequenceType::kTuple)) {
    if (bound.get(0)->is_undefined()) bound.get(0)->raise_undefined();
    return Value::boolean(matches(*bound.get(0)));
  }
  for (const Value& candidate : bound.get(0)->sequence_object().items) {
    budget.scan(64);
    if (matches(candidate)) return Value::boolean(true);
  }
  return Value::boolean(false);
}

Value method_startswith(Interpreter& in, const Value& self, const Args& args) {
  return affix("startswith", self, args, true, in.budget());
}
Value method_endswith(Interpreter& in, const Value& self, const Args& args) {
  return affix("endswith", self, args, false, in.budget());
}

Value method_split(Interpreter& in, const Value& self, const Args& args) {
  const BoundArgs bound("split", args, {"sep", "maxsplit"});
  const int64_t limit = bound.integer(1, -1);
  std::vector<std::string_view> pieces;
  if (bound.get_some(0) == nullptr) {
    pieces = split_space(self.text(), limit, in.budget());
  } else {
    pieces = split_text(self.text(), bound.text(0), limit, in.budget());
  }
  return string_list(self, pieces, in.budget());
}

Value method_rsplit(Interpreter& in, const Value& self, const Args& args) {
  const BoundArgs bound("rsplit", args, {"sep", "maxsplit"});
  const int64_t limit = bound.integer(1, -1);
  // Everything is split, then what is beyond the limit is put together again.
  const bool spaces = bound.get_some(0) == nullptr;
  std::vector<std::string_view> pieces =
      spaces ? split_space(self.text(), -1, in.budget())
             : split_text(self.text(), bound.text(0), -1, in.budget());
  if (limit >= 0 && pieces.size() > static_cast<size_t>(limit) + 1) {
    const size_t num_joined = pieces.size() - static_cast<size_t>(limit);
    const char* begin = spaces ? pieces[0].data() : self.text().data();
    const std::string_view tail = pieces[num_joined - 1];
    const std::string_view head(begin, static_cast<size_t>(tail.data() + tail.size() - begin));
    pieces.erase(pieces.begin(), pieces.begin() + static_cast<int64_t>(num_joined - 1));
    pieces[0] = head;
  }
  return string_list(self, pieces, in.budget());
}

Value method_splitlines(Interpreter& in, const Value& self, const Args& args) {
  const BoundArgs bound("splitlines", args, {"keepends"});
  return string_list(self, split_lines(self.text(), bound.truthy(0, false), in.budget()),
                     in.budget());
}

Value method_replace(Interpreter& in, const Value& self, const Args& args) {
  const BoundArgs bound("replace", args, {"old", "new", "count"}, 2);
  const std::string fresh =
      self.is_markup() && !bound.get(1)->is_markup() ? html_escape(bound.text(1)) : bound.text(1);
  return same_kind(
      self, replace_text(self.text(), bound.text(0), fresh, bound.integer(2, -1), in.budget()));
}

Value method_join(Interpreter& in, const Value& self, const Args& args) {
  const BoundArgs bound("join", args, {"iterable"}, 1);
  std::string out;
  size_t k = 0;
  for (const Value& item : iterate(*bound.get(0), in.budget())) {
    if (!item.is_string()) {
      raise_type_error(
          str("sequence item ", k, ": expected str instance, ", type_name(item), " found"));
    }
    in.budget().produce(item.text().size() + self.text().size());
    if (k++ > 0) out += self.text();
    out += self.is_markup() && !item.is_markup() ? html_escape(item.text()) : item.text();
  }
  return same_kind(self, std::move(out));
}

int64_t find_in(const char* name, const Value& self, const Args& args, bool last, Budget& budget) {
  const BoundArgs bound(name, args, {"sub", "start", "end"}, 1);
  const std::string_view text = subrange(self, bound, 1, budget);
  const std::string& sub = bound.text(0);
  budget.scan(text.size() * 8);
  if (text.data() == nullptr) return -1;
  const size_t found = last ? rfind_text(text, sub) : find_text(text, sub);
  if (found == std::string_view::npos) return -1;
  const auto bytes = static_cast<size_t>(text.data() - self.text().data()) + found;
  return count_code_points(std::string_view(self.text()).substr(0, bytes));
}

Value method_find(Interpreter& in, const Value& self, const Args& args) {
  return Value::integer(find_in("find", self, args, false, in.budget()));
}
Value method_rfind(Interpreter& in, const Value& self, const Args& args) {
  return Value::integer(find_in("rfind", self, args, true, in.budget()));
}

Value found_index(int64_t index) {
  if (index < 0) raise(ErrorKind::kValueError, "substring not found");
  return Value::integer(index);
}
Value method_index(Interpreter& in, const Value& self, const Args& args) {
  return found_index(find_in("index", self, args, false, in.budget()));
}
Value method_rindex(Interpreter& in, const Value& self, const Args& args) {
  return found_index(find_in("rindex", self, args, true, in.budget()));
}

Value method_count(Interpreter& in, const Value& self, const Args& args) {
  const BoundArgs bound("count", args, {"sub", "start", "end"}, 1);
  const std::string_view text = subrange(self, bound, 1, in.budget());
  const std::string& sub = bound.text(0);
  in.budget().scan(text.size() * 8);
  if (sub.empty()) return Value::integer(count_code_points(text) + 1);
  return Value::integer(static_cast<int64_t>(count_occurrences(text, sub)));
}

Value partition_at(const Value& self, size_t at, size_t size, bool last) {
  const std::string& text = self.text();
  if (at == std::string::npos) {
    const Value empty = same_kind(self, "");
    return last ? Value::tuple({empty, empty, self}) : Value::tuple({self, empty, empty});
  }
  return Value::tuple({same_kind(self, text.substr(0, at)), same_kind(self, text.substr(at, size)),
                       same_kind(self, text.substr(at + size))});
}

Value partition(const char* name, Interpreter& in, const Value& self, const Args& args, bool last) {
  const BoundArgs bound(name, args, {"sep"}, 1);
  const std::string& sep = bound.text(0);
  if (sep.empty()) raise(ErrorKind::kValueError, "empty separator");
  in.budget().produce(self.text().size() * 2);
  const size_t at = last ? rfind_text(self.text(), sep) : find_text(self.text(), sep);
  return partition_at(self, at, sep.size(), last);
}
Value method_partition(Interpreter& in, const Value& self, const Args& args) {
  return partition("partition", in, self, args, false);
}
Value method_rpartition(Interpreter& in, const Value& self, const Args& args) {
  return partition("rpartition", in, self, args, true);
}

Value method_removeprefix(Interpreter& in, const Value& self, const Args& args) {
  const BoundArgs bound("removeprefix", args, {"prefix"}, 1);
  in.budget().produce(self.text().size());
  const std::string& prefix = bound.text(0);
  return same_kind(
      self, starts_with(self.text(), prefix) ? self.text().substr(prefix.size()) : self.text());
}
Value method_removesuffix(Interpreter& in, const Value& self, const Args& args) {
  const BoundArgs bound("removesuffix", args, {"suffix"}, 1);
  in.budget().produce(self.text().size());
  const std::string& text = self.text();
  const std::string& suffix = bound.text(0);
  return same_kind(self,
                   ends_with(text, suffix) ? text.substr(0, text.size() - suffix.size()) : text);
}

enum class Align { kLeft, kRight, kCenter };

Value justify(const char* name, Interpreter& in, const Value& self, const Args& args, Align align) {
  const BoundArgs bound(name, args, {"width", "fillchar"}, 1);
  const std::string fill = bound.get(1) == nullptr ? " " : bound.text(1);
  if (count_code_points(fill) != 1) {
    raise_type_error("The fill character must be exactly one character long");
  }
  const int64_t padding = bound.integer(0, 0) - self.string_object().length;
  if (padding <= 0) return self;
  // Python gives the odd cell of center() to the left when the width is odd.
  const int64_t left = align == Align::kLeft    ? 0
                       : align == Align::kRight ? padding
                                                : padding / 2 + (padding & bound.integer(0, 0) & 1);
  return same_kind(self, repeat_text(fill, left, in.budget()) + self.text() +
                             repeat_text(fill, padding - left, in.budget()));
}
Value method_ljust(Interpreter& in, const Value& self, const Args& args) {
  return justify("ljust", in, self, args, Align::kLeft);
}
Value method_rjust(Interpreter& in, const Value& self, const Args& args) {
  return justify("rjust", in, self, args, Align::kRight);
}
Value method_center(Interpreter& in, const Value& self, const Args& args) {
  return justify("center", in, self, args, Align::kCenter);
}

Value method_zfill(Interpreter& in, const Value& self, const Args& args) {
  const BoundArgs bound("zfill", args, {"width"}, 1);
  const int64_t padding = bound.integer(0, 0) - self.string_object().length;
  if (padding <= 0) return self;
  const std::string& text = self.text();
  const bool sign = !text.empty() && (text[0] == '-' || text[0] == '+');
  return same_kind(self, text.substr(0, sign ? 1 : 0) + repeat_text("0", padding, in.budget()) +
                             text.substr(sign ? 1 : 0));
}

Value method_format(Interpreter& in, const Value& self, const Args& args) {
  return same_kind(self, format_braces(self.text(), args, in.budget()));
}

template <bool (*kIs)(char32_t)>
Value method_all(Interpreter& in, const Value& self, const Args&) {
  in.budget().scan(self.text().size() * 16);
  const std::u32string points = to_code_points(self.text());
  return Value::boolean(!points.empty() && std::all_of(points.begin(), points.end(), kIs));
}

bool is_alphanumeric(char32_t c) { return is_alpha(c) || is_digit(c); }

Value method_isascii(Interpreter&, const Value& self, const Args&) {
  return Value::boolean(self.string_object().ascii());
}

// isupper, islower: some cased character, and none of the other case.
template <bool (*kWanted)(char32_t), bool (*kOther)(char32_t)>
Value method_case(Interpreter& in, const Value& self, const Args&) {
  in.budget().scan(self.text().size() * 16);
  const std::u32string points = to_code_points(self.text());
  return Value::boolean(std::any_of(points.begin(), points.end(), kWanted) &&
                        std::none_of(points.begin(), points.end(), kOther));
}

constexpr auto kMethods = std::to_array<std::pair<std::string_view, NativeFunction>>({
    {"capitalize", method_map<capitalize>},
    {"casefold", method_map<to_lower>},
    {"center", method_center},
    {"count", method_count},
    {"endswith", method_endswith},
    {"find", method_find},
    {"format", method_format},
    {"index", method_index},
    {"isalnum", method_all<is_alphanumeric>},
    {"isalpha", method_all<is_alpha>},
    {"isascii", method_isascii},
    {"isdecimal", method_all<is_digit>},
    {"isdigit", method_all<is_digit>},
    {"islower", method_case<is_lower, is_upper>},
    {"isnumeric", method_all<is_digit>},
    {"isspace", method_all<is_space>},
    {"isupper", method_case<is_upper, is_lower>},
    {"join", method_join},
    {"ljust", method_ljust},
    {"lower", method_map<to_lower>},
    {"lstrip", method_lstrip},
    {"partition", method_partition},
    {"removeprefix", method_removeprefix},
    {"removesuffix", method_removesuffix},
    {"replace", method_replace},
    {"rfind", method_rfind},
    {"rindex", method_rindex},
    {"rjust", method_rjust},
    {"rpartition", method_rpartition},
    {"rsplit", method_rsplit},
    {"rstrip", method_rstrip},
    {"split", method_split},
    {"splitlines", method_splitlines},
    {"startswith", method_startswith},
    {"strip", method_strip},
    {"swapcase", method_map<swap_case>},
    {"title", method_map<title>},
    {"upper", method_map<to_upper>},
    {"zfill", method_zfill},
});

}  // namespace

NativeFunction find_string_method(const std::string& name) {
  for (const auto& [candidate, method] : kMethods) {
    if (candidate == name) return method;
  }
  return nullptr;
}

}  // namespace slipstream::jinja
