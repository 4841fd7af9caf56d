#include "server/openapi.h"

#include <array>
#include <utility>

#include "base/strings.h"
#include "server/server_context.h"

namespace slipstream {
namespace {

struct EndpointDoc {
  const char* method;
  const char* path;
  const char* summary;
  const char* request_schema;  // name under components.schemas; empty: no body, or any object
  const char* answer;          // its media type
  bool needs_key;
  bool streams = false;
};

constexpr const char* kJson = "application/json";

constexpr std::array kEndpoints = {
    EndpointDoc{"post", "/v1/chat/completions", "An answer to a conversation, streamed or whole.",
                "ChatCompletionRequest", kJson, true, true},
    EndpointDoc{"post", "/v1/completions", "Continues one or several raw prompts.",
                "CompletionRequest", kJson, true, true},
    EndpointDoc{"post", "/v1/responses", "OpenAI's Responses API, without stored state.",
                "ResponseRequest", kJson, true, true},
    EndpointDoc{"post", "/v1/messages", "Anthropic's Messages API.", "MessageRequest", kJson, true,
                true},
    EndpointDoc{"post", "/v1/messages/count_tokens", "How many tokens such a request has.",
                "CountTokensRequest", kJson, true},
    EndpointDoc{"get", "/v1/models", "The served models.", "", kJson, true},
    EndpointDoc{"get", "/v1/models/{id}", "One served model.", "", kJson, true},
    EndpointDoc{"post", "/tokenize",
                "Token ids of `prompt`, of `messages`, or (llama.cpp's shape) of `content`.",
                "TokenizeRequest", kJson, true},
    EndpointDoc{"post", "/detokenize", "The text of `tokens`.", "DetokenizeRequest", kJson, true},
    EndpointDoc{"post", "/apply-template", "The prompt text that `messages` become.",
                "ApplyTemplateRequest", kJson, true},
    EndpointDoc{"get", "/tokenizer_info", "Special tokens and the chat template.", "", kJson, true},
    EndpointDoc{"get", "/usage",
                "What the caller's key used between `from` and `to` (Unix seconds or dates), with "
                "its price.",
                "", kJson, true},
    EndpointDoc{"get", "/metrics", "Prometheus text: vLLM's names, and ours as slipstream:*.", "",
                "text/plain", true},
    EndpointDoc{"get", "/openapi.json", "This description.", "", kJson, true},
    EndpointDoc{"get", "/version", "The server's version.", "", kJson, true},
    EndpointDoc{"get", "/load", "Requests that are not finished.", "", kJson, true},
    EndpointDoc{"get", "/health", "200 when requests are served, else 503.", "", kJson, false},
    EndpointDoc{"get", "/readyz", "The same.", "", kJson, false},
    EndpointDoc{"get", "/livez", "200 unless the engine's step is stuck.", "", kJson, false},
    EndpointDoc{"get", "/ping", "The same.", "", kJson, false},
};

struct ErrorDoc {
  const char* status;
  const char* type;
  const char* meaning;
};

constexpr std::array kErrors = {
    ErrorDoc{"400", "invalid_request_error",
             "The request is wrong; `param` names the field. Codes: `context_length_exceeded`, "
             "`template_error`, `unsupported_parameter`."},
    ErrorDoc{"401", "authentication_error", "No key, or none that is known."},
    ErrorDoc{"404", "not_found_error", "No such route, or code `model_not_found`."},
    ErrorDoc{"405", "invalid_request_error", "The route has other methods: see `Allow`."},
    ErrorDoc{"408", "invalid_request_error", "The request came too slowly."},
    ErrorDoc{"413", "invalid_request_error", "Body or prompt too large."},
    ErrorDoc{"414, 431", "invalid_request_error", "URL or headers too large."},
    ErrorDoc{"415", "invalid_request_error", "The body is not JSON, or it is compressed."},
    ErrorDoc{"429", "rate_limit_error",
             "A rate of the key or the queue is exhausted; `Retry-After` says when to come back."},
    ErrorDoc{"500", "server_error", "This request failed; others go on."},
    ErrorDoc{"503", "service_unavailable", "Loading or draining; `Retry-After`."},
    ErrorDoc{"504", "timeout_error", "The deadline passed before the first byte."},
};

struct LimitDoc {
  const char* what;
  int64_t value;
};

Json object_schema(Json properties) {
  return Json{{"type", "object"}, {"properties", std::move(properties)}};
}

Json described(const char* type, const char* text) {
  return Json{{"type", type}, {"description", text}};
}

Json schemas(const ParamTable& table) {
  const Json ids = {{"type", "array"}, {"items", {{"type", "integer"}}}};
  Json out = Json::object();
  out["ChatCompletionRequest"] = table.schema(kChatApi);
  out["CompletionRequest"] = table.schema(kCompletionsApi);
  out["ResponseRequest"] = table.schema(kResponsesApi);
  out["MessageRequest"] = table.schema(kMessagesApi);
  out["CountTokensRequest"] = table.schema(kCountTokensApi);
  out["TokenizeRequest"] = object_schema(
      {{"prompt", described("string", "Text to tokenise.")},
       {"messages", described("array", "Or messages, put through the chat template.")},
       {"content", described("string", "Or text, answered in llama.cpp's shape.")},
       {"add_special_tokens", described("boolean", "bos and eos around `prompt`.")},
       {"return_token_strs", described("boolean", "Add the tokens' spellings.")},
       {"add_special", described("boolean", "bos and eos around `content`.")},
       {"parse_special", described("boolean", "Special tokens in `content` count as such.")},
       {"with_pieces", described("boolean", "Tokens of `content` with their text.")}});
  out["DetokenizeRequest"] = object_schema({{"tokens", ids}});
  out["ApplyTemplateRequest"] = object_schema(
      {{"messages", described("array", "As in chat completions.")},
       {"add_generation_prompt", described("boolean", "Open the answer's turn.")},
       {"continue_final_message", described("boolean", "Leave the last turn open.")}});
  out["Error"] =
      object_schema({{"error", object_schema({{"message", {{"type", "string"}}},
                                              {"type", {{"type", "string"}}},
                                              {"param", {{"type", {"string", "null"}}}},
                                              {"code", {{"type", {"string", "null"}}}}})}});
  return out;
}

Json content_of(const char* media_type, Json schema) {
  Json content = Json::object();
  content[media_type] = Json{{"schema", std::move(schema)}};
  return content;
}

Json reference(const char* schema_name) {
  return Json{{"$ref", str("#/components/schemas/", schema_name)}};
}

Json operation(const EndpointDoc& endpoint) {
  Json out = {{"summary", endpoint.summary}};
  if (std::string_view(endpoint.path).find("{id}") != std::string_view::npos) {
    out["parameters"] = Json::array(
        {{{"name", "id"}, {"in", "path"}, {"required", true}, {"schema", {{"type", "string"}}}}});
  }
  if (*endpoint.request_schema != '\0') {
    out["requestBody"] = Json{{"required", true},
                              {"content", content_of(kJson, reference(endpoint.request_schema))}};
  }
  Json answer = {{"description", "The answer"},
                 {"content", content_of(endpoint.answer, Json::object())}};
  if (endpoint.streams) answer["content"]["text/event-stream"] = Json{{"schema", Json::object()}};
  out["responses"] = Json{
      {"200", std::move(answer)},
      {"default",
       {{"description", "What went wrong"}, {"content", content_of(kJson, reference("Error"))}}}};
  out["security"] = endpoint.needs_key ? Json::array({{{"key", Json::array()}}}) : Json::array();
  return out;
}

std::string limits_markdown(const ServerLimits& limits) {
  const std::array rows = {
      LimitDoc{"bytes of a body", limits.max_body_bytes},
      LimitDoc{"bytes of all headers", limits.max_header_bytes},
      LimitDoc{"bytes of a URL", limits.max_url_bytes},
      LimitDoc{"nesting of JSON", limits.max_json_depth},
      LimitDoc{"values in a body", limits.max_json_values},
      LimitDoc{"`n`", limits.max_n},
      LimitDoc{"prompts of one completions call", limits.max_prompts},
      LimitDoc{"answers of one call (prompts × `n`)", limits.max_choices},
      LimitDoc{"stop strings", limits.max_stop_strings},
      LimitDoc{"bytes of a stop string", limits.max_stop_bytes},
      LimitDoc{"entries of `logit_bias`", limits.max_logit_bias},
      LimitDoc{"messages", limits.max_messages},
      LimitDoc{"bytes of a prompt", limits.max_prompt_bytes},
      LimitDoc{"unsent bytes of one response", limits.max_unsent_bytes},
      LimitDoc{"connections", limits.max_connections},
      LimitDoc{"milliseconds of a request", limits.max_request_ms},
      LimitDoc{"milliseconds to send a head, and then a body", limits.read_timeout_ms},
      LimitDoc{"milliseconds a connection may idle", limits.idle_timeout_ms},
      LimitDoc{"milliseconds between keep-alive comments of a stream", limits.ping_interval_ms},
  };
  std::string out = "| limit | default |\n|---|---|\n";
  for (const LimitDoc& row : rows) out += str("| ", row.what, " | ", row.value, " |\n");
  return out;
}

constexpr const char* kIntroduction =
    "# HTTP API\n\n"
    "`slipstream openapi --markdown` writes this page from the server's own tables; the same "
    "tables "
    "check requests and\nanswer `GET /openapi.json`.\n\n"
    "Bodies are JSON objects in UTF-8. **null is the same as absent, in every field.** Fields of "
    "the "
    "wrong type are refused\nwith status 400 and `param`; fields that no table names are ignored "
    "and "
    "counted in `/metrics`. U+0000 in a string is a\ncharacter like any other; lone surrogates are "
    "refused.\n\n"
    "With keys set, send `Authorization: Bearer KEY` or `x-api-key: KEY`.\n\n";

constexpr const char* kStreaming =
    "## Streams\n\n"
    "With `\"stream\": true` the answer is `text/event-stream`: lines `data: {json}`, a blank line "
    "after each, and\n`data: [DONE]` at the end. Status and headers are sent with the first token, "
    "so "
    "what fails before has its own status.\nWhile nothing else is sent, `: ping` comments keep the "
    "connection open. Each choice ends with exactly one\n`finish_reason` (`stop` or `length`). A "
    "failure after the first byte is an event `data: {\"error\": …}` and then\n`data: [DONE]`. "
    "Text "
    "never splits a character, and never shows part of a stop string. Closing the connection "
    "cancels "
    "the\nrequest within a step of the engine.\n\n";

constexpr const char* kMessages =
    "Text parts of a message are joined by line feeds. Special tokens that a message spells are "
    "ordinary text: only the\ntemplate writes control tokens. `developer` is shown to the template "
    "as "
    "`system`. A template that refuses the messages\ngives code `template_error`.\n\n";

constexpr const char* kResponsesNotes =
    "Nothing is stored: `store` is answered with false, and every request brings its conversation. "
    "`instructions` are the\nsystem message; a system message that opens `input` joins them. Text "
    "parts and special tokens are as in chat\ncompletions; `reasoning` items are left out, other "
    "items and parts that are not text are refused.\n\n"
    "Streams are OpenAI's typed events, each with `event:`, `type` and `sequence_number`, without "
    "`[DONE]`. An answer that\nreaches its longest length ends with `response.incomplete`. A "
    "failure after the first byte is `response.failed` and then\nan event `error`.\n\n";

constexpr const char* kMessagesNotes =
    "`usage.input_tokens` counts what was computed and `cache_read_input_tokens` what the prefix "
    "cache had: the prompt is\ntheir sum, which is what `count_tokens` gives. Any "
    "`anthropic-version` will do.\n\n"
    "Streams are Anthropic's events. Errors of these routes are `{\"type\": \"error\", "
    "\"error\": {\"type\", \"message\"}, \"request_id\"}`,\nwith the statuses below; after the "
    "first byte, an event `error`.\n\n";

constexpr const char* kHeaders =
    "## Headers\n\n"
    "| header | meaning |\n|---|---|\n"
    "| `x-request-id` | Sent: a label for the log, echoed when it is 1 to 128 of `A-Za-z0-9._-`. "
    "Answered: always. |\n"
    "| `x-request-timeout-ms` | Sent: the deadline of this request, 1 to 86400000, at most the "
    "server's own. |\n"
    "| `x-slipstream-seed` | Answered: the seed of a call with one answer. |\n"
    "| `x-ratelimit-{limit,remaining,reset}-{requests,tokens}` | Answered: where a rate is "
    "limited. "
    "|\n"
    "| `retry-after`, `x-should-retry` | Answered: whether and when to try again. |\n\n";

}  // namespace

Json openapi_document(const ParamTable& table) {
  Json paths = Json::object();
  for (const EndpointDoc& endpoint : kEndpoints) {
    paths[endpoint.path][endpoint.method] = operation(endpoint);
  }
  return Json{{"openapi", "3.1.0"},
              {"info",
               {{"title", "Slipstream"},
                {"description", "OpenAI-compatible inference server."},
                {"version", "1"}}},
              {"paths", std::move(paths)},
              {"components",
               {{"schemas", schemas(table)},
                {"securitySchemes", {{"key", {{"type", "http"}, {"scheme", "bearer"}}}}}}}};
}

std::string api_markdown() {
  const ServerLimits limits;
  const ParamTable table(limits);
  std::string out = kIntroduction;
  out += "## Endpoints\n\n| endpoint | does | key |\n|---|---|---|\n";
  for (const EndpointDoc& endpoint : kEndpoints) {
    const std::string method = std::string_view(endpoint.method) == "post" ? "POST" : "GET";
    out += str("| `", method, " ", endpoint.path, "` | ", endpoint.summary, " | ",
               endpoint.needs_key ? "yes" : "no", " |\n");
  }
  out += str("\n## POST /v1/chat/completions\n\n", kMessages, table.markdown(kChatApi),
             "\n## POST /v1/completions\n\n", table.markdown(kCompletionsApi),
             "\n## POST /v1/responses\n\n", kResponsesNotes, table.markdown(kResponsesApi),
             "\n## POST /v1/messages\n\n", kMessagesNotes, table.markdown(kMessagesApi),
             "\n## POST /v1/messages/count_tokens\n\n", table.markdown(kCountTokensApi), "\n",
             kStreaming, kHeaders,
             "## Errors\n\n`{\"error\": {\"message\", \"type\", \"param\", \"code\"}}`\n\n",
             "| status | type | meaning |\n|---|---|---|\n");
  for (const ErrorDoc& error : kErrors) {
    out += str("| ", error.status, " | `", error.type, "` | ", error.meaning, " |\n");
  }
  return out + "\n## Limits\n\n" + limits_markdown(limits);
}

std::vector<Route> openapi_routes(const std::shared_ptr<const ParamTable>& table) {
  Route route;
  route.method = "GET";
  route.path = "/openapi.json";
  route.needs_engine = false;
  const auto document = std::make_shared<const std::string>(dump_json(openapi_document(*table)));
  route.handler = [document](HttpRequest, std::shared_ptr<ResponseWriter> writer) {
    HttpResponse response;
    response.body = *document;
    writer->send(std::move(response));
  };
  return {route};
}

}  // namespace slipstream
