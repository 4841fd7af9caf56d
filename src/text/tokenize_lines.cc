#include "text/tokenize_lines.h"

#include "base/json.h"
#include "base/strings.h"

namespace slipstream {
namespace {

// Ids take more room as text than the longest text they stand for.
constexpr JsonLimits kLineLimits = {.max_bytes = 512u << 20, .max_depth = 2};

}  // namespace

Result<std::string> tokenize_line(const Tokenizer& tokenizer, std::string_view json_line,
                                  EncodeOptions options) {
  SLIPSTREAM_ASSIGN_OR_RETURN(const Json value, parse_json(json_line, "input line", kLineLimits));
  if (!value.is_string()) {
    return bad_usage("input line: a JSON string is expected, such as \"Hello\"");
  }
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                              tokenizer.encode(value.get_ref<const std::string&>(), options));
  std::string out = "[";
  for (const int32_t id : ids) {
    if (out.size() > 1) out += ",";
    out += std::to_string(id);
  }
  return out + "]";
}

Result<std::string> detokenize_line(const Tokenizer& tokenizer, std::string_view json_line,
                                    DecodeOptions options) {
  SLIPSTREAM_ASSIGN_OR_RETURN(const Json value, parse_json(json_line, "input line", kLineLimits));
  if (!value.is_array()) {
    return bad_usage("input line: a JSON array of token ids is expected, such as [1,2,3]");
  }
  std::vector<int32_t> ids;
  ids.reserve(value.size());
  for (const Json& item : value) {
    const bool in_range = item.is_number_integer() && item >= 0 && item < tokenizer.vocab_size();
    if (!in_range) {
      return bad_usage(str("input line: ", quote(dump_json(item)), " is no token id, ids are 0 to ",
                           tokenizer.vocab_size() - 1));
    }
    ids.push_back(item.get<int32_t>());
  }
  return dump_json(Json(tokenizer.decode(ids, options)));
}

}  // namespace slipstream
