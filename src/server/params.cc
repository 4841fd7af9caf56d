#include "server/params.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>
#include <random>
#include <utility>

#include "base/strings.h"
#include "base/utf8.h"
#include "slipstream/engine.h"

namespace slipstream {
namespace {

constexpr int64_t kDefaultCompletionTokens = 16;
constexpr int64_t kMaxDeadlineMs = 86'400'000;
// About a tenth of a second; one object of 6,000 members.
constexpr int64_t kMaxKeyComparisons = 20'000'000;
constexpr size_t kMaxNamedUnknownFields = 8;

std::optional<ApiError> resolve_max_tokens(ParsedParams& parsed, ApiEndpoint endpoint) {
  if (parsed.max_tokens && parsed.max_completion_tokens &&
      *parsed.max_tokens != *parsed.max_completion_tokens) {
    return invalid_request(str("max_tokens is ", *parsed.max_tokens, " and max_completion_tokens ",
                               *parsed.max_completion_tokens, "; send one of them"),
                           "max_tokens");
  }
  CallSpec& spec = parsed.spec;
  const auto asked =
      parsed.max_completion_tokens ? parsed.max_completion_tokens : parsed.max_tokens;
  spec.asks_max_tokens = asked.has_value();
  if (asked) {
    spec.sampling.max_tokens = asked;
  } else if (endpoint == kCompletionsApi) {
    spec.sampling.max_tokens = std::max(kDefaultCompletionTokens, spec.sampling.min_tokens);
  }
  if (asked && *asked == 0 && !spec.echo && !spec.sampling.prompt_logprobs) {
    return invalid_request(
        "max_tokens is 0, which needs echo or prompt_logprobs; it must be at least 1",
        parsed.max_tokens ? "max_tokens" : "max_completion_tokens");
  }
  if (spec.sampling.max_tokens && spec.sampling.min_tokens > *spec.sampling.max_tokens) {
    return invalid_request(str("min_tokens is ", spec.sampling.min_tokens, ", above max_tokens ",
                               *spec.sampling.max_tokens),
                           "min_tokens");
  }
  return {};
}

std::optional<ApiError> resolve_logprobs(ParsedParams& parsed, ApiEndpoint endpoint) {
  SamplingParams& sampling = parsed.spec.sampling;
  if (endpoint == kChatApi || endpoint == kResponsesApi) {
    if (parsed.top_logprobs && !parsed.wants_logprobs.value_or(endpoint == kResponsesApi)) {
      return invalid_request("top_logprobs needs logprobs to be true", "top_logprobs");
    }
    if (parsed.wants_logprobs.value_or(parsed.top_logprobs.has_value())) {
      sampling.logprobs = parsed.top_logprobs.value_or(0);
    }
  }
  if (parsed.spec.echo) {
    // Scoring without an answer is the engine's prompt_logprobs; so is an echo with logprobs.
    const bool scores_only = sampling.max_tokens == 0;
    if (sampling.logprobs && !sampling.prompt_logprobs) {
      sampling.prompt_logprobs = sampling.logprobs;
    } else if (scores_only && !sampling.prompt_logprobs) {
      sampling.prompt_logprobs = 0;
    }
  }
  return {};
}

std::optional<ApiError> finish(ParsedParams& parsed, ApiEndpoint endpoint) {
  CallSpec& spec = parsed.spec;
  if (parsed.stream_options && !spec.stream) {
    return invalid_request("stream_options needs stream to be true", "stream_options");
  }
  if (parsed.best_of && *parsed.best_of != spec.n) {
    return invalid_request(
        str("best_of is ", *parsed.best_of, " and n is ", spec.n, "; best_of must equal n"),
        "best_of");
  }
  if (spec.prompt.continue_final_message) {
    if (parsed.add_generation_prompt.value_or(false)) {
      return invalid_request("continue_final_message and add_generation_prompt exclude each other",
                             "continue_final_message");
    }
    spec.prompt.add_generation_prompt = false;
  } else if (parsed.add_generation_prompt) {
    spec.prompt.add_generation_prompt = *parsed.add_generation_prompt;
  }
  if (auto error = resolve_max_tokens(parsed, endpoint)) return error;
  return resolve_logprobs(parsed, endpoint);
}

// What a body costs to parse, from its text alone.
struct BodyCost {
  int64_t num_commas = 0;           // about as many as there are values
  int64_t num_key_comparisons = 0;  // objects keep the order of their members and search them
};

// A body nested deeper than `max_depth` is not read to its end: it is refused anyway.
BodyCost cost_of(std::string_view body, int32_t max_depth) {
  BodyCost cost;
  std::vector<int64_t> num_members;  // of the objects and arrays that are open
  bool in_string = false;
  for (size_t at = 0; at < body.size(); ++at) {
    const char c = body[at];
    if (c == '"') {
      in_string = !in_string;
    } else if (in_string) {
      if (c == '\\') ++at;
    } else if (c == ',') {
      ++cost.num_commas;
    } else if (c == '{' || c == '[') {
      num_members.push_back(0);
      if (std::ssize(num_members) > max_depth) break;
    } else if (num_members.empty()) {
      continue;
    } else if (c == '}' || c == ']') {
      num_members.pop_back();
    } else if (c == ':') {
      cost.num_key_comparisons += num_members.back()++;
    }
  }
  return cost;
}

const char* type_name(const Json& schema) {
  const auto type = schema.find("type");
  if (type != schema.end() && type->is_string()) {
    return type->get_ref<const std::string&>().c_str();
  }
  return "";
}

std::string type_text(const Json& schema) {
  if (schema.contains("oneOf")) {
    std::string text;
    for (const Json& option : schema["oneOf"]) {
      if (!text.empty()) text += " or ";
      text += type_text(option);
    }
    return text;
  }
  std::string text = type_name(schema);
  if (text == "array" && schema.contains("items")) text += " of " + type_text(schema["items"]);
  return text.empty() ? "any" : text;
}

std::string bound_text(const Json& bound) {
  return bound.is_number_float() ? str(bound.get<double>()) : dump_json(bound);
}

std::string range_text(const Json& schema) {
  std::string text;
  if (schema.contains("exclusiveMinimum")) text = "> " + bound_text(schema["exclusiveMinimum"]);
  if (schema.contains("minimum")) text = "≥ " + bound_text(schema["minimum"]);
  if (schema.contains("maximum")) {
    text += (text.empty() ? "≤ " : ", ≤ ") + bound_text(schema["maximum"]);
  }
  if (schema.contains("maxItems")) text = "≤ " + bound_text(schema["maxItems"]) + " items";
  if (schema.contains("maxLength")) text = "≤ " + bound_text(schema["maxLength"]) + " bytes";
  return text;
}

}  // namespace

ParamTable::ParamTable(const ServerLimits& limits) : rows_(param_rows(limits)) {
  for (const ParamRow& row : rows_) by_name_.emplace(row.name, &row);
}

const ParamRow* ParamTable::find(std::string_view name, ApiEndpoint endpoint) const {
  const auto [begin, end] = by_name_.equal_range(name);
  for (auto row = begin; row != end; ++row) {
    if ((row->second->endpoints & endpoint) != 0) return row->second;
  }
  return nullptr;
}

ApiResult<ParsedParams> ParamTable::parse(const Json& body, ApiEndpoint endpoint,
                                          const ParamEnv& env) const {
  if (!body.is_object()) {
    return invalid_request(str("the body is ", body.type_name(), "; send a JSON object"));
  }
  ParsedParams parsed;
  parsed.spec.sampling = env.model->default_sampling;
  // A chat template writes bos itself.
  parsed.spec.prompt.add_special_tokens = endpoint == kCompletionsApi;
  for (const auto& [name, value] : body.items()) {
    const ParamRow* row = find(name, endpoint);
    if (row == nullptr) {
      ++parsed.spec.num_unknown_fields;
      if (parsed.unknown_fields.size() < kMaxNamedUnknownFields) {
        parsed.unknown_fields.push_back(name);
      }
      continue;
    }
    if (value.is_null()) continue;
    if (auto error = row->set(parsed, env, value)) {
      if (error->param.empty()) error->param = name;
      return std::move(*error);
    }
  }
  if (auto error = finish(parsed, endpoint)) return std::move(*error);
  return parsed;
}

Json ParamTable::schema(ApiEndpoint endpoint) const {
  Json properties = Json::object();
  for (const ParamRow& row : rows_) {
    if ((row.endpoints & endpoint) == 0) continue;
    Json property = row.schema;
    property["description"] = row.doc;
    property["x-group"] = row.group;
    properties[row.name] = std::move(property);
  }
  Json required = Json::array();
  for (const char* name : {"messages", "prompt", "input"}) {
    if (properties.contains(name)) required.push_back(name);
  }
  if (endpoint == kMessagesApi) required.push_back("max_tokens");
  return Json{{"type", "object"},
              {"properties", std::move(properties)},
              {"required", std::move(required)},
              {"additionalProperties", true}};
}

std::string ParamTable::markdown(ApiEndpoint endpoint) const {
  std::string out = "| field | type | range | default | meaning |\n|---|---|---|---|---|\n";
  for (const ParamRow& row : rows_) {
    if ((row.endpoints & endpoint) == 0) continue;
    const std::string preset =
        row.schema.contains("default") ? "`" + dump_json(row.schema["default"]) + "`" : "";
    out += str("| `", row.name, "` | ", type_text(row.schema), " | ", range_text(row.schema), " | ",
               preset, " | ", row.doc, " |\n");
  }
  return out;
}

const Json* member_of(const Json& object, const char* name) {
  const auto found = object.find(name);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

ApiResult<Json> parse_body(std::string_view body, const ServerLimits& limits) {
  if (body.empty()) return invalid_request("the body is empty; send a JSON object");
  if (!utf8_valid(body)) return invalid_request("the body is not valid UTF-8");
  if (starts_with(body, "\xEF\xBB\xBF")) {
    return invalid_request("the body begins with a byte order mark; send plain UTF-8");
  }
  const BodyCost cost = cost_of(body, limits.max_json_depth);
  if (cost.num_commas > limits.max_json_values) {
    return invalid_request(str("the body holds more than ", limits.max_json_values, " values"));
  }
  if (cost.num_key_comparisons > kMaxKeyComparisons) {
    return invalid_request("the body has objects with too many members");
  }
  JsonLimits json_limits;
  json_limits.max_bytes = static_cast<uint64_t>(limits.max_body_bytes);
  json_limits.max_depth = limits.max_json_depth;
  Result<Json> parsed = parse_json(body, "body", json_limits);
  if (!parsed.ok()) return invalid_request(parsed.status().message());
  return std::move(parsed).value();
}

ApiResult<int64_t> parse_deadline_ms(std::string_view header) {
  if (header.empty()) return int64_t{0};
  int64_t value = 0;
  const auto [end, error] = std::from_chars(header.data(), header.data() + header.size(), value);
  if (error != std::errc() || end != header.data() + header.size() || value < 1 ||
      value > kMaxDeadlineMs) {
    return invalid_request(
        str("x-request-timeout-ms is ", quote(header),
            "; it must be a number of milliseconds between 1 and ", kMaxDeadlineMs),
        "x-request-timeout-ms");
  }
  return value;
}

std::optional<ApiError> check_lengths(const CallSpec& spec, const ParamEnv& env,
                                      const char* prompt_field) {
  const auto num_choices = std::ssize(spec.prompts) * spec.n;
  if (num_choices > env.limits->max_choices) {
    return invalid_request(str(spec.prompts.size(), " prompts with n ", spec.n, " make ",
                               num_choices, " answers; at most ", env.limits->max_choices),
                           "n");
  }
  const int64_t max_len = env.model->max_model_len;
  for (const std::vector<int32_t>& prompt : spec.prompts) {
    const auto num_prompt = std::ssize(prompt);
    const int64_t asked = spec.sampling.max_tokens.value_or(1);
    const int64_t wanted =
        spec.asks_max_tokens ? asked : std::max<int64_t>({1, spec.sampling.min_tokens});
    // Written without a sum, which a huge max_tokens would wrap.
    if (num_prompt <= max_len && wanted <= max_len - num_prompt) continue;
    if (num_prompt < max_len && !spec.asks_max_tokens) {
      return invalid_request(str("min_tokens is ", spec.sampling.min_tokens, "; the prompt of ",
                                 num_prompt, " tokens leaves room for ", max_len - num_prompt),
                             "min_tokens");
    }
    return context_length_exceeded(
        str("this model's context is ", max_len, " tokens; the prompt has ", num_prompt, " and ",
            wanted, " are asked for; shorten the prompt or ask for fewer"),
        num_prompt >= max_len ? prompt_field : "max_tokens");
  }
  return {};
}

std::string new_api_id(std::string_view prefix) {
  static constexpr std::string_view kDigits = "0123456789abcdef";
  std::random_device random;
  std::string id(prefix);
  for (int word = 0; word < 3; ++word) {
    uint32_t bits = random();
    for (int digit = 0; digit < 8; ++digit, bits >>= 4) id += kDigits[bits & 15];
  }
  return id;
}

}  // namespace slipstream
