// ParamTable: the one list of fields a generating endpoint takes. Each row has a name, the
// endpoints it belongs to, a type, a range, a default, a sentence and a setter; parsing, errors,
// /openapi.json and docs/api.md all come from it.
//
// Owns syntax and ranges: after parse() a CallSpec holds only values that are legal on their own
// and with each other. Lengths need the prompt's tokens: check_lengths(). The table is immutable;
// any thread may parse with it.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "server/call.h"
#include "server/errors.h"
#include "server/server_context.h"

namespace slipstream {

// Bits of ParamRow::endpoints.
enum ApiEndpoint : uint32_t {
  kChatApi = 1u << 0,
  kCompletionsApi = 1u << 1,
  kResponsesApi = 1u << 2,
  kMessagesApi = 1u << 3,
  kCountTokensApi = 1u << 4,
  kGenerateApis = kChatApi | kCompletionsApi | kResponsesApi | kMessagesApi,
};

// What ranges depend on.
struct ParamEnv {
  const ServerLimits* limits = nullptr;
  const ModelInfo* model = nullptr;
  const Tokenizer* tokenizer = nullptr;  // null: not loaded
  const std::vector<std::string>* model_names = nullptr;
  bool allow_template_kwargs = false;
};

// What the rows of one body fill in. Pointers point into the body.
struct ParsedParams {
  CallSpec spec;
  const Json* messages = nullptr;
  const Json* prompt = nullptr;
  std::vector<std::string> unknown_fields;  // ignored; at most a few are named

  // Seen as sent, until finish() has looked at them together.
  std::optional<int64_t> max_tokens;
  std::optional<int64_t> max_completion_tokens;
  std::optional<int64_t> best_of;
  std::optional<bool> add_generation_prompt;
  bool stream_options = false;
  std::optional<bool> wants_logprobs;  // chat's boolean
  std::optional<int32_t> top_logprobs;
};

using ParamSetter =
    std::function<std::optional<ApiError>(ParsedParams&, const ParamEnv&, const Json&)>;

struct ParamRow {
  std::string name;
  uint32_t endpoints = 0;
  std::string group;  // "sampling": how pages and the playground arrange them
  Json schema;        // JSON Schema of the value: type, minimum, maximum, default ...
  std::string doc;
  ParamSetter set;  // the value is not null; checks and stores it
};

// Every row, in the order of the documentation.
std::vector<ParamRow> param_rows(const ServerLimits& limits);

class ParamTable {
 public:
  explicit ParamTable(const ServerLimits& limits);

  // `body` is the whole request; the result points into it. Null members count as absent; members
  // of other endpoints and unknown ones are ignored and counted.
  ApiResult<ParsedParams> parse(const Json& body, ApiEndpoint endpoint, const ParamEnv& env) const;

  // The JSON Schema of the endpoint's request object.
  Json schema(ApiEndpoint endpoint) const;
  // A Markdown table of the endpoint's fields.
  std::string markdown(ApiEndpoint endpoint) const;
  const std::vector<ParamRow>& rows() const { return rows_; }

 private:
  const ParamRow* find(std::string_view name, ApiEndpoint endpoint) const;

  std::vector<ParamRow> rows_;
  // One name may have a row per endpoint.
  std::multimap<std::string, const ParamRow*, std::less<>> by_name_;
};

// A member that is there and not null.
const Json* member_of(const Json& object, const char* name);

// The body of a POST as JSON, within the limits; errors are the client's.
ApiResult<Json> parse_body(std::string_view body, const ServerLimits& limits);

// The x-request-timeout-ms header, 0 when it is absent.
ApiResult<int64_t> parse_deadline_ms(std::string_view header);

// What only the prompts' lengths decide: whether they and the answer fit the context, how many
// choices there are. `prompt_field` is what the client calls its prompt, for the error.
std::optional<ApiError> check_lengths(const CallSpec& spec, const ParamEnv& env,
                                      const char* prompt_field);

// Random id in the style of the API: "chatcmpl-3f2a...".
std::string new_api_id(std::string_view prefix);

}  // namespace slipstream
